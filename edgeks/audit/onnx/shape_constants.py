"""Sizes that a graph computes at run time from sizes that are known: Shape → Gather → Concat → Reshape, to constants.

torch's legacy exporter writes flatten and view so. onnx's own inference propagates such values, but none below 0, and
the −1 of a Reshape is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

MAX_ELEMENTS = 64  # a tensor has fewer axes than that
# None of them makes much of little: what a file claims cannot cost memory.
FOLDED = frozenset(
    {"Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Add", "Sub", "Mul", "Div", "Floor"}
)


def fold_shapes(twin: ModelProto, inferred: GraphProto) -> bool:
    """Turn nodes of the twin's main graph that compute with known sizes into initializers; whether there were any."""
    graph = twin.graph
    if not any(node.op_type == "Shape" for node in graph.node):
        return False
    shapes = _known_shapes(inferred)
    constants: dict[str, NDArray[Any]] = {}
    for tensor in graph.initializer:
        if sum(tensor.dims) <= MAX_ELEMENTS:
            constants[tensor.name] = numpy_helper.to_array(tensor)
    kept, folded = [], 0
    for node in graph.node:
        value = _value(twin, node, constants, shapes)
        if value is not None and value.size <= MAX_ELEMENTS:
            constants[node.output[0]] = value
            if node.op_type != "Constant":
                folded += 1
                graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
                continue
        kept.append(NodeProto.FromString(node.SerializeToString()))
    if folded:
        del graph.node[:]
        graph.node.extend(kept)
    return folded > 0


def _known_shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return found


def _value(
    twin: ModelProto, node: NodeProto, constants: dict[str, NDArray[Any]], shapes: dict[str, tuple[int, ...]]
) -> NDArray[Any] | None:
    """What a node computes, where that is known; None also where it cannot be computed."""
    if len(node.output) != 1 or node.domain not in ("", "ai.onnx"):
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Constant":
        tensor = attributes.get("value")
        return numpy_helper.to_array(tensor) if tensor is not None and sum(tensor.dims) <= MAX_ELEMENTS else None
    if node.op_type == "Shape" and node.input and node.input[0] in shapes:
        return np.array(shapes[node.input[0]][attributes.get("start", 0) : attributes.get("end")], np.int64)
    inputs = [name for name in node.input if name]
    if node.op_type not in FOLDED or not inputs or any(name not in constants for name in inputs):
        return None
    from onnx.reference import ReferenceEvaluator

    graph = helper.make_graph([node], "node", [], [helper.make_empty_tensor_value_info(node.output[0])])
    graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in dict.fromkeys(inputs))
    model = helper.make_model(graph, opset_imports=twin.opset_import)
    try:
        return np.asarray(next(iter(ReferenceEvaluator(model).run(None, {}))))
    except Exception:  # a damaged node: inference says what is wrong with it
        return None
