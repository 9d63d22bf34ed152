"""Runs a recipe stage by stage: train, export, audit, accuracy, bench, summary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import edgeks
from edgeks.artefact import input_type, run_artefact
from edgeks.atomic_write import write_text
from edgeks.audit import footprint_json
from edgeks.audit.footprint import footprint
from edgeks.bench import record
from edgeks.bench.local import LocalMachine
from edgeks.bench.measure import measure as measure_latency
from edgeks.bench.measurement import Effort, Job
from edgeks.checkpoint import (
    Checkpoint,
    architecture_fingerprint,
    load_checkpoint,
)
from edgeks.errors import NotResumable, OutputError
from edgeks.exporter import export
from edgeks.quant import is_prepared
from edgeks.quant.options import Int8Options
from edgeks.recipe import Recipe
from edgeks.run_folder import RunFolder, Stage
from edgeks.sharing.torch import discover, untied
from edgeks.summary import Summary, summarise
from edgeks.target import Target
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.loading import told_seldom
from edgeks.train.progress import TrainingProgress
from edgeks.train.settings import TrainSettings
from edgeks.train_job import TrainJob, train_checkpoint

MODEL, MODEL_QAT, SUMMARY_JSON, SUMMARY_MD = "model.pt", "model_qat.pt", "summary.json", "summary.md"
PORTION_BYTES = 1 << 28  # of the test images as float32, that are in memory together
WAYS_OUT = "another -o, or --overwrite"
TRAIN = "train"

StageState = Literal["running", "reused", "done"]


class RunProgress(Protocol):
    """Told about a run as it goes."""

    def stage(self, name: str, state: StageState, detail: str) -> None:
        """A stage begins, was found finished, or is finished now; then `detail` says what came of it."""

    def training(self) -> TrainingProgress:
        """Who is told about the training."""


def run_recipe(
    recipe: Recipe,
    folder: Path,
    progress: RunProgress,
    *,
    dataset: Dataset | None = None,
    overwrite: bool = False,
) -> Summary:
    """Run every stage of `recipe` in `folder` that is not finished there, and summarise.

    `dataset`: the recipe's data, where they are loaded already. A network that was trained there in another way is only
    trained anew with `overwrite`: then all that was made of it is removed first.

    Raises:
        OutputError: the folder holds another training, finished or interrupted; the message says what differs.
        EdgeksError: a stage failed; what is finished stays, and the next run goes on from there.
    """
    runs = RunFolder(folder)
    with runs.locked():
        told = told_seldom(lambda text: progress.stage("data", "running", text))
        dataset = dataset or load_dataset(recipe.data, recipe.data_size, told=told)
        return _Run(recipe, runs, dataset, progress, overwrite).all_stages()


def train_recipe(
    recipe: Recipe,
    folder: Path,
    progress: RunProgress,
    *,
    dataset: Dataset | None = None,
    overwrite: bool = False,
) -> Checkpoint:
    """Run the first stage of `recipe` alone, unless it is finished in `folder`; `run_recipe` goes on from there.

    Raises:
        EdgeksError: as `run_recipe`.
    """
    runs = RunFolder(folder)
    with runs.locked():
        dataset = dataset or load_dataset(recipe.data, recipe.data_size)
        return _Run(recipe, runs, dataset, progress, overwrite).training_only()


def other_training(recipe: Recipe, folder: Path, data: str) -> str:
    """How the network that was trained in `folder` differs from the recipe's; empty: not at all, or there is none.

    `data`: fingerprint of the recipe's data.
    """
    if not folder.is_dir():
        return ""
    return RunFolder(folder).difference(Stage(TRAIN, training_inputs(recipe, data), (MODEL,), lambda: None))


def training_inputs(recipe: Recipe, data: str) -> dict[str, Any]:
    """All that the trained network depends on: not speed, nor edgeks' version (a network stays trained)."""
    architecture = recipe.architecture
    if ":" in architecture:
        architecture += f" {architecture_fingerprint(architecture)}"
    settings = recipe.training.deciding()
    return {"architecture": architecture, "config": recipe.config, "data": data, "settings": settings}


class _Run:
    """The stages of one recipe in one folder."""

    def __init__(
        self, recipe: Recipe, runs: RunFolder, dataset: Dataset, progress: RunProgress, overwrite: bool
    ) -> None:
        self._recipe, self._runs, self._dataset, self._progress = recipe, runs, dataset, progress
        self._overwrite = overwrite
        self._data = dataset.fingerprint()
        self._training = training_inputs(recipe, self._data)

    def training_only(self) -> Checkpoint:
        self._train(MODEL, self._recipe.training)
        return self._load(MODEL)

    def all_stages(self) -> Summary:
        recipe = self._recipe
        checkpoint = self.training_only()
        plan = discover(checkpoint.model)
        shared = bool(plan.groups or plan.banks)
        twin = replace(checkpoint, model=untied(checkpoint.model), plan=None) if shared else None
        for precision in recipe.precisions:
            self._export(checkpoint, precision, MODEL)
            if twin is not None:
                self._export(twin, precision, MODEL, prefix="unshared_")
            self._inspect(precision)
        if recipe.qat is not None:
            self._train(MODEL_QAT, recipe.qat, start=checkpoint)
            self._export(self._load(MODEL_QAT), "int8_qat", MODEL_QAT)
            self._inspect("int8_qat")
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
        self._run(Stage(name, {"edgeks": edgeks.__version__, **inputs}, outputs, action), detail)

    def _run(self, stage: Stage, detail: Callable[[], str] = lambda: "") -> None:
        reused = self._runs.run(stage, starting=lambda: self._progress.stage(stage.name, "running", ""))
        self._progress.stage(stage.name, "reused" if reused else "done", detail())

    def _load(self, model: str) -> Checkpoint:
        arch = self._recipe.architecture if ":" in self._recipe.architecture else None
        return load_checkpoint(self._runs.path / model, arch=arch)

    def _train(self, model: str, settings: TrainSettings, start: Checkpoint | None = None) -> None:
        recipe = self._recipe
        config = recipe.config if start is None else {}
        job = TrainJob(recipe.architecture, config, self._dataset, settings, start, recipe.target.int8)
        inputs = {**self._training, "settings": settings.deciding()}
        if start is not None:
            inputs |= {"start": self._runs.digest(MODEL), "scheme": asdict(recipe.target.int8)}

        def action() -> None:
            out = self._runs.path / model
            try:
                train_checkpoint(job, out, resume=True, progress=self._progress.training())
            except NotResumable as error:
                if not self._overwrite:
                    raise OutputError(f"{str(error).rpartition('; ')[0]}; {WAYS_OUT}") from error
                train_checkpoint(job, out, resume=False, progress=self._progress.training())

        stage = Stage(TRAIN if start is None else "train with fake quantisation", inputs, (model,), action)
        difference = self._runs.difference(stage)
        if difference and not self._overwrite:
            raise OutputError(f"{self._runs.path / model}: was trained with {difference}; {WAYS_OUT}")
        if difference:
            self._runs.discard(stage.name)
            for summary in (SUMMARY_JSON, SUMMARY_MD):
                (self._runs.path / summary).unlink(missing_ok=True)
        self._run(stage)

    def _export(self, checkpoint: Checkpoint, name: str, model: str, prefix: str = "") -> None:
        recipe, artefact = self._recipe, f"{prefix}{name}.{self._recipe.target.format}"
        trained_for_int8 = is_prepared(checkpoint.model)
        inputs = {
            "architecture": self._training["architecture"],
            "model": self._runs.digest(model),
            "target": asdict(recipe.target),
            "form": recipe.form,
            "activations": recipe.activations,
        }
        layers = "unrolled" if prefix else recipe.target.layers  # what is not shared, no loop or cache holds once

        def action() -> None:
            out = self._runs.path / artefact
            activations = "static" if trained_for_int8 else recipe.activations  # what it was trained for
            options = Int8Options(form=recipe.form, activations=activations)
            export(checkpoint, out, recipe.target, int8=name != "fp32", options=options, layers=layers)

        def detail() -> str:
            ledger = self._runs.read_json(f"{artefact}.ledger.json")
            kernels = f"{ledger['kernels_stored']} kernels for {ledger['steps'][-1]['layers']} layers, proven"
            return f"{ledger['file_bytes']:,} bytes; {kernels}; SQNR {ledger['parity']['sqnr_db']:.1f} dB"

        self._stage(f"export {artefact}", inputs, (artefact, f"{artefact}.ledger.json"), action, detail)

    def _inspect(self, name: str) -> None:
        """What the artefact takes, how right it is, and how long it runs: one JSON file each."""
        recipe, target = self._recipe, self._recipe.target
        artefact = self._runs.path / f"{name}.{target.format}"
        inputs = {"artefact": self._runs.digest(artefact.name), "target": asdict(target)}

        def measure(what: str, more: dict[str, Any], result: Callable[[], dict[str, Any]]) -> None:
            file = f"{name}.{what}.json"
            self._stage(f"{what} {name}", {**inputs, **more}, (file,), lambda: self._runs.write_json(file, result()))

        schema = {"schema": footprint_json.SCHEMA}
        measure("footprint", schema, lambda: footprint_json.to_json(footprint(artefact, target)))
        measure("accuracy", {"data": self._data}, lambda: _accuracy(artefact, target, self._dataset))
        job = Job(artefact, target, target.runtime, target.session.threads)
        effort = Effort(processes=1, runs=recipe.bench_runs, seconds=0.0, warmup=recipe.bench_warmup)

        def latency() -> dict[str, Any]:
            return record.to_json(record.make_record([measure_latency(job, LocalMachine(), effort)]))

        measure("bench", {"schema": record.SCHEMA, "effort": asdict(effort)}, latency)


def _accuracy(artefact: Path, target: Target, dataset: Dataset) -> dict[str, Any]:
    """Share of the test images that the artefact classifies right, run with the target's session options."""
    takes_pixels = input_type(artefact) == "uint8"
    right, count = 0, len(dataset.test_labels)
    portion = max(1, PORTION_BYTES // (4 * math.prod(dataset.preprocessing.shape)))
    for start in range(0, count, portion):
        images = dataset.test_images[start : start + portion]
        samples = images if takes_pixels else dataset.preprocessing.normalise(images)
        logits = run_artefact(artefact, target.session, samples)[0]
        right += int((logits.argmax(1) == dataset.test_labels[start : start + portion]).sum())
    return {"images": count, "right": right, "accuracy": right / count}
