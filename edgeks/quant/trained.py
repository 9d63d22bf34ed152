"""What quantisation-aware training decided, by the marks on the captured graph (graph/marks.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeks.graph.passes.quantize_activations import Range


@dataclass(frozen=True, slots=True)
class Trained:
    """Mark → an activation's range, or a kernel's scales (float32, one per output channel)."""

    ranges: Mapping[int, Range]
    scales: Mapping[int, NDArray[np.float32]]


NOTHING_TRAINED = Trained({}, {})
