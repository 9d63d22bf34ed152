"""A fixed-statistics BN: the gain of a convolution whose kernel is a multiple of a stored one."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn


class Gain(nn.BatchNorm2d):
    """N×C×H×W → c·y + bias per channel, written as a BN whose statistics are 0 and 1 and stay so.

    As a BN, because every export moves a BN into the weight scale of its layer, where it costs nothing
    (docs/arithmetic.md §1). Its gain may be negative: `positive_scales` leaves it alone.
    """

    def __init__(self, channels: int, factor: float, bias: Tensor | None = None) -> None:
        super().__init__(channels, eps=0.0)
        with torch.no_grad():
            self.weight.fill_(factor)
            if bias is not None:
                self.bias = bias  # type: ignore[assignment]  # torch's annotation of a Parameter
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Never into training mode, where the statistics of a batch would be used."""
        return super().train(False)
