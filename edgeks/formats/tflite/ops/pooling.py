"""Pooling over windows, and reductions over axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.formats.tflite.layout import Order, channels_last, held_shape
from edgeks.formats.tflite.lowering import Lowering
from edgeks.formats.tflite.network import Tensor
from edgeks.formats.tflite.ops.windows import Window, is_same, padded_for, window
from edgeks.formats.tflite.values import Unsupported, clip_bounds

NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")
KEEPING_SIGN = ("MaxPool", "AveragePool", "QuantizeLinear", "DequantizeLinear", "Identity")
LOWEST = float(np.finfo(np.float32).min)


def max_pool(ctx: Lowering, node: ir.Node) -> None:
    """MAX_POOL_2D. 1-D or 2-D; any kernel size, stride, padding (a PADV2 with the lowest number, or a PAD, where it is
    not SAME) and ceil_mode; dilation 1; one output."""
    _pool(ctx, node, "MAX_POOL_2D")


def average_pool(ctx: Lowering, node: ir.Node) -> None:
    """AVERAGE_POOL_2D. 1-D or 2-D; any kernel size, stride, padding and ceil_mode; dilation 1. Padding that counts is a
    PAD; padding that does not count is SAME, or else a PAD and a MUL that corrects the count, in float."""
    _pool(ctx, node, "AVERAGE_POOL_2D")


def global_average_pool(ctx: Lowering, node: ir.Node) -> None:
    """MEAN over the feature map, N×C×L or N×C×H×W."""
    _global(ctx, node, "MEAN")


def global_max_pool(ctx: Lowering, node: ir.Node) -> None:
    """REDUCE_MAX over the feature map, N×C×L or N×C×H×W."""
    _global(ctx, node, "REDUCE_MAX")


def reduce_mean(ctx: Lowering, node: ir.Node) -> None:
    """MEAN over constant axes."""
    _reduce(ctx, node, "MEAN")


def reduce_max(ctx: Lowering, node: ir.Node) -> None:
    """REDUCE_MAX over constant axes."""
    _reduce(ctx, node, "REDUCE_MAX")


def reduce_sum(ctx: Lowering, node: ir.Node) -> None:
    """SUM over constant axes, in float."""
    _reduce(ctx, node, "SUM")


def _pool(ctx: Lowering, node: ir.Node, name: str) -> None:
    x = node.inputs[0]
    shape = ctx.shape(x)
    if len(node.outputs) > 1 and node.outputs[1].uses():
        raise Unsupported("its indices are read")
    over = window(node, node.attributes.get_ints("kernel_shape", ()), shape[2:])
    if over.dilations != (1, 1):
        raise Unsupported("dilated pooling")
    line = (1,) * (4 - len(shape))  # N×C×L is a map of one row
    sizes, outputs = (*line, *shape[2:]), (*line, *ctx.shape(node.outputs[0])[2:])
    correction, explicit = None, False
    if name == "AVERAGE_POOL_2D":
        counted = node.attributes.get_int("count_include_pad", 0) == 1
        wanted, inside = (_counts(over, sizes, outputs, counted=c) for c in (counted, False))
        over = _with_ceil(over, sizes, outputs)
        explicit = not (is_same(over, sizes) and np.array_equal(wanted, inside))
        if explicit and (wanted != over.kernel[0] * over.kernel[1]).any():
            correction = over.kernel[0] * over.kernel[1] / wanted
    else:
        over = _with_ceil(over, sizes, outputs)
    result = ctx.result(node, [x] if correction is None else [])
    source = ctx.read(x, result, channels_last(len(shape)))
    source = ctx.reshaped(source, (shape[0], *sizes, shape[1]))
    needs_fill = name == "MAX_POOL_2D" and any(sum(over.pads, ())) and not _never_negative(x)
    fill = _lowest(ctx, source) if needs_fill else None
    padded, padding = padded_for(ctx, source, over, explicit=explicit, fill=fill)
    options = schema.Pool2DOptionsT()
    options.padding, (options.strideH, options.strideW) = padding, over.strides
    options.filterHeight, options.filterWidth = over.kernel
    if correction is None:
        options.fusedActivationFunction = result.activation
        if len(shape) == 4:
            ctx.emit(name, [padded], result, channels_last(4), options, own=source.quantisation)
            return
    made = ctx.step(name, [padded], (shape[0], *outputs, shape[1]), options)
    if correction is not None:
        product = schema.MulOptionsT()
        product.fusedActivationFunction = result.activation
        made = ctx.step("MUL", [made, ctx.floats(correction[None, :, :, None])], made.shape, product)
    if result.quantisation is not None:
        made = ctx.requantised(made, result.quantisation)
    order = channels_last(len(shape))
    ctx.hold(result.value, ctx.reshaped(made, held_shape(result.shape, order)), order)


def _counts(over: Window, sizes: Sequence[int], outputs: Sequence[int], *, counted: bool) -> NDArray[np.float64]:
    """H×W: how many numbers of each window ONNX divides by; what lies beyond the padding never counts."""
    along = []
    for size, (low, high), k, s, out in zip(sizes, over.pads, over.kernel, over.strides, outputs, strict=True):
        begin = np.arange(out) * s - low
        first, last = (-low, size + high) if counted else (0, size)
        along.append((np.minimum(begin + k, last) - np.maximum(begin, first)).astype(np.float64))
    return np.outer(*along)


def _with_ceil(over: Window, sizes: Sequence[int], outputs: Sequence[int]) -> Window:
    """ceil_mode as more padding at the end: the window that gives `outputs`."""
    pads = [
        (low, max(high, (out - 1) * s + k - size - low))
        for size, (low, high), k, s, out in zip(sizes, over.pads, over.kernel, over.strides, outputs, strict=True)
    ]
    return replace(over, pads=(pads[0], pads[1]))


def _never_negative(value: ir.Value | None) -> bool:
    """Whether zeros never win a maximum over `value`: a plain PAD does, which XNNPACK takes."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in KEEPING_SIGN:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is not None and node.op_type == "Clip":
        bounds = clip_bounds(node)
        return bounds is not None and bounds[0] >= 0
    return node is not None and node.op_type in NEVER_NEGATIVE


def _lowest(ctx: Lowering, tensor: Tensor) -> Tensor | None:
    """What never wins a maximum; None where 0 is the lowest code already, and a plain PAD does."""
    if tensor.quantisation is None:
        return ctx.floats(LOWEST)
    lowest = np.iinfo(np.int8).min
    if tensor.quantisation.zero_point == lowest:
        return None
    return ctx.network.constant("", np.array(lowest, np.int8), tensor.quantisation)


def _global(ctx: Lowering, node: ir.Node, name: str) -> None:
    rank = len(ctx.shape(node.inputs[0]))
    if rank > 4:
        raise Unsupported(f"{rank} axes; a feature map has 3 or 4")
    _over(ctx, node, name, tuple(range(2, rank)), keep=True)


def _reduce(ctx: Lowering, node: ir.Node, name: str) -> None:
    rank = len(ctx.shape(node.inputs[0]))
    axes = ctx.number(node, 1)
    listed = node.attributes.get_ints("axes", ()) if axes is None else [int(axis) for axis in axes.ravel()]
    if not listed and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        raise Unsupported("it reduces nothing")
    _over(ctx, node, name, tuple(sorted(a % rank for a in listed)) or tuple(range(rank)),
          keep=node.attributes.get_int("keepdims", 1) == 1)  # fmt: skip


def _over(ctx: Lowering, node: ir.Node, name: str, axes: tuple[int, ...], *, keep: bool) -> None:
    x = node.inputs[0]
    result = ctx.result(node, [] if name == "SUM" else [x], fuse=False)
    order = ctx.order_of(x)
    source = ctx.read(x, result)
    options: Any = schema.ReducerOptionsT()
    options.keepDims = keep
    held_axes = ctx.integers(sorted(order.index(axis) for axis in axes))
    own = source.quantisation if name == "REDUCE_MAX" else None
    ctx.emit(name, [source, held_axes], result, order if keep else _without(order, axes), options, own=own)


def _without(order: Order, axes: tuple[int, ...]) -> Order:
    left = [axis for axis in order if axis not in axes]
    return tuple(sorted(left).index(axis) for axis in left)
