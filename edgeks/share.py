"""Checkpoint → checkpoint whose layers are tied by a plan, and, with data, fine-tuned from the original."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.checkpoint import Checkpoint, save_checkpoint
from edgeks.errors import CheckpointError, ConfigError, PlanError
from edgeks.quant import is_prepared
from edgeks.sharing.plan import SharingPlan
from edgeks.sharing.torch import discover, plan_sharing
from edgeks.sharing.tying import GroupFit, tie
from edgeks.train.dataset import Dataset
from edgeks.train.fit import evaluate
from edgeks.train.norm_statistics import measure_norm_statistics
from edgeks.train.progress import NoProgress, TrainingProgress
from edgeks.train.settings import TrainSettings
from edgeks.train_job import TrainJob, train_checkpoint


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Shares 0…1 of the test images. `measured`: tied, with the BN statistics that the tied network has.

    None: the network has no BN; it was not fine-tuned.
    """

    original: float
    tied: float
    measured: float | None
    tuned: float | None


@dataclass(frozen=True, slots=True)
class ShareResult:
    """The shared checkpoint, how well each group's kernel fits, what it cost and what it saved.

    Bytes are those of all kernels and biases, each distinct one once: 4 per number in fp32; in int8 1 per weight, and
    8 (a scale and a bias) per layer and output channel.
    """

    checkpoint: Checkpoint
    init: str
    fits: tuple[GroupFit, ...]
    fp32_bytes: tuple[int, int]
    int8_bytes: tuple[int, int]
    accuracies: Accuracies | None


def share(
    checkpoint: Checkpoint,
    groups: str,
    *,
    init: str = "least_squares",
    tie_bias: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    dataset: Dataset | None = None,
    settings: TrainSettings | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: TrainingProgress | None = None,
    starting: Callable[[str], None] = lambda step: None,
) -> ShareResult:
    """Tie a copy of the checkpoint's layers by `groups` (all, stage, a number, or the path of a plan).

    The shared kernels start by `init`: first, mean or least_squares (`sharing.tying.tie`). With a data set BN's running
    statistics are measured anew, and accuracies along the way. With `settings` the tied network is fine-tuned, and
    learns the original's logits where `settings.distillation` is above 0; the state after each epoch lies in
    `out`.resume until the end, and `resume` goes on from there. The checkpoint is written to `out`. `starting` is told
    of every step that takes a while.

    Raises:
        PlanError: unknown scheme or initialisation, or a plan that does not fit the network.
        CheckpointError: it was trained with fake quantisation, or cannot be fine-tuned.
        DataError: the data are not what the network was trained on.
        ConfigError: fine-tuning without data, or without a place to write to.
        OutputError: `out` cannot be written.
        CheckFailed: the fine-tuning diverged.
    """
    if settings is not None and dataset is None:
        raise ConfigError("fine-tuning needs data: give --data, or tie only, with --epochs 0")
    if settings is not None and out is None:
        raise ConfigError("fine-tuning needs a checkpoint to write: give -o, or only measure, with --epochs 0")
    if is_prepared(checkpoint.model):
        raise CheckpointError(
            "the checkpoint was trained with fake quantisation, whose ranges are its layers' own; share the float "
            "checkpoint, then train the shared one with --qat"
        )
    if dataset is not None:
        if checkpoint.preprocessing is not None:
            dataset.check_fits(checkpoint.preprocessing)
        dataset = replace(dataset, preprocessing=checkpoint.preprocessing or dataset.preprocessing)
    plan = _plan(checkpoint, groups, tie_bias, input_shape or (dataset.preprocessing.shape if dataset else None))
    before = discover(checkpoint.model)
    model = copy.deepcopy(checkpoint.model)
    fits = tie(model, plan, init)  # type: ignore[arg-type]  # tie checks it
    if discover(model) == before:
        raise PlanError(f"groups {groups!r} tie nothing: those layers share a kernel already")
    shared = replace(checkpoint, model=model, plan=discover(model), metrics={})
    accuracies = None
    if dataset is not None:
        shared, accuracies = _with_data(checkpoint, shared, dataset, starting)
    if settings is not None and dataset is not None and out is not None and accuracies is not None:
        starting("fine-tuning")
        job = TrainJob("", {}, dataset, settings, shared, teacher=checkpoint.model)
        shared = train_checkpoint(job, out, resume=resume, progress=progress or NoProgress())
        accuracies = replace(accuracies, tuned=shared.metrics["test_accuracy"])
    elif out is not None:
        save_checkpoint(out, shared)
    after = discover(shared.model)
    return ShareResult(shared, init, fits, (_fp32(before), _fp32(after)), (_int8(before), _int8(after)), accuracies)


def _plan(checkpoint: Checkpoint, groups: str, tie_bias: bool, input_shape: tuple[int, int, int] | None) -> SharingPlan:
    if groups.endswith(".json"):
        try:
            return SharingPlan.from_json(Path(groups).read_text(encoding="utf-8"))
        except PlanError as error:
            raise PlanError(f"{groups}: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise PlanError(f"{groups}: cannot be read as a sharing plan ({reason})") from error
    if input_shape is None and checkpoint.preprocessing:
        input_shape = checkpoint.preprocessing.shape
    example = torch.zeros(1, *input_shape) if input_shape else None
    scheme = int(groups) if re.fullmatch("[0-9]{1,9}", groups) else groups
    return plan_sharing(checkpoint.model, scheme, tie_bias=tie_bias, example_input=example)


def _with_data(
    original: Checkpoint, shared: Checkpoint, dataset: Dataset, starting: Callable[[str], None]
) -> tuple[Checkpoint, Accuracies]:
    """The tied checkpoint with the BN statistics that it has, and the accuracies up to there."""

    def accuracy(what: str, model: nn.Module) -> float:
        starting(f"accuracy {what}")
        return evaluate(model, dataset.test_images, dataset.test_labels, dataset.preprocessing)

    first, tied, measured = accuracy("of the original", original.model), accuracy("tied", shared.model), None
    if any(isinstance(module, _BatchNorm) for module in shared.model.modules()):
        starting("BN statistics of the tied network")
        measure_norm_statistics(shared.model, dataset)
        measured = accuracy("with them", shared.model)
    metrics = {"test_accuracy": tied if measured is None else measured}
    shared = replace(shared, preprocessing=dataset.preprocessing, metrics=metrics)
    return shared, Accuracies(first, tied, measured, None)


def _fp32(plan: SharingPlan) -> int:
    return sum(kernel.stored_bytes for kernel in plan.kernels)


def _int8(plan: SharingPlan) -> int:
    return sum(
        math.prod(kernel.kernel_shape) + 8 * kernel.kernel_shape[0] * len(kernel.layers) for kernel in plan.kernels
    )
