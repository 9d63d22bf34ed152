"""torch.onnx.export takes most of the time of a small export: networks of one structure go through it once."""

import contextlib
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from edgeks.graph import float_graph
from edgeks.graph.from_torch import capture


@contextlib.contextmanager
def one_capture() -> Iterator[None]:
    """Within it, `export` captures the first network of each structure; the others get its graph with their weights.

    For networks that differ in the values of Parameters and buffers alone. One structure: equal names, and the same of
    them are one Parameter. What the weights are is checked by the parity of every export.
    """
    known: dict[object, onnx.ModelProto] = {}

    def captured(model: nn.Module, example: NDArray[np.float32], opset: int) -> ir.Model:
        parameters = list(model.named_parameters(remove_duplicate=False))
        first: dict[int, str] = {}
        structure = (opset, example.shape, tuple((name, first.setdefault(id(p), name)) for name, p in parameters))
        if structure not in known:
            known[structure] = ir.to_proto(capture(model, example, opset))
        graph = ir.from_proto(known[structure])
        weights = model.state_dict()
        for name, value in graph.graph.initializers.items():
            if name in weights:
                value.const_value = ir.tensor(weights[name].detach().numpy().copy(), name=name)
        return graph

    float_graph.capture = captured
    try:
        yield
    finally:
        float_graph.capture = capture
