"""BN whose statistics are those of the whole batch, wherever its images are. torch's SyncBatchNorm refuses CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.train import processes


@contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """Within, every BN of `model` that trains sees the batches of all processes; alone it is torch's own.

    All processes must pass forward and backward together. A process's batch may be empty.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if processes.count() > 1 else []
    for norm in norms:
        norm.forward = MethodType(_forward, norm)  # type: ignore[method-assign]  # a deep copy's is its own
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    """N×C×… → the same; in evaluation mode torch's own."""
    if not norm.training:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)  # type: ignore[no-untyped-call]
    y, mean, variance, seen = _SynchronisedNorm.apply(x, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        momentum = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(norm.num_batches_tracked)
        unbiased = variance * (seen / (seen - 1).clamp(min=1))
        norm.running_mean.lerp_(mean, momentum or 0.0)
        norm.running_var.lerp_(unbiased, momentum or 0.0)
    return y  # type: ignore[no-any-return]


class _SynchronisedNorm(torch.autograd.Function):
    """(x − mean)/√(variance + eps)·γ + β, computed in float32, with mean and biased variance over all processes.

    Returns y of x's type, and mean, variance (C) and the number of values of a channel. The gradients of γ and β are
    this process's share: who averages gradients adds them up.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [0, *range(2, x.dim())]
        wide = x.float()
        mine = x.numel() // x.shape[1]
        mean = wide.sum(axes) / max(mine, 1)
        spread = (wide - _along(mean, x)).square_().sum(axes)
        sent = torch.cat([mean, spread, mean.new_tensor([mine])])
        received = [torch.empty_like(sent) for _ in range(processes.count())]
        dist.all_gather(received, sent)
        channels = x.shape[1]
        means, spreads, counts = torch.stack(received).split([channels, channels, 1], dim=1)  # type: ignore[no-untyped-call]
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = (spreads + counts * (means - mean).square()).sum(0) / total
        inverse = (variance + eps).rsqrt()
        normal = (wide - _along(mean, x)) * _along(inverse, x)
        ctx.save_for_backward(normal, gamma, inverse, total)
        ctx.has_beta = beta is not None
        y = normal
        if gamma is not None:
            y = y * _along(gamma, x)
        if beta is not None:
            y = y + _along(beta, x)
        ctx.mark_non_differentiable(mean, variance, total)
        return y.to(x.dtype), mean, variance, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        normal, gamma, inverse, total = ctx.saved_tensors
        axes = [0, *range(2, normal.dim())]
        wide = gradient.float()
        of_beta, of_gamma = wide.sum(axes), (wide * normal).sum(axes)
        sums = torch.stack([of_beta, of_gamma])
        dist.all_reduce(sums)
        sums /= total
        of_x = (wide - _along(sums[0], normal) - normal * _along(sums[1], normal)) * _along(
            inverse if gamma is None else inverse * gamma, normal
        )
        return of_x.to(gradient.dtype), None if gamma is None else of_gamma, of_beta if ctx.has_beta else None, None


def _along(per_channel: Tensor, x: Tensor) -> Tensor:
    return per_channel.view([1, -1] + [1] * (x.dim() - 2))
