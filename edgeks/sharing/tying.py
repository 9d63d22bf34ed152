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
SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class GroupFit:
    """How well the one kernel of a group explains the kernels that its layers had.

    `relative_error` is √(Σ‖W_l − diag(s_l)·W‖² / Σ‖W_l‖²) over the layers: with the best scales s where BN right behind
    every layer takes any, else with 1. `unscaled` says why `least_squares` could give the layers no scales; None: it
    did, or was not asked to.
    """

    name: str
    layers: int
    relative_error: float
    unscaled: str | None = None

    @property
    def unrelated_error(self) -> float:
        """That error for the mean of as many orthogonal kernels of one size, with the best scales."""
        return math.sqrt(1 - 1 / self.layers)


@torch.no_grad()
def tie(model: nn.Module, plan: SharingPlan, init: Tying) -> tuple[GroupFit, ...]:
    """Tie the layers of `model` by `plan`, in place, and say how well each group's kernel fits.

    The kernel starts as the first layer's, as the mean of all, or by `least_squares` with a positive scale per layer
    and output channel, which the BN behind the layer takes: in evaluation it then computes the same as before of a
    kernel that is exactly a multiple of the shared one, its running statistics are those of the shared convolution,
    and its γ has the sign that it had. Layers count by what their BN puts out. Where a layer of a group has no BN right
    behind it, the group gets no scales, and its kernel is the mean.

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
        if init == "least_squares" and not isinstance(behind, str):
            kernel, scales = shared_kernel(kernels, torch.stack([_loudness(norm) for norm in behind]))
            layers[0].weight.copy_(kernel)
            for norm, scale, old, new in zip(behind, scales, biases, _biases(layers), strict=True):
                _rescale(norm, scale, old, new)
        error = _relative_error(kernels, layers[0].weight, scalable=not isinstance(behind, str))
        unscaled = behind if init == "least_squares" and isinstance(behind, str) else None
        fits.append(GroupFit(group.name, len(layers), error, unscaled))
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


def _loudness(norm: _BatchNorm) -> Tensor:
    """Standard deviation of what BN puts out, |γ|·√(σ²/(σ²+ε)) per channel, float64: 0 where a channel is dead."""
    variance = _statistics(norm)[1]
    return norm.weight.detach().double().abs() * torch.sqrt(variance / (variance + norm.eps))


def _rescale(norm: _BatchNorm, s: Tensor, old_bias: Tensor, new_bias: Tensor) -> None:
    """Let BN compute of u + new_bias what it did of s·u + old_bias, u being the convolution ahead without its bias.

    The mean and variance of u are those of before over s and s². γ and β are then what keeps factor and constant term:
    γ changes by ε's part only, β not at all. Where s is too near 0 to divide by, the statistics stay, and γ is near 0.
    """
    mean, variance = _statistics(norm)
    factor = _factor(norm)
    divisor = torch.where(s < SMALLEST, 1.0, s)
    new_mean = new_bias + (mean - old_bias) / divisor
    new_variance = variance / divisor.square()
    shift = norm.bias.detach().double() + factor * (old_bias - mean) - factor * s * (new_bias - new_mean)
    norm.weight.copy_(factor * s * torch.sqrt(new_variance + norm.eps))
    norm.bias.copy_(shift)
    norm.running_mean.copy_(new_mean)  # type: ignore[union-attr]  # _statistics checked both
    norm.running_var.copy_(new_variance)  # type: ignore[union-attr]


def _relative_error(kernels: Sequence[Tensor], kernel: Tensor, *, scalable: bool) -> float:
    rows, shared = torch.stack([own.flatten(1).double() for own in kernels]), kernel.detach().flatten(1).double()
    if scalable:
        length = shared.square().sum(1)
        scales = (rows * shared).sum(2) / torch.where(length > 0, length, 1.0)
        shared = scales[..., None] * shared
    total = float(rows.square().sum())
    return math.sqrt(float((rows - shared).square().sum()) / total) if total else 0.0
