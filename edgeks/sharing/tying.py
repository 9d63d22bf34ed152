"""Unshared layers → layers tied by a plan, as near to what they computed as one kernel per group allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.errors import PlanError
from edgeks.sharing.following_norm import following_norms
from edgeks.sharing.least_squares import shared_kernel
from edgeks.sharing.plan import SharingPlan
from edgeks.sharing.torch import Layer, apply_plan, checked_layers

Tying = Literal["first", "mean", "least_squares"]
TYINGS: tuple[str, ...] = get_args(Tying)
SMALLEST = 0.01  # scale, against the layer's own size: a γ of 0 would get no gradient where γ is kept positive


@dataclass(frozen=True, slots=True)
class GroupFit:
    """How well the one kernel of a group explains the kernels that its layers had.

    `relative_error` is √(Σ‖a_l·W_l − t_l·W‖² / Σ‖a_l·W_l‖²), where a = γ/√(σ²+ε) is the factor of the BN behind layer l
    before, and t that after tying; both are 1 where not every layer of the group has such a BN. `unscaled` says why
    `least_squares` could give the layers no scales; None: it did, or was not asked to.
    """

    name: str
    layers: int
    relative_error: float
    unscaled: str | None = None


@torch.no_grad()
def tie(model: nn.Module, plan: SharingPlan, init: Tying, *, positive: bool = True) -> tuple[GroupFit, ...]:
    """Tie the layers of `model` by `plan`, in place, and say how well each group's kernel fits.

    The kernel starts as the first layer's, as the mean of all, or by `least_squares`: then it comes, with a scale per
    layer and output channel, as near as one kernel can to what the layers and the BN behind them did
    (docs/sharing.md). BN takes the scales: in evaluation it computes the same as before of a kernel that is exactly a
    multiple of the shared one, and its running statistics are those of the shared convolution. Where a layer of a
    group has no BN right behind it, the group gets no scales, and its kernel is the mean. With `positive` no γ that
    takes a scale ends below 0.

    Raises:
        PlanError: unknown `init`, or a plan that does not fit the network.
    """
    if init not in TYINGS:
        raise PlanError(f"unknown initialisation {init!r}; legal: {', '.join(TYINGS)}")
    resolved = checked_layers(model, plan)
    norms = following_norms(model)
    before = [([layer.weight.detach().clone() for layer in layers], _biases(layers)) for _, layers in resolved]
    apply_plan(model, plan, "first" if init == "first" else "mean")
    fits = []
    for (group, layers), (kernels, biases) in zip(resolved, before, strict=True):
        behind = _all_norms(group.layers, layers, norms)
        if isinstance(behind, str):
            ones = torch.ones(len(layers), len(kernels[0]), dtype=torch.float64)
            error = _relative_error(kernels, layers[0].weight, ones, ones)
            fits.append(GroupFit(group.name, len(layers), error, behind if init == "least_squares" else None))
            continue
        factors = torch.stack([_factor(norm) for norm in behind])
        scaled = factors
        if init == "least_squares":
            kernel, scaled = _nearest(kernels, factors, layers[0].weight.detach().double(), positive)
            layers[0].weight.copy_(kernel)
            for norm, now, old, new in zip(behind, scaled, biases, _biases(layers), strict=True):
                _rescale(norm, now, old, new)
        error = _relative_error(kernels, layers[0].weight, factors, scaled)
        fits.append(GroupFit(group.name, len(layers), error))
    return tuple(fits)


def _biases(layers: Sequence[Layer]) -> list[Tensor]:
    """O for every layer, 0 where it has no bias; float64."""
    return [
        torch.zeros(len(layer.weight), dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
        for layer in layers
    ]


def _all_norms(
    names: Sequence[str], layers: Sequence[Layer], norms: Mapping[int, _BatchNorm | str]
) -> list[_BatchNorm] | str:
    """The BN behind each layer, or the first reason why one has none."""
    found = []
    for name, layer in zip(names, layers, strict=True):
        norm = norms[id(layer)]
        if isinstance(norm, str):
            return f"{name} {norm}"
        found.append(norm)
    return found


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance, float64."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise RuntimeError("following_norms found a BN without running statistics")
    return mean.double(), variance.double()


def _factor(norm: _BatchNorm) -> Tensor:
    """γ/√(σ²+ε) per channel, float64."""
    return norm.weight.detach().double() / torch.sqrt(_statistics(norm)[1] + norm.eps)


def _nearest(kernels: Sequence[Tensor], factors: Tensor, mean: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """Kernels W_l, factors a (L×O) → W and factors t (L×O) that minimise Σ‖a_l·W_l − t_l·W‖².

    ‖W‖ is the root mean square of the ‖W_l‖, channel by channel, so that weight decay and learning rate mean what they
    meant. Where every a_l is 0, W is the mean.
    """
    folded = [_per_channel(factor, kernel) for factor, kernel in zip(factors, kernels, strict=True)]
    kernel, scaled = shared_kernel(folded, positive=positive)
    size, wanted = _norms([kernel])[0], _norms(kernels).square().mean(0).sqrt()
    seen = size > 0
    stretch = torch.where(seen, wanted / torch.where(seen, size, 1.0), 1.0)
    kernel = torch.where(_per_channel(seen, torch.ones_like(kernel)) > 0, _per_channel(stretch, kernel), mean)
    scaled = torch.where(seen, scaled / torch.where(stretch > 0, stretch, 1.0), 0.0)
    if positive:
        least = SMALLEST * _norms(folded) / torch.where(wanted > 0, wanted, 1.0)
        scaled = torch.maximum(scaled, least)
    return kernel, scaled


def _rescale(norm: _BatchNorm, factor: Tensor, old_bias: Tensor, new_bias: Tensor) -> None:
    """Give BN the factor `factor`, and its old output where the convolution ahead of it is now 1/s of what it was.

    With s = factor/a, the convolution's mean and variance are those of before over s and s². γ and β are then what
    makes γ/√(σ²+ε) equal to `factor` and leaves the constant term as it was: γ changes by ε's part only, β not at all,
    but where s is too near 0 to divide by.
    """
    mean, variance = _statistics(norm)
    before = _factor(norm)
    s = factor / torch.where(before == 0, 1.0, before)
    s = torch.where((before == 0) | (s.abs() < SMALLEST / 2), 1.0, s)
    new_mean = new_bias + (mean - old_bias) / s
    new_variance = variance / s.square()
    shift = norm.bias.detach().double() + before * (old_bias - mean) - factor * (new_bias - new_mean)
    norm.weight.copy_(factor * torch.sqrt(new_variance + norm.eps))
    norm.bias.copy_(shift)
    norm.running_mean.copy_(new_mean)  # type: ignore[union-attr]  # _statistics checked both
    norm.running_var.copy_(new_variance)  # type: ignore[union-attr]


def _per_channel(factor: Tensor, kernel: Tensor) -> Tensor:
    """diag(factor)·kernel, float64."""
    return factor.reshape(-1, *[1] * (kernel.dim() - 1)).double() * kernel.double()


def _norms(kernels: Sequence[Tensor]) -> Tensor:
    """L×O: the Euclidean norm of every output channel of every kernel, float64."""
    return torch.stack([kernel.double().flatten(1).norm(dim=1) for kernel in kernels])


def _relative_error(kernels: Sequence[Tensor], kernel: Tensor, factors: Tensor, scaled: Tensor) -> float:
    missed, total = 0.0, 0.0
    for own, factor, scale in zip(kernels, factors, scaled, strict=True):
        folded = _per_channel(factor, own)
        missed += float((folded - _per_channel(scale, kernel.detach())).square().sum())
        total += float(folded.square().sum())
    return math.sqrt(missed / total) if total else 0.0
