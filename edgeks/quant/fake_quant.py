"""Fake quantisers: a tensor leaves as the integer runtime would see it, and gradients pass (LSQ: arXiv 1902.08153)."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.errors import ConfigError
from edgeks.graph.passes.quantize_activations import Range
from edgeks.graph.passes.quantize_biases import MAX_BIAS, SMALLEST_SCALE
from edgeks.graph.passes.quantize_kernels import MAX_CODE, symmetric_codes
from edgeks.interface import LIMITS
from edgeks.target import Int8Type

Ranges = Literal["learned", "moving_average"]
OLD_SHARE = 0.9  # of the moving average: what the batches before weigh


class ActivationFakeQuantize(nn.Module):
    """x → (clip(round(x/s) + z) − z)·s, one scale s and zero point z per tensor; zero is exactly representable.

    The first training batch, unless `set_range` came before, gives the range: then s is learned by gradient
    ("learned"; z stays), or s and z follow a moving average of what training batches show ("moving_average").
    In evaluation mode nothing changes.

    Under data parallel training the range is that of all processes' images, and `batch_share` is this one's part of
    them, so that the gradient of s does not depend on the number of processes.
    """

    log_scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, integer_type: Int8Type, ranges: Ranges) -> None:
        super().__init__()
        self.integer_type, self.ranges = integer_type, ranges
        _register_log_scale(self, torch.zeros(()), ranges)
        self.register_buffer("zero_point", torch.zeros(()))
        self.register_buffer("low", torch.tensor(1.0))  # above `high`: nothing was seen yet
        self.register_buffer("high", torch.tensor(-1.0))
        self.observing = self.passing = False
        self.batch_share = 1.0

    @property
    def scale(self) -> Tensor:
        """s, a scalar above 0."""
        return self.log_scale.exp()

    @property
    def has_range(self) -> bool:
        """Whether a batch or `set_range` has given it one."""
        return bool(self.low <= self.high)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        if self.observing:
            self._see(x.detach(), old_share=None)
            return x
        if self.passing:
            return x
        if self.training and (self.ranges == "moving_average" or not self.has_range):
            self._see(x.detach(), old_share=OLD_SHARE)
            self.take_range()
        if not self.has_range:
            raise ConfigError(
                "a fake quantiser has no range yet: train on a batch first, or call edgeks.quant.observe_ranges"
            )
        q_min, q_max = LIMITS[self.integer_type]
        return _fake_quantize(x, self.scale, self.zero_point, q_min, q_max, self.batch_share)

    def set_range(self, seen: Range) -> None:
        """Scale and zero point for `seen`."""
        self.low.fill_(seen.low)
        self.high.fill_(seen.high)
        self.take_range()

    def range(self) -> Range:
        """What scale and zero point cover."""
        q_min, q_max = LIMITS[self.integer_type]
        scale, zero_point = self.scale.item(), self.zero_point.item()
        return Range((q_min - zero_point) * scale, (q_max - zero_point) * scale)

    def _see(self, x: Tensor, old_share: float | None) -> None:
        """Widen the range to hold `x` (`old_share` None), or move it towards that of `x`."""
        low, high = _smallest_and_largest(x, everywhere=old_share is not None)
        if not self.has_range:
            self.low.copy_(low)
            self.high.copy_(high)
        elif old_share is None:
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            self.low.lerp_(low, 1 - old_share)
            self.high.lerp_(high, 1 - old_share)

    def take_range(self) -> None:
        """Scale and zero point for the range seen so far."""
        self._set(*Range(float(self.low), float(self.high)).parameters(self.integer_type))

    def set_parameters(self, scale: float, zero_point: int) -> None:
        """A scale and zero point that were decided elsewhere."""
        self._set(scale, zero_point)
        seen = self.range()
        self.low.fill_(seen.low)
        self.high.fill_(seen.high)

    def _set(self, scale: float | np.float32, zero_point: int) -> None:
        with torch.no_grad():
            self.log_scale.fill_(math.log(scale))
            self.zero_point.fill_(zero_point)


class KernelFakeQuantize(nn.Module):
    """W → clip(round(W/s))·s, symmetric, one scale per output channel (axis 0), |code| ≤ 127.

    "learned": s starts at max|W|/127 and is learned by gradient. "moving_average": s is max|W|/127, always.
    """

    log_scale: Tensor

    def __init__(self, kernel: Tensor, ranges: Ranges) -> None:
        super().__init__()
        self.ranges = ranges
        _register_log_scale(self, _largest_step(kernel).log(), ranges)

    @property
    def scale(self) -> Tensor:
        """s per output channel, above 0."""
        return self.log_scale.exp()

    def forward(self, kernel: Tensor) -> Tensor:
        """O×… → the same."""
        if self.ranges == "moving_average":
            self.log_scale.copy_(_largest_step(kernel).log())
        along = [-1] + [1] * (kernel.dim() - 1)
        scale = self.scale.view(along)
        return _fake_quantize(kernel, scale, torch.zeros_like(scale), -MAX_CODE, MAX_CODE)


class BiasRounding(nn.Module):
    """Behind a layer and its BN, in evaluation mode: the int32 rounding of their bias. In training mode nothing.

    The integer layer adds S·round(B/S) with B the bias and BN's shift together, S = s_x·s_W·a (docs/arithmetic.md §2).
    `layer` is the module that has the bias, or the bias.
    """

    def __init__(
        self,
        layer: nn.Module | Tensor | None,
        norm: _BatchNorm | None,
        kernel: KernelFakeQuantize,
        activation: ActivationFakeQuantize,
    ) -> None:
        super().__init__()
        self._parts = (layer, norm, kernel, activation)  # a tuple: they stay the network's own

    def forward(self, y: Tensor) -> Tensor:
        """N×O×… → the same."""
        layer, norm, kernel, activation = self._parts
        bias = layer.bias if isinstance(layer, nn.Module) else layer
        if self.training or activation.observing:
            return y
        gain = torch.ones((), dtype=torch.float64, device=y.device)
        total = torch.zeros((), dtype=torch.float64, device=y.device)
        if isinstance(bias, Tensor):
            total = bias.detach().double()
        if norm is not None and norm.running_mean is not None and norm.running_var is not None:
            gain = (norm.running_var.double() + norm.eps).rsqrt()
            shift = -norm.running_mean.double() * gain
            if norm.affine:
                shift = shift * norm.weight.detach().double() + norm.bias.detach().double()
                gain = gain * norm.weight.detach().double()
            total = total * gain + shift
        total = total.float()
        input_scale = activation.scale.detach()
        scale = (kernel.scale.detach().double() * gain).float()
        least = (total.abs() / (input_scale * MAX_BIAS)).clamp(min=SMALLEST_SCALE)
        step = input_scale * torch.where(scale.abs() < least, torch.copysign(least, scale), scale)
        difference = (total / step).round() * step - total
        return y + difference.view([1, -1] + [1] * (y.dim() - 2))


class Same(nn.Module):
    """Stands where a module was that is not wanted."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same tensor."""
        return x


def _register_log_scale(module: nn.Module, log_scale: Tensor, ranges: Ranges) -> None:
    """log s, a parameter where it is learned.

    Its logarithm, since optimisers such as Adam move every parameter by about the learning rate: that is a large part
    of a step of 0.01, and a small part of its logarithm (arXiv 1903.08066).
    """
    if ranges == "learned":
        module.log_scale = nn.Parameter(log_scale)
    else:
        module.register_buffer("log_scale", log_scale)


def checked_ranges(ranges: str) -> Ranges:
    """`ranges`, when it is a legal value.

    Raises:
        ConfigError: it is not.
    """
    if ranges not in get_args(Ranges):
        raise ConfigError(f"quantisation-aware training: ranges is {ranges!r}; legal: {', '.join(get_args(Ranges))}")
    return cast(Ranges, ranges)


def _largest_step(kernel: Tensor) -> Tensor:
    """max|W|/127 per output channel, as an export without training would choose it."""
    _, scale = symmetric_codes(kernel.detach().double().cpu().numpy(), 0)
    return torch.from_numpy(scale).to(kernel.device)


def _smallest_and_largest(x: Tensor, everywhere: bool) -> tuple[Tensor, Tensor]:
    """Of the values of `x`, or with `everywhere` of what all processes that train together have."""
    if not (everywhere and dist.is_available() and dist.is_initialized()):
        low, high = torch.aminmax(x)
        return low, high
    ends = x.new_full((2,), -math.inf)
    if x.numel():  # a process may be without images
        low, high = torch.aminmax(x)
        ends = torch.stack([-low, high])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    return -ends[0], ends[1]


def _fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, q_min: int, q_max: int, batch_share: float = 1.0
) -> Tensor:
    y: Tensor = _FakeQuantize.apply(x, scale, zero_point, q_min, q_max, batch_share)  # type: ignore[no-untyped-call]
    return y


class _FakeQuantize(torch.autograd.Function):
    """Straight-through for x inside the range; LSQ's gradient for the scale, scaled by 1/√(count·q_max).

    count: the values that one scale is for; x holds `batch_share` of them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, q_min: int, q_max: int, batch_share: float
    ) -> Tensor:
        position = x / scale
        # As ONNX says: rounded before the zero point is added, half to even. It matters where pixels hit the middle.
        code = position.round().add_(zero_point).clamp_(q_min, q_max)
        ctx.save_for_backward(position, code, scale, zero_point)
        ctx.limits, ctx.batch_share = (q_min, q_max), batch_share
        return (code - zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        position, code, scale, zero_point = ctx.saved_tensors
        q_min, q_max = ctx.limits
        inside = (position >= q_min - zero_point) & (position <= q_max - zero_point)
        of_x = gradient * inside
        of_scale = None
        if ctx.needs_input_grad[1]:
            # Inside: round(x/s) − x/s; outside: the bound, q − z.
            slope = torch.where(inside, code - zero_point - position, code - zero_point).mul_(gradient)
            axes = [axis for axis in range(slope.dim()) if scale.dim() == 0 or scale.shape[axis] == 1]
            total = slope.sum() if scale.dim() == 0 else slope.sum(axes, keepdim=True)
            count = slope.numel() / scale.numel() / (ctx.batch_share or 1.0)
            of_scale = total / math.sqrt(max(count, 1.0) * q_max)
        return of_x, of_scale, None, None, None, None
