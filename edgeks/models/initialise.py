"""How kernels start, and the convolution that most of the zoo is made of."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


def he_normal(kernel: Tensor, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Normal with variance 2 / fan, for what a ReLU follows (arXiv 1502.01852). Nothing on the device "meta".

    torch imports its compiler to draw no numbers there: seconds, where parameters are only counted.
    """
    if not kernel.is_meta:
        nn.init.kaiming_normal_(kernel, mode=mode, nonlinearity="relu")


def convolution(width_in: int, width: int, size: int, stride: int = 1, kernel: Tensor | None = None) -> nn.Conv2d:
    """A convolution without bias that reads `kernel`, or a new He-initialised kernel of its own."""
    device = None if kernel is None else "meta"  # a kernel that is replaced at once is never allocated
    conv = nn.Conv2d(width_in, width, size, stride=stride, padding=size // 2, bias=False, device=device)
    if kernel is None:
        he_normal(conv.weight)
    else:
        conv.weight = kernel
    return conv
