"""One step of training: a batch forward and backward, in parts and over processes, and what its gradient does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, ReduceLROnPlateau

from edgeks.quant.fake_quant import ActivationFakeQuantize
from edgeks.quant.qat import without_ranges
from edgeks.train import average, processes
from edgeks.train.loss import right, training_loss
from edgeks.train.settings import TrainSettings

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one batch over all processes: the mean loss, and the share of its images that were classified right."""

    loss: float
    accuracy: float


class TrainingStep:
    """What a batch does to `model`. `weights` is the network that is evaluated and kept: the model, or its average."""

    def __init__(
        self, model: nn.Module, settings: TrainSettings, teacher: nn.Module | None, iterations: int, example: Tensor
    ) -> None:
        self._model, self._settings, self._teacher = model, settings, teacher
        self._device = next(model.parameters()).device
        self._parallel = _parallel(model, example)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._quantisers = [module for module in model.modules() if isinstance(module, ActivationFakeQuantize)]
        self._optimizer = _optimizer(self._parameters, settings)
        self._schedule = _schedule(self._optimizer, settings, iterations)
        self._scaler = GradScaler(self._device.type, enabled=settings.precision == "fp16")
        self._average = average.averaged(model, settings.ema) if settings.ema > 0 else None

    @property
    def weights(self) -> nn.Module:
        """The network to evaluate and keep."""
        return self._model if self._average is None else self._average.module

    def __call__(self, images: Tensor, labels: Tensor, batch: int) -> Tally:
        """Step on this process's rows (every count-th, from its rank on) of a batch of so many images."""
        self._optimizer.zero_grad(set_to_none=True)
        tally = torch.zeros(2, dtype=torch.float64, device=self._device)
        parts = list(_parts(batch, self._settings.accumulation))
        for number, (rows, size) in enumerate(parts, start=1):
            # DDP averages the gradients of its processes after the last part; `weight` makes that the batch's mean.
            weight = (rows.stop - rows.start) * processes.count() / batch
            for quantiser in self._quantisers:
                quantiser.batch_share = (rows.stop - rows.start) / size
            waits = self._parallel is not None and number < len(parts)
            with self._parallel.no_sync() if waits and self._parallel is not None else nullcontext():
                logits, loss = self._forward(images[rows], labels[rows])
                self._scaler.scale(loss * weight).backward()
            tally[0] += loss.detach() * (rows.stop - rows.start)
            tally[1] += right(logits.detach(), labels[rows])
        loss_sum, right_sum = processes.summed(tally).tolist()
        if math.isfinite(loss_sum):
            self._follow()
        return Tally(loss_sum / batch, right_sum / batch)

    def end_epoch(self, accuracy: float | None, loss: float) -> None:
        """Lower the learning rate where it waits for what an epoch gave."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(loss if accuracy is None else accuracy)

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on, beside the weights."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self._average.state_dict() if self._average is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            RuntimeError, ValueError, KeyError: it is another training's.
        """
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the mean loss of the images."""
        precision = self._settings.precision
        with torch.autocast(self._device.type, TYPES.get(precision), enabled=precision in TYPES):
            taught = None
            if self._teacher is not None:
                with torch.no_grad():
                    taught = self._teacher(images)
            logits = (self._parallel or self._model)(images)
        return logits, training_loss(logits, labels, self._settings, taught)

    def _follow(self) -> None:
        """The gradient is whole: step, and what goes on with each step."""
        if self._settings.clip_norm > 0:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if isinstance(self._schedule, LRScheduler) and not isinstance(self._schedule, ReduceLROnPlateau):
            with warnings.catch_warnings():
                # The loss scaler leaves steps out, the first as a rule; the schedule counts them all the same.
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                self._schedule.step()
        if self._average is not None:
            average.update(self._average, self._model)


def _parts(batch: int, count: int) -> Iterator[tuple[slice, int]]:
    """This process's rows of each part of a batch, and the part's size; a part has two images if the batch has."""
    count = max(1, min(count, batch // 2))
    first, step = processes.rank(), processes.count()
    bounds = [round(batch * part / count) for part in range(count + 1)]
    mine = [len(range(first, bound, step)) for bound in bounds]
    for part in range(count):
        yield slice(mine[part], mine[part + 1]), bounds[part + 1] - bounds[part]


def _parallel(model: nn.Module, example: Tensor) -> DistributedDataParallel | None:
    """`model` with its gradients averaged over the processes; alone None. BN's statistics are synchronised already."""
    if processes.count() == 1:
        return None
    # A 1×1 kernel's channels_last strides are those of a contiguous one as well, and DDP takes the one for the other.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        model, forward_sync_buffers=False, find_unused_parameters=_has_unused(model, example)
    )


def _has_unused(model: nn.Module, example: Tensor) -> bool:
    """Whether a parameter has no say in the logits of `example`: DDP would wait for its gradient."""
    quantisers = [module for module in model.modules() if isinstance(module, ActivationFakeQuantize)]
    steps = {id(parameter) for module in quantisers for parameter in module.parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in steps]
    was_training = model.training
    with without_ranges(model.eval()):
        gradients = torch.autograd.grad(model(example).sum(), parameters, allow_unused=True)
    model.train(was_training)
    return any(gradient is None for gradient in gradients)


def _optimizer(parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay on kernels and matrices only. A shared kernel is one parameter: it is stepped once."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, eps=settings.adam_eps)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, iterations: int
) -> LRScheduler | ReduceLROnPlateau:
    """Stepped after every iteration, of which an epoch has `iterations`; "plateau" after every epoch."""
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, settings.epochs * iterations)
    if settings.schedule == "plateau":
        better: Literal["max", "min"] = "max" if settings.validation > 0 else "min"
        return ReduceLROnPlateau(
            optimizer, better, factor=settings.gamma, patience=settings.patience, threshold=0, eps=0
        )
    stones = [stone * iterations for stone in settings.milestones]
    return MultiStepLR(optimizer, stones, gamma=settings.gamma)
