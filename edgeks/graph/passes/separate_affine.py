"""What layers of one kernel do not share (bias, BN) leaves the layer, so that all of them pack the same kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.batch_norm import affine, has_constant_parameters, sole_batch_norm
from edgeks.graph.kernels import KernelRead, array, output_channels, reads_by_kernel
from edgeks.graph.marks import carry_marks
from edgeks.graph.rewrite import drop_unused_initializers, insert_after_value, new_initializer, replace_node

TAKE_BIAS = ("Conv", "ConvTranspose", "Gemm")


def separate_affine(model: ir.Model) -> str:
    """BN_l(conv(x, W) + c_l) → conv(x, W)·a_l + (a_l·c_l + b_l), a Mul and an Add, for every W that several layers read.

    Without BN: conv(x, W) + c_l → Add(conv(x, W), c_l). A bias that all layers of a kernel hold as one Value stays in
    the layer. Every other BN, but that of a layer alone with its kernel, becomes Mul and Add, too: then layers that
    repeat differ in constants only. A Relu behind the Add is fused with it by the lowering (docs/adr/0018).
    """
    moved, alone = 0, set[ir.Node]()
    for readers in reads_by_kernel(model).values():
        if len(readers) == 1:
            alone.add(readers[0].node)
        elif not _one_bias(readers):
            moved += sum(_move_bias(model, read) for read in readers)
    norms = [node for node in model.graph if node.op_type == "BatchNormalization" and has_constant_parameters(node)]
    apart = [norm for norm in norms if not (norm.inputs[0] is not None and norm.inputs[0].producer() in alone)]
    for norm in apart:
        gain, offset = affine(norm)
        _replace(model, norm, gain, offset)
    drop_unused_initializers(model)
    return f"{len(apart)} BN as Mul and Add, {moved} biases moved behind shared kernels"


def _one_bias(readers: list[KernelRead]) -> bool:
    """Whether all layers of a kernel hold one and the same bias, or none."""
    return len({_bias(read.node) for read in readers}) == 1


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if node.op_type in TAKE_BIAS and len(node.inputs) > 2 else None


def _move_bias(model: ir.Model, read: KernelRead) -> bool:
    """The layer's bias → the offset of the BN behind it, or an Add of its own."""
    node, bias = read.node, _bias(read.node)
    if bias is None or not bias.is_initializer() or node.attributes.get_float("beta", 1.0) != 1.0:
        return False
    content = array(bias).astype(np.float64)
    node.resize_inputs(2)
    norm = sole_batch_norm(node.outputs[0])
    if norm is not None:
        gain, offset = affine(norm)
        _replace(model, norm, gain, gain * content.ravel() + offset)
    else:
        width = array(read.kernel).shape[output_channels(read)]
        if node.op_type != "Gemm":
            content = np.broadcast_to(content.ravel(), width).reshape(_along_channels(array(read.kernel).ndim))
        _add_behind(model, node, content)
    return True


def _add_behind(model: ir.Model, node: ir.Node, content: NDArray[np.float64]) -> None:
    """`node` → Add(node, content) in its place; the sum takes over name and marks of the output."""
    result = node.outputs[0]
    offset = new_initializer(model, f"{node.name}.offset", content.astype(np.float32))
    add = ir.node("Add", [result, offset], name=f"{node.name}.offset")
    total = add.outputs[0]
    total.shape, total.type = result.shape, result.type
    result.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, result)
    insert_after_value(model, result, [add])
    total.name, result.name = result.name, f"{result.name}_layer"
    carry_marks(result, total)


def _replace(model: ir.Model, norm: ir.Node, gain: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    """`norm` → Mul by `gain`, Add of `offset`: one number of each per channel, axis 1."""
    source, result = norm.inputs[0], norm.outputs[0]
    shape = result.shape if result.shape is not None else source.shape if source is not None else None
    along = _along_channels(4 if shape is None else len(shape))
    factor = new_initializer(model, f"{norm.name}.gain", gain.astype(np.float32).reshape(along))
    added = new_initializer(model, f"{norm.name}.offset", offset.astype(np.float32).reshape(along))
    product = ir.node("Mul", [source, factor], name=f"{norm.name}.gain")
    product.outputs[0].shape, product.outputs[0].dtype = result.shape, ir.DataType.FLOAT
    total = ir.node("Add", [product.outputs[0], added], name=str(norm.name))
    replace_node(model, norm, [product, total])


def _along_channels(rank: int) -> tuple[int, ...]:
    return (-1, *[1] * (rank - 2))
