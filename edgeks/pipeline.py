"""Runs a recipe stage by stage: train, export, audit, accuracy, bench, summary."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

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
    build_architecture,
    load_checkpoint,
    read_training,
    save_checkpoint,
)
from edgeks.errors import CheckpointError, ConfigError, NotResumable, OutputError
from edgeks.exporter import export
from edgeks.models import zoo
from edgeks.quant import is_prepared, observe_ranges, prepare_qat
from edgeks.quant.options import Int8Options
from edgeks.quant.qat import DEFAULT_SCHEME
from edgeks.recipe import Recipe
from edgeks.run_folder import RunFolder, Stage
from edgeks.sharing.torch import discover, untied
from edgeks.summary import Summary, summarise
from edgeks.target import Int8Scheme, Target
from edgeks.train import processes
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.fit import fit
from edgeks.train.loading import told_seldom
from edgeks.train.progress import NoProgress, TrainingProgress
from edgeks.train.resume import ANEW, Fingerprint, check_finished, weights_fingerprint
from edgeks.train.settings import TrainSettings

MODEL, MODEL_QAT, SUMMARY_JSON, SUMMARY_MD = "model.pt", "model_qat.pt", "summary.json", "summary.md"
CALIBRATION_IMAGES = 128
PORTION_BYTES = 1 << 28  # of the test images as float32, that are in memory together
WAYS_OUT = "another -o, or --overwrite"


StageState = Literal["running", "reused", "done"]


class RunProgress(Protocol):
    """Told about a run as it goes."""

    def stage(self, name: str, state: StageState, detail: str) -> None:
        """A stage begins, was found finished, or is finished now; then `detail` says what came of it."""

    def training(self) -> TrainingProgress:
        """Who is told about the training."""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """What `edgeks train` and the train stages do: an architecture and its config, data and settings.

    `start`: a trained checkpoint to go on from; its own architecture and config are taken. `scheme` is what
    quantisation-aware training is for. `teacher`: whose logits are learned too, by `settings.distillation`.
    """

    architecture: str
    config: dict[str, Any]
    dataset: Dataset
    settings: TrainSettings
    start: Checkpoint | None = None
    scheme: Int8Scheme = DEFAULT_SCHEME
    teacher: nn.Module | None = None


def train_checkpoint(job: TrainJob, out: Path, *, resume: bool, progress: TrainingProgress) -> Checkpoint:
    """Train and write the checkpoint `out`; the state after each epoch lies in `out`.resume until then.

    With `resume`, training goes on from that state; where there is none and `out` is what this training ended in
    before, `out` is read and nothing is trained.

    `job.settings.processes` are started here, unless torchrun has started this one (docs/training.md).

    Raises:
        InputError: architecture, data, settings or paths do not fit.
        NotResumable: with `resume`, what is there is damaged or of another training.
        CheckFailed: the training diverged.
    """
    if job.settings.distillation > 0 and job.teacher is None:
        raise ConfigError(f"training: distillation is {job.settings.distillation:g} and there is no teacher; legal: 0")
    if job.settings.processes > 1 and not processes.started_by_torchrun():
        from edgeks.train.launch import launch  # torch's launcher, which few need

        launch(job.settings.processes, partial(_train, job, out, resume), progress)
        return _written(job, out)
    return _train(job, out, resume, progress)


def state_file(out: Path) -> Path:
    """Where the state after each epoch lies, until the checkpoint `out` is written."""
    return out.with_name(out.name + ".resume")


def _train(job: TrainJob, out: Path, resume: bool, progress: TrainingProgress) -> Checkpoint:
    """In this process, alone or as one of those that torchrun started; only the first writes and reports."""
    with processes.joined(job.settings.device):
        return _train_together(job, out, resume, progress if processes.rank() == 0 else NoProgress())


def _train_together(job: TrainJob, out: Path, resume: bool, progress: TrainingProgress) -> Checkpoint:
    last = state_file(out)
    begun = _new_network(job) if job.start is None else _trained_network(job, job.start)
    dataset = replace(job.dataset, preprocessing=begun.preprocessing or job.dataset.preprocessing)
    images = calibration_images(dataset, job.settings.seed)
    model = begun.model
    if job.settings.qat != "off" and not is_prepared(model):
        inputs = torch.from_numpy(dataset.preprocessing.normalise(images))
        model = prepare_qat(model, inputs, job.scheme, ranges=job.settings.qat)
        if job.start is not None:  # an untrained network shows nothing; there the first batch decides
            observe_ranges(model, inputs)
    start = weights_fingerprint(job.start.model) if job.start else ""
    training = _fingerprint(job, replace(begun, model=model), dataset, start)
    checkpoint = replace(begun, model=model, preprocessing=dataset.preprocessing, calibration=images)
    finished = None
    if resume:
        found = _finished(job, out, last, training) if processes.rank() == 0 else None
        finished = processes.from_first(found, processes.chosen_device(job.settings.device))
    if finished is not None:
        weights, metrics = finished
        model.load_state_dict(weights)
        return replace(checkpoint, model=model.eval(), metrics=metrics)
    result = fit(
        model, dataset, job.settings, last=last, resume=resume, progress=progress, teacher=job.teacher, start=start
    )
    metrics = {key: float(value) for key, value in result.metrics().items() if value is not None}
    checkpoint = replace(checkpoint, metrics=metrics)
    if processes.rank() == 0:
        save_checkpoint(out, checkpoint, asdict(training))
        last.unlink(missing_ok=True)
    return checkpoint


def _fingerprint(job: TrainJob, begun: Checkpoint, dataset: Dataset, start: str) -> Fingerprint:
    """That of the training, which tells networks apart by their config, or the user's code, as well."""
    found = Fingerprint.of(begun.model, dataset, job.settings, job.teacher, start)
    code = architecture_fingerprint(job.architecture) if job.start is None and ":" in job.architecture else ""
    named = json.dumps([found.network, begun.architecture, begun.config, code], sort_keys=True, default=str)
    return replace(found, network=hashlib.sha256(named.encode()).hexdigest())


def _finished(
    job: TrainJob, out: Path, last: Path, training: Fingerprint
) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """State dict and metrics of `out`, where this training has ended in it; None: it has yet to.

    Raises:
        NotResumable: something else has written `out`.
    """
    if last.exists() or not out.exists():
        return None
    try:
        written = read_training(out)
    except CheckpointError as error:
        raise NotResumable(f"{error}; choose another -o, or {ANEW}") from error
    check_finished(out, written, training)
    checkpoint = _written(job, out)
    return checkpoint.model.state_dict(), checkpoint.metrics


def _written(job: TrainJob, out: Path) -> Checkpoint:
    name = (job.architecture if job.start is None else job.start.architecture) or ""
    return load_checkpoint(out, arch=name if ":" in name else None)


def _new_network(job: TrainJob) -> Checkpoint:
    if ":" in job.architecture:
        if job.config:
            raise CheckpointError(
                f"{job.architecture} is called without arguments; config {job.config} has no place to go"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.settings.seed)
            return Checkpoint(build_architecture(job.architecture), job.architecture)
    p = job.dataset.preprocessing
    fitting = {"in_channels": p.channels, "classes": len(p.classes)}  # unless the config says otherwise
    architecture, config = zoo.architecture(job.architecture, {**fitting, **job.config})
    return Checkpoint(zoo.build(architecture, config, seed=job.settings.seed), architecture, config)


def _trained_network(job: TrainJob, start: Checkpoint) -> Checkpoint:
    """`start`, when its network takes the data; its own mean and std are kept, for it was trained with them."""
    if start.architecture is None:
        raise CheckpointError("the checkpoint to go on from names no architecture; pass --arch package.module:callable")
    if job.config:
        raise CheckpointError(f"a trained checkpoint has its config; {job.config} has no place to go")
    if start.preprocessing is not None:
        job.dataset.check_fits(start.preprocessing)
    return replace(start, model=copy.deepcopy(start.model))


def calibration_images(dataset: Dataset, seed: int) -> np.typing.NDArray[np.uint8]:
    """A seeded sample of training images (uint8 N×C×H×W) that travels in the checkpoint."""
    count = min(CALIBRATION_IMAGES, len(dataset.train_images))
    chosen = np.random.default_rng(seed).choice(len(dataset.train_images), count, replace=False)
    return dataset.sample(np.sort(chosen))


def run_recipe(recipe: Recipe, folder: Path, progress: RunProgress, *, overwrite: bool = False) -> Summary:
    """Run every stage of `recipe` in `folder` that is not finished there, and summarise.

    A network that was trained there in another way is only trained anew with `overwrite`: then all that was made of it
    is removed first.

    Raises:
        OutputError: the folder holds another training, finished or interrupted; the message says what differs.
        EdgeksError: a stage failed; what is finished stays, and the next run goes on from there.
    """
    runs = RunFolder(folder)
    with runs.locked():
        told = told_seldom(lambda text: progress.stage("data", "running", text))
        dataset = load_dataset(recipe.data, recipe.data_size, told=told)
        return _Run(recipe, runs, dataset, progress, overwrite).all_stages()


def train_recipe(recipe: Recipe, folder: Path, progress: RunProgress, *, overwrite: bool = False) -> Checkpoint:
    """Run the first stage of `recipe` alone, unless it is finished in `folder`; `run_recipe` goes on from there.

    Raises:
        EdgeksError: as `run_recipe`.
    """
    runs = RunFolder(folder)
    with runs.locked():
        dataset = load_dataset(recipe.data, recipe.data_size)
        return _Run(recipe, runs, dataset, progress, overwrite).training_only()


class _Run:
    """The stages of one recipe in one folder."""

    def __init__(
        self, recipe: Recipe, runs: RunFolder, dataset: Dataset, progress: RunProgress, overwrite: bool
    ) -> None:
        self._recipe, self._runs, self._dataset, self._progress = recipe, runs, dataset, progress
        self._overwrite = overwrite
        self._data = dataset.fingerprint()
        self._architecture = recipe.architecture
        if ":" in recipe.architecture:
            self._architecture += f" {architecture_fingerprint(recipe.architecture)}"

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
        inputs = {
            "architecture": self._architecture,
            "config": recipe.config,
            "data": self._data,
            "settings": settings.deciding(),
        }
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

        # Not of edgeks' version: a network stays trained when edgeks is a newer one.
        stage = Stage("train" if start is None else "train with fake quantisation", inputs, (model,), action)
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
            "architecture": self._architecture,
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
