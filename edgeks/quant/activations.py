"""What the Values of a float graph hold on samples, one batch at a time, so that memory stays that of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.formats.onnx import REFERENCE, open_session, to_proto


def activations(model: ir.Model, names: Sequence[str], samples: NDArray[Any]) -> Iterator[dict[str, NDArray[Any]]]:
    """Run `model` on `samples` (N×C×H×W) in ONNX Runtime, node by node as it says → per batch, {name: content}.

    A last batch that is shorter than the graph's own is left out.
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
    size = int(feed.shape[0])
    for start in range(0, len(samples) - size + 1, size):
        batch = samples[start : start + size]
        found = dict(zip(wanted, session.run(wanted, {feed.name: batch}), strict=True)) if wanted else {}
        found[feed.name] = batch
        yield {name: found[name] for name in names}
