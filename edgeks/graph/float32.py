"""float64, float16 and bfloat16 in an ONNX file → float32, which the runtimes of small boards compute in."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from edgeks.errors import ModelFileError

OTHER_FLOATS = {
    TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16",
}  # fmt: skip
# Attributes that name the type of what a node makes (Cast, EyeLike, RandomNormal …).
TYPE_ATTRIBUTES = ("to", "dtype")
KERNEL_RANK = 2


def other_floats(proto: ModelProto) -> list[str]:
    """Names of the other types that kernels or inputs have: with them the file has to be converted before it runs."""
    found = [tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) >= KERNEL_RANK]
    found += [value.type.tensor_type.elem_type for value in proto.graph.input]
    for node in proto.graph.node:
        if node.op_type == "Constant":
            found += [a.t.data_type for a in node.attribute if a.name == "value" and len(a.t.dims) >= KERNEL_RANK]
    return [name for data_type, name in OTHER_FLOATS.items() if data_type in found]


def to_float32(proto: ModelProto) -> None:
    """Every constant, cast, input and output of another float type → float32, in place; constants are in the proto.

    Raises:
        ModelFileError: a finite number is beyond float32.
    """
    _graph(proto.graph)


def _graph(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _type(value)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _graph(attribute.g)
            elif attribute.type == AttributeProto.INT and attribute.name in TYPE_ATTRIBUTES:
                attribute.i = TensorProto.FLOAT if attribute.i in OTHER_FLOATS else attribute.i


def _type(value: ValueInfoProto) -> None:
    if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in OTHER_FLOATS:
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def _tensor(tensor: TensorProto) -> None:
    if tensor.data_type not in OTHER_FLOATS:
        return
    stored = onnx.numpy_helper.to_array(tensor)
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinity, which is refused next
        converted = stored.astype(np.float32)
    if not np.array_equal(np.isfinite(stored), np.isfinite(converted)):
        raise ModelFileError(f"constant {tensor.name!r} holds numbers beyond float32, which edgeks computes in")
    tensor.CopyFrom(onnx.numpy_helper.from_array(converted, tensor.name))
