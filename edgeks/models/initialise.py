"""How kernels start."""

from __future__ import annotations

from torch import Tensor, nn


def he_normal(kernel: Tensor) -> None:
    """Normal with variance 2 / fan-out, for what a ReLU follows (arXiv 1502.01852). Nothing on the device "meta".

    torch imports its compiler to draw no numbers there: seconds, where parameters are only counted.
    """
    if not kernel.is_meta:
        nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")
