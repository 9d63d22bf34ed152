"""Runs a recipe stage by stage: train, export, audit, accuracy, bench, summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

import edgeks
from edgeks.atomic_write import write_text
from edgeks.audit import report as audit_report
from edgeks.audit.footprint import footprint
from edgeks.bench import report as bench_report
from edgeks.bench.local import bench
from edgeks.checkpoint import (
    Checkpoint,
    architecture_fingerprint,
    build_architecture,
    load_checkpoint,
    save_checkpoint,
)
from edgeks.errors import CheckpointError
from edgeks.exporter import export
from edgeks.formats.onnx import open_session, run
from edgeks.models import zoo
from edgeks.quant.options import Int8Options
from edgeks.recipe import Recipe
from edgeks.run_folder import RunFolder, Stage
from edgeks.sharing.torch import discover, untied
from edgeks.summary import Summary, summarise
from edgeks.target import Target
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.fit import fit
from edgeks.train.progress import TrainingProgress
from edgeks.train.settings import TrainSettings

MODEL, SUMMARY_JSON, SUMMARY_MD = "model.pt", "summary.json", "summary.md"
CALIBRATION_IMAGES = 128


StageState = Literal["running", "reused", "done"]


class RunProgress(Protocol):
    """Told about a run as it goes."""

    def stage(self, name: str, state: StageState, detail: str) -> None:
        """A stage begins, was found finished, or is finished now; then `detail` says what came of it."""

    def training(self) -> TrainingProgress:
        """Who is told about the training."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What `edgeks train` and the train stage do: an architecture, its config, data and settings."""

    architecture: str
    config: dict[str, Any]
    dataset: Dataset
    settings: TrainSettings


def train_checkpoint(job: TrainJob, out: Path, *, resume: bool, progress: TrainingProgress) -> Checkpoint:
    """Train and write the checkpoint `out`; the state after each epoch lies in `out`.resume until then.

    Raises:
        InputError: architecture, data, settings or paths do not fit.
        CheckFailed: the training diverged.
    """
    last = out.with_name(out.name + ".resume")
    if ":" in job.architecture:
        if job.config:
            raise CheckpointError(
                f"{job.architecture} is called without arguments; config {job.config} has no place to go"
            )
        architecture, config = job.architecture, dict[str, Any]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.settings.seed)
            model = build_architecture(architecture)
    else:
        p = job.dataset.preprocessing
        fitting = {"in_channels": p.channels, "classes": len(p.classes)}  # unless the config says otherwise
        architecture, config = zoo.architecture(job.architecture, {**fitting, **job.config})
        model = zoo.build(architecture, config, seed=job.settings.seed)
    result = fit(model, job.dataset, job.settings, last=last, resume=resume, progress=progress)
    metrics = {key: float(value) for key, value in result.metrics().items() if value is not None}
    checkpoint = Checkpoint(
        model=model,
        architecture=architecture,
        config=config,
        preprocessing=job.dataset.preprocessing,
        metrics=metrics,
        calibration=calibration_images(job.dataset, job.settings.seed),
    )
    save_checkpoint(out, checkpoint)
    last.unlink(missing_ok=True)
    return checkpoint


def calibration_images(dataset: Dataset, seed: int) -> np.typing.NDArray[np.uint8]:
    """A seeded sample of training images (uint8 N×C×H×W) that travels in the checkpoint."""
    count = min(CALIBRATION_IMAGES, len(dataset.train_images))
    chosen = np.random.default_rng(seed).choice(len(dataset.train_images), count, replace=False)
    return dataset.train_images[np.sort(chosen)]


def run_recipe(recipe: Recipe, folder: Path, progress: RunProgress) -> Summary:
    """Run every stage of `recipe` in `folder` that is not finished there, and summarise.

    Raises:
        EdgeksError: a stage failed; what is finished stays, and the next run goes on from there.
    """
    runs = RunFolder(folder)
    with runs.locked():
        return _Run(recipe, runs, load_dataset(recipe.data, recipe.data_size), progress).all_stages()


class _Run:
    """The stages of one recipe in one folder."""

    def __init__(self, recipe: Recipe, runs: RunFolder, dataset: Dataset, progress: RunProgress) -> None:
        self._recipe, self._runs, self._dataset, self._progress = recipe, runs, dataset, progress
        self._data = dataset.fingerprint()
        self._architecture = recipe.architecture
        if ":" in recipe.architecture:
            self._architecture += f" {architecture_fingerprint(recipe.architecture)}"

    def all_stages(self) -> Summary:
        recipe = self._recipe
        self._train()
        arch = recipe.architecture if ":" in recipe.architecture else None
        checkpoint = load_checkpoint(self._runs.path / MODEL, arch=arch)
        shared = bool(discover(checkpoint.model).groups)
        twin = replace(checkpoint, model=untied(checkpoint.model), plan=None) if shared else None
        for precision in recipe.precisions:
            self._export(checkpoint, precision, f"{precision}.onnx")
            if twin is not None:
                self._export(twin, precision, f"unshared_{precision}.onnx")
            self._inspect(precision)
        summary = summarise(recipe, self._runs, checkpoint.metrics, shared)
        self._runs.write_json(SUMMARY_JSON, summary.to_json())
        write_text(self._runs.path / SUMMARY_MD, summary.to_markdown())
        return summary

    def _stage(
        self,
        name: str,
        inputs: dict[str, Any],
        outputs: tuple[str, ...],
        action: Callable[[], None],
        detail: Callable[[], str] = lambda: "",
    ) -> None:
        stage = Stage(name, {"edgeks": edgeks.__version__, **inputs}, outputs, action)
        reused = self._runs.run(stage, starting=lambda: self._progress.stage(name, "running", ""))
        self._progress.stage(name, "reused" if reused else "done", detail())

    def _train(self) -> None:
        recipe = self._recipe
        job = TrainJob(recipe.architecture, recipe.config, self._dataset, recipe.training)
        inputs = {
            "architecture": self._architecture,
            "config": recipe.config,
            "data": self._data,
            "settings": recipe.training.to_dict(),
        }

        def action() -> None:
            train_checkpoint(job, self._runs.path / MODEL, resume=True, progress=self._progress.training())

        self._stage("train", inputs, (MODEL,), action)

    def _export(self, checkpoint: Checkpoint, precision: str, artefact: str) -> None:
        recipe = self._recipe
        inputs = {
            "architecture": self._architecture,
            "model": self._runs.digest(MODEL),
            "target": asdict(recipe.target),
            "form": recipe.form,
            "activations": recipe.activations,
        }

        def action() -> None:
            out = self._runs.path / artefact
            options = Int8Options(form=recipe.form, activations=recipe.activations)
            export(checkpoint, out, recipe.target, int8=precision == "int8", options=options)

        def detail() -> str:
            ledger = self._runs.read_json(f"{artefact}.ledger.json")
            kernels = f"{ledger['kernels_stored']} kernels for {ledger['steps'][-1]['layers']} layers, proven"
            return f"{ledger['file_bytes']:,} bytes; {kernels}; SQNR {ledger['parity']['sqnr_db']:.1f} dB"

        self._stage(f"export {artefact}", inputs, (artefact, f"{artefact}.ledger.json"), action, detail)

    def _inspect(self, precision: str) -> None:
        """What the artefact takes, how right it is, and how long it runs: one JSON file each."""
        recipe, target = self._recipe, self._recipe.target
        artefact = self._runs.path / f"{precision}.onnx"
        inputs = {"artefact": self._runs.digest(artefact.name), "target": asdict(target)}
        runs, warmup = recipe.bench_runs, recipe.bench_warmup

        def measure(what: str, more: dict[str, Any], result: Callable[[], dict[str, Any]]) -> None:
            file = f"{precision}.{what}.json"
            self._stage(
                f"{what} {precision}", {**inputs, **more}, (file,), lambda: self._runs.write_json(file, result())
            )

        measure("footprint", {}, lambda: audit_report.to_json(footprint(artefact, target)))
        measure("accuracy", {"data": self._data}, lambda: _accuracy(artefact, target, self._dataset))
        measure(
            "bench",
            {"runs": runs, "warmup": warmup},
            lambda: bench_report.to_json(bench(artefact, target, runs, warmup)),
        )


def _accuracy(artefact: Path, target: Target, dataset: Dataset) -> dict[str, Any]:
    """Share of the test images that the artefact classifies right, in ONNX Runtime with the target's options."""
    session = open_session(artefact, target.session)
    logits = run(session, dataset.preprocessing.normalise(dataset.test_images))[0]
    right = int((logits.argmax(1) == dataset.test_labels).sum())
    return {"images": len(dataset.test_labels), "right": right, "accuracy": right / len(dataset.test_labels)}
