"""A training from a network, data and settings to a checkpoint: begun, gone on with, or found finished."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeks.checkpoint import (
    Checkpoint,
    architecture_fingerprint,
    build_architecture,
    load_checkpoint,
    read_training,
    save_checkpoint,
)
from edgeks.errors import CheckpointError, ConfigError, NotResumable
from edgeks.models import zoo
from edgeks.quant import is_prepared, observe_ranges, prepare_qat
from edgeks.quant.qat import DEFAULT_SCHEME
from edgeks.target import Int8Scheme
from edgeks.train import processes
from edgeks.train.dataset import Dataset
from edgeks.train.fit import fit
from edgeks.train.progress import NoProgress, TrainingProgress
from edgeks.train.resume import ANEW, Fingerprint, check_finished, weights_fingerprint
from edgeks.train.settings import TrainSettings

CALIBRATION_IMAGES = 128


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
