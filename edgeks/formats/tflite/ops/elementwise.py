"""Operators that work element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from edgeks.formats.tflite.layout import Order, channels_last, plain
from edgeks.formats.tflite.lowering import Lowering, Result
from edgeks.formats.tflite.network import Quantisation, Tensor
from edgeks.formats.tflite.values import Unsupported, clip_bounds, constant_content, is_computed, stack_of

# int8 outputs of these have one quantisation, written into TFLite's kernels.
OF_LOGISTIC = Quantisation(np.array([1 / 256], np.float32), -128)
OF_TANH = Quantisation(np.array([1 / 128], np.float32), 0)
MAX_BROADCAST_RANK = 4


def add(ctx: Lowering, node: ir.Node) -> None:
    """ADD. Equal shapes of up to 6 axes, or broadcasting up to 4; a Relu, Relu6 or Clip(-1, 1) behind it is fused."""
    _binary(ctx, node, "ADD", schema.AddOptionsT())


def sub(ctx: Lowering, node: ir.Node) -> None:
    """SUB. Equal shapes of up to 6 axes, or broadcasting up to 4; a Relu, Relu6 or Clip(-1, 1) behind it is fused."""
    _binary(ctx, node, "SUB", schema.SubOptionsT())


def mul(ctx: Lowering, node: ir.Node) -> None:
    """MUL. Equal shapes of up to 6 axes, or broadcasting up to 4; a Relu, Relu6 or Clip(-1, 1) behind it is fused."""
    _binary(ctx, node, "MUL", schema.MulOptionsT())


def div(ctx: Lowering, node: ir.Node) -> None:
    """DIV, in float. Equal shapes of up to 6 axes, or broadcasting up to 4; a Relu or its like behind it is fused."""
    _binary(ctx, node, "DIV", schema.DivOptionsT(), integer=False)


def maximum(ctx: Lowering, node: ir.Node) -> None:
    """MAXIMUM, in float. Two tensors, of equal shapes of up to 6 axes, or broadcasting up to 4."""
    _binary(ctx, node, "MAXIMUM", schema.MaximumMinimumOptionsT(), integer=False, fuse=False)


def minimum(ctx: Lowering, node: ir.Node) -> None:
    """MINIMUM, in float. Two tensors, of equal shapes of up to 6 axes, or broadcasting up to 4."""
    _binary(ctx, node, "MINIMUM", schema.MaximumMinimumOptionsT(), integer=False, fuse=False)


def batch_normalization(ctx: Lowering, node: ir.Node) -> None:
    """MUL and ADD of one number per channel, in float, where it could not be folded into the layer before. Constant
    parameters; not in training mode."""
    stacks = [stack_of(value) for value in node.inputs[1:5]]
    given = zip(range(1, 5), stacks, strict=True)
    parameters = [ctx.number(node, at) if stack is None else constant_content(stack) for at, stack in given]
    gamma, beta, mean, variance = parameters
    if gamma is None or beta is None or mean is None or variance is None or len(node.outputs) != 1:
        raise Unsupported("its parameters are absent, or it is in training mode")
    a = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + node.attributes.get_float("epsilon", 1e-5))
    b = beta - a * mean
    result = ctx.result(node, [])
    order, rank = ctx.order_of(node.inputs[0]), len(result.shape)
    along = [1] * rank
    along[1] = -1
    source = ctx.read(node.inputs[0], result)
    if any(stacks):
        last = order.index(1) == rank - 1
        if not last:
            raise Unsupported("other numbers in every iteration, along another axis than the tensor's last")
        factor, offset = (
            ctx.at_iteration(np.atleast_2d(vectors).astype(np.float32), (node, name))
            for name, vectors in (("factor", a), ("offset", b))
        )
    else:
        factor, offset = (ctx.floats(vector.reshape(along).transpose(order)) for vector in (a, b))
    product = ctx.step("MUL", [source, factor], source.shape, schema.MulOptionsT())
    options = schema.AddOptionsT()
    options.fusedActivationFunction = result.activation
    ctx.emit("ADD", [product, offset], result, order, options)


def relu(ctx: Lowering, node: ir.Node) -> None:
    """RELU, in float, or the fused activation of the operator before it."""
    _unary(ctx, node, "RELU", integer=False)  # 60 times slower in int8, which XNNPACK does not take (docs/adr/0014)


def clip(ctx: Lowering, node: ir.Node) -> None:
    """RELU, RELU6 or RELU_N1_TO_1, in float, or these fused into the operator before; RELU_0_TO_1, in float; MAXIMUM
    and MINIMUM, in float, for other bounds. Constant bounds."""
    bounds = clip_bounds(node)
    if bounds is None:
        raise Unsupported("its bounds are computed at run time")
    names = {(0.0, 6.0): "RELU6", (0.0, float("inf")): "RELU", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, 1.0): "RELU_0_TO_1"}
    if bounds in names:
        _unary(ctx, node, names[bounds], integer=False)
        return
    result = ctx.result(node, [], fuse=False)
    held = ctx.operand(node.inputs[0], result)
    tensor = held.tensor
    limits = [("MAXIMUM", bounds[0]), ("MINIMUM", bounds[1])]
    wanted = [(name, bound) for name, bound in limits if np.isfinite(bound)] or limits[:1]
    for name, bound in wanted[:-1]:
        tensor = ctx.step(name, [tensor, ctx.floats(bound)], tensor.shape, schema.MaximumMinimumOptionsT())
    name, bound = wanted[-1]
    options = schema.MaximumMinimumOptionsT()
    ctx.emit(name, [tensor, ctx.floats(bound)], result, held.order, options, columns=held.columns)


def sigmoid(ctx: Lowering, node: ir.Node) -> None:
    """LOGISTIC. In float, too, where the output's scale is below 1/512: its int8 kernel has the scale 1/256."""
    _unary(ctx, node, "LOGISTIC", own=OF_LOGISTIC)


def tanh(ctx: Lowering, node: ir.Node) -> None:
    """TANH."""
    _unary(ctx, node, "TANH", own=OF_TANH)


def gelu(ctx: Lowering, node: ir.Node) -> None:
    """GELU, exact or by tanh as the network has it."""
    options = schema.GeluOptionsT()
    options.approximate = node.attributes.get_string("approximate", "none") == "tanh"
    _unary(ctx, node, "GELU", options)


def hard_swish(ctx: Lowering, node: ir.Node) -> None:
    """HARD_SWISH, in float."""
    _unary(ctx, node, "HARD_SWISH", schema.HardSwishOptionsT(), integer=False)  # as RELU


def hard_sigmoid(ctx: Lowering, node: ir.Node) -> None:
    """Torch's (alpha 1/6, beta 0.5): HARD_SWISH where it is multiplied by its input, else ADD with RELU6, and MUL.
    Others: MUL, ADD and RELU_0_TO_1. In float."""
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    product, of_torch = _hard_swish_of(node), abs(alpha - 1 / 6) < 1e-6 and beta == 0.5
    if product is not None and of_torch:
        result = ctx.result(product, [], fuse=False)
        ctx.done[product] = None
        order = ctx.order_of(node.inputs[0])
        ctx.emit("HARD_SWISH", [ctx.read(node.inputs[0], result)], result, order, schema.HardSwishOptionsT())
        return
    result = ctx.result(node, [], fuse=False)
    order, tensor = ctx.order_of(node.inputs[0]), ctx.read(node.inputs[0], result)
    if of_torch:  # XNNPACK takes no RELU_0_TO_1
        options = schema.AddOptionsT()
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
        tensor = ctx.step("ADD", [tensor, ctx.floats(3.0)], tensor.shape, options)
        ctx.emit("MUL", [tensor, ctx.floats(alpha)], result, order, schema.MulOptionsT())
        return
    tensor = ctx.step("MUL", [tensor, ctx.floats(alpha)], tensor.shape, schema.MulOptionsT())
    tensor = ctx.step("ADD", [tensor, ctx.floats(beta)], tensor.shape, schema.AddOptionsT())
    ctx.emit("RELU_0_TO_1", [tensor], result, order)


def leaky_relu(ctx: Lowering, node: ir.Node) -> None:
    """LEAKY_RELU."""
    options = schema.LeakyReluOptionsT()
    options.alpha = node.attributes.get_float("alpha", 0.01)
    _unary(ctx, node, "LEAKY_RELU", options)


def elu(ctx: Lowering, node: ir.Node) -> None:
    """RELU, MINIMUM, EXP, SUB, MUL and ADD, in float: the reference kernels lack TFLite's own. Any alpha."""
    result = ctx.result(node, [], fuse=False)
    order, x = ctx.order_of(node.inputs[0]), ctx.read(node.inputs[0], result)
    alpha = node.attributes.get_float("alpha", 1.0)
    below = ctx.step("MINIMUM", [x, ctx.floats(0.0)], x.shape, schema.MaximumMinimumOptionsT())
    below = ctx.step("EXP", [below], x.shape)
    below = ctx.step("SUB", [below, ctx.floats(1.0)], x.shape, schema.SubOptionsT())
    if alpha != 1.0:
        below = ctx.step("MUL", [below, ctx.floats(alpha)], x.shape, schema.MulOptionsT())
    above = ctx.step("RELU", [x], x.shape)
    ctx.emit("ADD", [above, below], result, order, schema.AddOptionsT())


def prelu(ctx: Lowering, node: ir.Node) -> None:
    """PRELU, in float. A constant slope: one number per channel, or one for all."""
    rank = len(ctx.shape(node.inputs[0]))
    slope = ctx.number(node, 1)
    assert slope is not None  # noqa: S101  # required by the operator
    if rank < 2 or slope.ndim > rank or slope.size not in (1, ctx.shape(node.inputs[0])[1]):
        raise Unsupported(f"a slope of shape {slope.shape}; legal: one number, or one per channel")
    slope = slope.reshape([1] * (rank - slope.ndim) + list(slope.shape))
    if slope.size != 1 and slope.shape[1] != slope.size:
        raise Unsupported("a slope along another axis than the channels")
    result = ctx.result(node, [], fuse=False)
    order = channels_last(rank)
    per_channel = slope.reshape([1] * (rank - 2) + [-1])  # TFLite wants every axis but the batch
    ctx.emit("PRELU", [ctx.read(node.inputs[0], result, order), ctx.floats(per_channel)], result, order)


def softmax(ctx: Lowering, node: ir.Node) -> None:
    """SOFTMAX. Over any one axis (a TRANSPOSE where it does not lie last). In float, too, where the output's scale is
    below 1/512: its int8 kernel has the scale 1/256."""
    last_first(ctx, node, "SOFTMAX")


def log_softmax(ctx: Lowering, node: ir.Node) -> None:
    """LOG_SOFTMAX, in float. Over any one axis (a TRANSPOSE where it does not lie last)."""
    last_first(ctx, node, "LOG_SOFTMAX")


def plain_float(name: str) -> Any:
    """An operator that TFLite has under `name`, in float."""

    def lower(ctx: Lowering, node: ir.Node) -> None:
        _unary(ctx, node, name, integer=False)

    lower.__doc__ = f"{name}, in float."
    return lower


def last_first(ctx: Lowering, node: ir.Node, name: str) -> None:
    """Softmax and its like: the axis must be the tensor's last."""
    x = node.inputs[0]
    result = ctx.result(node, [x] if name == "SOFTMAX" else [], fuse=False, own=OF_LOGISTIC)
    axis = node.attributes.get_int("axis", -1) % len(result.shape)
    order = ctx.order_of(x)
    if order[-1] != axis:
        rank = len(order)
        order = next(
            (o for o in (channels_last(rank), plain(rank)) if o[-1] == axis),
            (*(a for a in range(rank) if a != axis), axis),
        )
    options = None
    if name == "SOFTMAX":
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
    ctx.emit(name, [ctx.read(x, result, order)], result, order, options, own=OF_LOGISTIC)


def _unary(
    ctx: Lowering,
    node: ir.Node,
    name: str,
    options: Any = None,
    *,
    own: Quantisation | None = None,
    integer: bool = True,
) -> None:
    x = node.inputs[0]
    result = ctx.result(node, [x] if integer else [], fuse=False, own=own)
    held = ctx.operand(x, result)
    ctx.emit(name, [held.tensor], result, held.order, options, own=own, columns=held.columns)


def _binary(ctx: Lowering, node: ir.Node, name: str, options: Any, *, integer: bool = True, fuse: bool = True) -> None:
    inputs = list(node.inputs)
    if len(inputs) != 2:
        raise Unsupported(f"of {len(inputs)} tensors; legal: 2")
    result = ctx.result(node, inputs if integer else [], fuse=fuse)
    rank = len(result.shape)
    if rank > MAX_BROADCAST_RANK and len({ctx.shape(value) for value in inputs}) > 1:
        raise Unsupported(f"broadcasting over {rank} axes; TFLite broadcasts over {MAX_BROADCAST_RANK}")
    order = _common_order(ctx, inputs, result, rank)
    if hasattr(options, "fusedActivationFunction"):
        options.fusedActivationFunction = result.activation
    tensors: list[Tensor | None] = [ctx.expanded(value, result, rank, order) for value in inputs]
    ctx.emit(name, tensors, result, order, options)


def _common_order(ctx: Lowering, values: list[ir.Value | None], result: Result, rank: int) -> Order:
    """The order of the largest operand that is computed and has all axes: the others are brought to it."""
    full = [v for v in values if is_computed(v) and len(ctx.shape(v)) == rank]
    full.sort(key=lambda value: -int(np.prod(ctx.shape(value))))
    sizes = {int(np.prod(ctx.shape(value))) for value in full}
    orders = [ctx.order_of(value) for value in full]
    if not orders:
        return plain(rank)
    # Of two equals, the one that convolutions read.
    return channels_last(rank) if len(sizes) == 1 and channels_last(rank) in orders else orders[0]


def _hard_swish_of(node: ir.Node) -> ir.Node | None:
    """The Mul that alone reads hard_sigmoid(x), and x."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].node.op_type != "Mul":
        return None
    product = uses[0].node
    return product if node.inputs[0] in product.inputs else None
