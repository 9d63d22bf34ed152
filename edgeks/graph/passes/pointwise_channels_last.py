"""Pointwise convolutions as matrix products in NHWC, and the Transposes that this takes moved out of the way."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgeks.graph.batch_norm import affine, has_constant_parameters
from edgeks.graph.kernels import KernelRead, array, reads_by_kernel, required
from edgeks.graph.passes.quantize_activations import is_network_input
from edgeks.graph.rewrite import drop_unused_initializers, insert_after_value, new_initializer, replace_node

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
RANK = 4
# Element by element, so that the layout does not matter to them.
UNARY = {"Relu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Selu", "Softplus", "Mish", "Tanh"}
UNARY |= {"Clip"}  # with constant bounds
BINARY = {"Add", "Mul", "Sub", "Div"}


def pointwise_channels_last(model: ir.Model, skip: Collection[ir.Value] = ()) -> str:
    """Conv(x, W) with a 1×1 kernel → NCHW(NHWC(x) · Wᵀ + bias); W (O×I×1×1) becomes one matrix I×O for all its layers.

    ONNX Runtime's dynamically quantised product has the fast kernel, its ConvInteger has not (docs/adr/0013). The
    Transposes back to NCHW then move down past elementwise ops, residual adds and BN (which becomes Mul and Add), and
    cancel where they meet one to NHWC: a ConvMixer has none left but around its depthwise convolutions, and those
    ONNX Runtime merges into its own change of layout. Exact. Applies to kernels all of whose layers have stride 1 and
    no padding and do not read the network's input.
    """
    turned: dict[ir.Value, ir.Value] = {}
    layers = 0
    for kernel, readers in reads_by_kernel(model).items():
        if kernel in skip or len(kernel.uses()) != len(readers) or not all(_is_pointwise(model, r) for r in readers):
            continue
        matrix = new_initializer(model, f"{kernel.name}_t", np.ascontiguousarray(array(kernel)[:, :, 0, 0].T))
        for read in readers:
            _to_matrix_product(model, read.node, matrix, turned)
        layers += len(readers)
    drop_unused_initializers(model)
    if not layers:
        return "nothing to do: no pointwise layers"
    _sink(model)
    left = sum(node.op_type == "Transpose" for node in model.graph)
    return f"{layers} pointwise layers as matrix products in NHWC, {left} Transposes left"


def _is_pointwise(model: ir.Model, read: KernelRead) -> bool:
    node, shape = read.node, array(read.kernel).shape
    if node.op_type != "Conv" or len(shape) != RANK or shape[2:] != (1, 1):
        return False
    plain = node.attributes.get_int("group", 1) == 1 and not any(node.attributes.get_ints("pads", ()))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return (
        plain
        and set(node.attributes.get_ints("strides", (1,))) == {1}
        and (bias is None or bias.is_initializer())
        and not is_network_input(model, required(node.inputs[0]))
    )


def _transpose(value: ir.Value, order: tuple[int, ...]) -> ir.Node:
    node = ir.node("Transpose", [value], attributes={"perm": order}, name="")
    if value.shape is not None:
        node.outputs[0].shape = ir.Shape([value.shape[axis] for axis in order])
    node.outputs[0].dtype = ir.DataType.FLOAT
    return node


def _to_matrix_product(model: ir.Model, conv: ir.Node, matrix: ir.Value, turned: dict[ir.Value, ir.Value]) -> None:
    source = required(conv.inputs[0])
    if source not in turned:
        transpose = _transpose(source, TO_NHWC)
        turned[source] = transpose.outputs[0]
        insert_after_value(model, source, [transpose])
    made = [ir.node("MatMul", [turned[source], matrix], name=conv.name)]
    if len(conv.inputs) > 2 and conv.inputs[2] is not None:
        made.append(ir.node("Add", [made[-1].outputs[0], conv.inputs[2]], name=""))
    replace_node(
        model, conv, [*made, ir.node("Transpose", [made[-1].outputs[0]], attributes={"perm": TO_NCHW}, name="")]
    )


def _sink(model: ir.Model) -> None:
    """Transposes to NCHW move down as far as they go; those to NHWC that they meet disappear."""
    for node in list(model.graph):
        if node.op_type == "Transpose":
            turned = _before_transpose(node.inputs[0])
            if turned is not None and tuple(node.attributes.get_ints("perm", ())) == TO_NHWC:
                node.outputs[0].replace_all_uses_with(turned, replace_graph_outputs=True)
        elif node.op_type in UNARY:
            turned = _before_transpose(node.inputs[0])
            if turned is not None and all(v is None or _is_number(v) for v in node.inputs[1:]):
                _replace_sunk(model, node, [], _like(node, [turned, *node.inputs[1:]]))
        elif node.op_type == "BatchNormalization" and len(node.outputs) == 1:
            _sink_batch_norm(model, node)
        elif node.op_type in BINARY:
            _sink_binary(model, node)
    for node in reversed(list(model.graph)):
        if node.op_type == "Transpose" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            model.graph.remove(node, safe=True)


def _sink_binary(model: ir.Model, node: ir.Node) -> None:
    inputs = [required(value) for value in node.inputs]
    turned = [_before_transpose(value) for value in inputs]
    if not any(value is not None for value in turned):
        return
    if None in turned and not any(_is_number(v) for v in inputs) and not _wanted_in_nhwc(node.outputs[0], set()):
        return
    transposes, operands = [], []
    for value, before in zip(inputs, turned, strict=True):
        if before is None and not _is_number(value):
            if value.is_initializer() or value.shape is None or len(value.shape) != RANK:
                return
            transposes.append(_transpose(value, TO_NHWC))
            before = transposes[-1].outputs[0]
        operands.append(before or value)
    _replace_sunk(model, node, list(transposes), _like(node, operands))


def _wanted_in_nhwc(value: ir.Value, seen: set[ir.Value]) -> bool:
    """Whether a pointwise layer reads `value`, directly or behind ops that the Transpose moves past."""
    if value in seen:
        return False
    seen.add(value)
    for node, _ in value.uses():
        if node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == TO_NHWC:
            return True
        if node.op_type in UNARY | BINARY | {"BatchNormalization"} and _wanted_in_nhwc(node.outputs[0], seen):
            return True
    return False


def _sink_batch_norm(model: ir.Model, node: ir.Node) -> None:
    turned = _before_transpose(node.inputs[0])
    if turned is None or not has_constant_parameters(node):
        return
    a, b = affine(node)
    factor = new_initializer(model, f"{node.name}.factor", a.astype(np.float32))
    offset = new_initializer(model, f"{node.name}.offset", b.astype(np.float32))
    product = ir.node("Mul", [turned, factor], name="")
    _replace_sunk(model, node, [product], ir.node("Add", [product.outputs[0], offset], name=node.name))
    drop_unused_initializers(model)


def _like(node: ir.Node, inputs: list[ir.Value | None] | list[ir.Value]) -> ir.Node:
    return ir.node(node.op_type, list(inputs), attributes=dict(node.attributes.items()), name=node.name)


def _replace_sunk(model: ir.Model, old: ir.Node, before: list[ir.Node], last: ir.Node) -> None:
    replace_node(model, old, [*before, last, _transpose(last.outputs[0], TO_NCHW)])


def _before_transpose(value: ir.Value | None) -> ir.Value | None:
    """The NHWC tensor of which `value` is the Transpose to NCHW."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose" or tuple(node.attributes.get_ints("perm", ())) != TO_NCHW:
        return None
    return node.inputs[0]


def _is_number(value: ir.Value) -> bool:
    return value.is_initializer() and array(value).size == 1 and array(value).ndim <= 1
