"""What layers of one kernel do not share (bias, BN) leaves the layer, so that all of them pack the same kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.batch_norm import affine, has_constant_parameters, sole_batch_norm
from edgeks.graph.kernels import KernelRead, array, reads_by_kernel
from edgeks.graph.marks import carry_marks
from edgeks.graph.rewrite import drop_unused_initializers, insert_after_value, new_initializer, replace_node

MAP_RANK = 4
TAKE_BIAS = ("Conv", "ConvTranspose", "Gemm")


def separate_affine(model: ir.Model, *, for_integers: bool = False) -> str:
    """BN_l(conv(x, W) + c_l) → conv(x, W)·a_l + (a_l·c_l + b_l): Mul and Add, for every W that several layers read.

    Without BN: conv(x, W) + c_l → Add(conv(x, W), c_l). A bias that all layers of a kernel hold as one Value stays in
    the layer. Every other BN, but that of a layer alone with its kernel, becomes Mul and Add, too: then layers that
    repeat differ in constants only. A Relu behind the Add is fused with it by the lowering (docs/adr/0018).

    `for_integers`: only layers that `affine_as_depthwise` takes, which comes next, and one bias of all as well.
    """
    biases: dict[ir.Value, NDArray[np.float64]] = {}  # by the output of the layer that had one
    alone, moved = set[ir.Node](), 0
    for readers in reads_by_kernel(model).values():
        if len(readers) == 1:
            alone.add(readers[0].node)
        elif for_integers and not all(is_dense_map(read) for read in readers):
            alone.update(read.node for read in readers)
        elif for_integers or len({_bias(read.node) for read in readers}) > 1:
            biases |= {read.node.outputs[0]: bias for read in readers if (bias := _taken_bias(read)) is not None}
    count = 0
    for norm in list(model.graph):
        source = norm.inputs[0] if norm.inputs else None
        if norm.op_type != "BatchNormalization" or not has_constant_parameters(norm) or source is None:
            continue
        if source.producer() in alone:
            continue
        gain, offset = affine(norm)
        if sole_batch_norm(source) is norm and source in biases:
            offset = offset + gain * biases.pop(source).ravel()
            moved += 1
        _replace(model, norm, gain, offset)
        count += 1
    for result, bias in biases.items():
        _add_behind(model, result, bias)
    drop_unused_initializers(model)
    return f"{count} BN as Mul and Add, {moved + len(biases)} biases moved behind shared kernels"


def is_dense_map(read: KernelRead) -> bool:
    """Whether a layer is a 2-D convolution of one group."""
    is_map = read.node.op_type == "Conv" and array(read.kernel).ndim == MAP_RANK
    return is_map and read.node.attributes.get_int("group", 1) == 1


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if node.op_type in TAKE_BIAS and len(node.inputs) > 2 else None


def _taken_bias(read: KernelRead) -> NDArray[np.float64] | None:
    """The constant bias that the layer has no more, shaped to be added to its output; None: it has none to take."""
    node, bias = read.node, _bias(read.node)
    if bias is None or not bias.is_initializer() or node.attributes.get_float("beta", 1.0) != 1.0:
        return None
    content = array(bias).astype(np.float64)
    node.resize_inputs(2)
    if node.op_type == "Gemm":
        return content
    return content.reshape(_along_channels(array(read.kernel).ndim))


def _add_behind(model: ir.Model, result: ir.Value, content: NDArray[np.float64]) -> None:
    """A layer's output → Add(output, content), which takes over name and marks."""
    name = f"{_name_of(result)}.offset"
    offset = new_initializer(model, name, content.astype(np.float32))
    add = ir.node("Add", [result, offset], name=name)
    total = add.outputs[0]
    total.shape, total.type = result.shape, result.type
    result.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, result)
    insert_after_value(model, result, [add])
    total.name, result.name = result.name, f"{result.name}_layer"
    carry_marks(result, total)


def _name_of(result: ir.Value) -> str:
    producer = result.producer()
    return str(result.name if producer is None else producer.name)


def _replace(model: ir.Model, norm: ir.Node, gain: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    """`norm` → Mul by `gain`, Add of `offset`: one number of each per channel, axis 1."""
    source, result = norm.inputs[0], norm.outputs[0]
    shape = result.shape if result.shape is not None else source.shape if source is not None else None
    along = _along_channels(4 if shape is None else len(shape))
    factor = new_initializer(model, f"{norm.name}.gain", gain.astype(np.float32).reshape(along))
    added = new_initializer(model, f"{norm.name}.offset", offset.astype(np.float32).reshape(along))
    product = ir.node("Mul", [source, factor], name=f"{norm.name}.gain")
    product.outputs[0].name = f"{result.name}_scaled"
    product.outputs[0].shape, product.outputs[0].dtype = result.shape, ir.DataType.FLOAT
    total = ir.node("Add", [product.outputs[0], added], name=str(norm.name))
    replace_node(model, norm, [product, total])


def _along_channels(rank: int) -> tuple[int, ...]:
    return (-1, *[1] * (rank - 2))
