"""What quantisation-aware training decided, by the marks on the captured graph (graph/marks.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.marks import marks
from edgeks.graph.passes.quantize_activations import Placement, Range


@dataclass(frozen=True, slots=True)
class Trained:
    """Mark → an activation's range, or a kernel's scales (float32, one per output channel)."""

    ranges: Mapping[int, Range]
    scales: Mapping[int, NDArray[np.float32]]


NOTHING_TRAINED = Trained({}, {})


def value_marks(placement: Placement, value: ir.Value) -> list[int]:
    """Marks on `value`, or else on the Values that take their scale from it (a mean ahead of its flattening)."""
    found = list(marks(value))
    for tied, source in placement.tied.items():
        if source is value:
            found += value_marks(placement, tied)
    return found
