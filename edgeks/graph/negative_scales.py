"""Which channels have a negative weight scale (γ < 0, absorbed): what that costs, and how to be rid of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads
from edgeks.wording import counted

QLINEAR_SCALE = 4  # input of QLinearConv that holds the weight scale
SHOWN = 3
REMEDY = "train or fine-tune with positive_scales = true in [train] (the default; `edgeks train --positive-scales`)"

# Runtime → what a convolution with a negative weight scale costs there. All of them compute it right.
COSTS = {
    "onnxruntime": "nothing: computed exactly, at the same speed",
    "litert": "XNNPACK declines such a convolution, which runs about 2.4 times slower on the built-in kernels",
}


@dataclass(frozen=True, slots=True)
class NegativeScales:
    """Layer → how many of its output channels have a negative weight scale; only layers that have any."""

    channels: Mapping[str, int]

    def __bool__(self) -> bool:
        return bool(self.channels)

    def __str__(self) -> str:
        layers = list(self.channels)
        more = f" and {len(layers) - SHOWN} more" if len(layers) > SHOWN else ""
        where = f"{counted(len(layers), 'layer')} ({', '.join(layers[:SHOWN])}{more})"
        return (
            f"{sum(self.channels.values())} channels in {where} have a negative weight scale (γ < 0): free in ONNX "
            "Runtime, about 2.4 times slower in LiteRT with XNNPACK; positive_scales = true in [train] prevents them"
        )

    def to_dict(self) -> dict[str, Any]:
        """Counts, costs by runtime and the remedy, for the ledger."""
        return {
            "channels": sum(self.channels.values()),
            "layers": dict(self.channels),
            "costs": COSTS if self.channels else {},
            "remedy": REMEDY if self.channels else None,
        }


def negative_scales(model: ir.Model) -> NegativeScales:
    """Int8 graph, QDQ or QOperator → its negative weight scales, counted per layer and output channel."""
    found = {}
    for read in kernel_reads(model):
        scale = read.node.inputs[QLINEAR_SCALE] if read.node.op_type == "QLinearConv" else None
        if read.dequantize is not None:
            scale = read.dequantize.inputs[1]
        if scale is not None and scale.is_initializer() and (count := int((array(scale).astype(np.float32) < 0).sum())):
            found[str(read.node.name)] = count
    return NegativeScales(found)
