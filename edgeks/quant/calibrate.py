"""Calibration: the ranges of activations, seen on real samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.errors import DataError
from edgeks.formats.onnx import REFERENCE, open_session, to_proto
from edgeks.graph.passes.quantize_activations import Range


def calibrate(model: ir.Model, names: Sequence[str], samples: NDArray[Any]) -> dict[str, Range]:
    """Run the float graph on `samples` (N×C×H×W) in ONNX Runtime → smallest and largest value of each named Value.

    Raises:
        DataError: an activation is not finite on the samples.
    """
    proto = to_proto(model)
    inputs = {value.name for value in proto.graph.input}
    outputs = {value.name for value in proto.graph.output}
    wanted = [name for name in dict.fromkeys(names) if name not in inputs]
    for name in wanted:
        if name not in outputs:
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_session(proto.SerializeToString(), REFERENCE)
    feed = session.get_inputs()[0]
    low = dict.fromkeys(names, np.inf)
    high = dict.fromkeys(names, -np.inf)
    size = int(feed.shape[0])
    for start in range(0, len(samples) - size + 1, size):
        batch = samples[start : start + size]
        found = dict(zip(wanted, session.run(wanted, {feed.name: batch}), strict=True)) if wanted else {}
        found[feed.name] = batch
        for name in names:
            low[name] = np.minimum(low[name], found[name].min())  # keeps a NaN, which min() would drop
            high[name] = np.maximum(high[name], found[name].max())
    ranges = {name: Range(float(low[name]), float(high[name])) for name in names}
    for name, seen in ranges.items():
        if not (np.isfinite(seen.low) and np.isfinite(seen.high)):
            raise DataError(f"activation {name!r} is not finite on the calibration samples; check the samples' scale")
    return ranges
