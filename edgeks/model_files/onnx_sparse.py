"""Kernels with many zeros in an ONNX file: one bit per weight, and the weights whose bit is set.

ONNX has a form of its own, `sparse_initializer`: an int64 index for every weight that is kept, so 12 bytes for 4 of
fp32 and 9 for 1 of int8. It pays below a third and a ninth. A bit for every weight pays from 1/32 zeros in fp32 and 1/8
in int8; no operator reads it, but standard operators turn it into the kernel, in a function that the file itself
defines. A runtime folds that once when it opens the file (ONNX Runtime at every level of optimisation but "disabled").
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN, NAME = "edgeks", "Densify"
OLDEST_OPSET = 18  # of BitwiseAnd
# Bytes per weight that folding holds until all kernels are folded: 12, and three copies of the kernel.
FOLDING_BYTES, FOLDED_COPIES = 12, 3
SHAPE = "shape"


@dataclass(frozen=True, slots=True)
class SparseKernel:
    """A kernel as it is stored. `bits` (uint8, ⌈N/8⌉×1): weight i is kept where bit i % 8 of byte i // 8 is set.

    `values`: what the others are (0, or the code that stands for it), then the kept ones in order.
    """

    bits: NDArray[np.uint8]
    values: NDArray[Any]
    shape: tuple[int, ...]

    @property
    def stored_bytes(self) -> int:
        """Bytes of both."""
        return int(self.bits.nbytes + self.values.nbytes)


def sparse_kernel(kernel: NDArray[Any]) -> SparseKernel:
    """Kernel → bits and values; what is left out is float 0, or the most frequent code."""
    flat = np.ascontiguousarray(kernel).reshape(-1)
    if flat.dtype.kind == "f":
        rest = flat.dtype.type(0)
    else:
        codes, counts = np.unique(flat, return_counts=True)
        rest = codes[counts.argmax()]
    kept = flat != rest
    bits = np.packbits(kept, bitorder="little").reshape(-1, 1)
    return SparseKernel(bits, np.concatenate([[rest], flat[kept]]).astype(flat.dtype), kernel.shape)


def dense_kernel(stored: SparseKernel) -> NDArray[Any]:
    """Bits and values → kernel.

    Raises:
        ValueError: they do not fit each other.
    """
    count = math.prod(stored.shape)
    kept = np.unpackbits(stored.bits.reshape(-1), bitorder="little", count=count).astype(bool)
    if stored.bits.size != -(-count // 8) or stored.values.size != 1 + np.count_nonzero(kept):
        raise ValueError(f"{stored.values.size} values for a kernel of which {np.count_nonzero(kept)} weights are kept")
    dense = np.full(count, stored.values.reshape(-1)[0])
    dense[kept] = stored.values.reshape(-1)[1:]
    return dense.reshape(stored.shape)


def function(opset: int) -> FunctionProto:
    """The function `edgeks.Densify(bits, values) → kernel` of the attribute `shape`, in operators of `opset`."""
    shape = helper.make_node("Constant", [], ["shape"])
    shape.attribute.append(AttributeProto(name="value_ints", ref_attr_name=SHAPE, type=AttributeProto.INTS))
    powers = numpy_helper.from_array((1 << np.arange(8)).astype(np.uint8))
    body = [
        shape,
        helper.make_node("Constant", [], ["powers"], value=powers),
        helper.make_node("Constant", [], ["flat"], value_ints=[-1]),
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Constant", [], ["axis"], value_int=0),
        helper.make_node("BitwiseAnd", ["bits", "powers"], ["octets"]),
        helper.make_node("Cast", ["octets"], ["flags"], to=TensorProto.BOOL),
        helper.make_node("Reshape", ["flags", "flat"], ["padded"]),
        helper.make_node("ReduceProd", ["shape"], ["count"]),
        helper.make_node("Slice", ["padded", "first", "count"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["ones"], to=TensorProto.INT32),
        helper.make_node("CumSum", ["ones", "axis"], ["places"]),
        helper.make_node("Gather", ["values", "places"], ["spread"]),
        helper.make_node("Gather", ["values", "first"], ["rest"]),
        helper.make_node("Where", ["kept", "spread", "rest"], ["dense"]),
        helper.make_node("Reshape", ["dense", "shape"], ["kernel"]),
    ]
    return helper.make_function(
        DOMAIN, NAME, ["bits", "values"], ["kernel"], body, [helper.make_opsetid("", opset)], [SHAPE]
    )


def call(name: str, bits: str, values: str, shape: tuple[int, ...]) -> NodeProto:
    """The node that makes the kernel `name`."""
    return helper.make_node(NAME, [bits, values], [name], domain=DOMAIN, shape=list(shape))


def take_out(proto: ModelProto) -> dict[str, tuple[TensorProto, TensorProto]]:
    """Calls of the function on constants that nothing else reads → initializers without content, in place.

    Returns the name of each, and its bits and values. Calls of another function of that name stay as they are.
    """
    own = [entry for entry in proto.functions if (entry.domain, entry.name) == (DOMAIN, NAME)]
    if len(own) != 1 or len(own[0].opset_import) != 1 or own[0] != function(own[0].opset_import[0].version):
        return {}
    graph = proto.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    reads = _reads(graph)
    found: dict[str, tuple[TensorProto, TensorProto]] = {}
    kept: list[NodeProto] = []
    for node in graph.node:
        shape = _shape(node)
        once = len(set(node.input)) == 2 and all(name in held and reads[name] == 1 for name in node.input)
        if shape is None or not once or node.output[0] in held:
            kept.append(node)
            continue
        bits, values = (held.pop(name) for name in node.input)
        found[node.output[0]] = bits, values
        head = TensorProto(name=node.output[0], dims=shape, data_type=values.data_type)
        head.data_location = TensorProto.EXTERNAL  # no content here, as with that of a file beside the model
        held[head.name] = head
    if found:
        nodes, tensors = [NodeProto.FromString(node.SerializeToString()) for node in kept], list(held.values())
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(tensors)
        if not any(node.domain == DOMAIN for node in nodes):
            opsets = [entry for entry in proto.opset_import if entry.domain != DOMAIN]
            functions = [entry for entry in proto.functions if entry.domain != DOMAIN]
            del proto.opset_import[:], proto.functions[:]
            proto.opset_import.extend(opsets)
            proto.functions.extend(functions)
    return found


def _shape(node: NodeProto) -> list[int] | None:
    """The kernel's shape, of a call; None for any other node."""
    if (node.domain, node.op_type) != (DOMAIN, NAME) or len(node.input) != 2 or len(node.output) != 1:
        return None
    if len(node.attribute) != 1 or node.attribute[0].name != SHAPE:
        return None
    return list(node.attribute[0].ints)


def _reads(graph: GraphProto) -> Counter[str]:
    """Name → how often nodes of the graph and of the bodies in it read it, or the graph gives it."""
    found = Counter(value.name for value in graph.output)
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                found += _reads(body)
    return found
