"""Operators that move, pick, pad or repeat values without computing any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from edgeks.formats.tflite.layout import (
    Order,
    after_transpose,
    channels_last,
    held_shape,
    plain,
    reshapable,
    through_reshape,
)
from edgeks.formats.tflite.lowering import Lowering, Result
from edgeks.formats.tflite.network import Tensor
from edgeks.formats.tflite.values import Unsupported, only_reader

MATRIX_PRODUCTS = ("Gemm", "MatMul")
UNCHANGED_BY = ("Relu", "Clip", "Identity", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def reshape(ctx: Lowering, node: ir.Node) -> None:
    """RESHAPE; behind a TRANSPOSE where the memory of N×H×W×C does not allow it in place. To a shape that is known at
    export, of up to 6 axes. A feature map that is flattened for one Linear layer stays as it is: the layer's columns
    are permuted."""
    x = node.inputs[0]
    before = ctx.shape(x)
    result = ctx.result(node, [x], fuse=False)
    held = ctx.operand(x, result)
    after = result.shape
    order = None if held.columns is not None else through_reshape(held.order, before, after)
    columns = held.columns
    if order is None and columns is None and len(after) == 2 and before[0] == after[0] and _feeds_one_layer(node):
        index = np.arange(after[1]).reshape(before[1:])
        columns = index.transpose([axis - 1 for axis in held.order if axis > 0]).ravel() if held.order[0] == 0 else None
        order = plain(2) if columns is not None else None
    elif columns is not None:
        raise Unsupported("a flattened feature map that is reshaped again")
    source = held.tensor
    if order is None:
        straight = reshapable(held.order, before, after)
        source, order = ctx.reordered(held, straight), through_reshape(straight, before, after)
        assert order is not None  # noqa: S101  # that is what reshapable is for
    moved = ctx.reshaped(source, held_shape(after, order))
    _hand_over(ctx, result, moved, order, columns)


def transpose(ctx: Lowering, node: ir.Node) -> None:
    """Nothing, or a TRANSPOSE where an operator behind it needs another order of axes."""
    x = node.inputs[0]
    result = ctx.result(node, [x], fuse=False)
    held = ctx.operand(x, result)
    if held.columns is not None:
        raise Unsupported("a flattened feature map that is transposed")
    rank = len(held.order)
    perm = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
    _hand_over(ctx, result, held.tensor, after_transpose(held.order, perm))


def identity(ctx: Lowering, node: ir.Node) -> None:
    """Nothing."""
    result = ctx.result(node, node.inputs[:1], fuse=False)
    held = ctx.operand(node.inputs[0], result)
    _hand_over(ctx, result, held.tensor, held.order, held.columns)


def concat(ctx: Lowering, node: ir.Node) -> None:
    """CONCATENATION along any axis. int8 inputs are brought to the scale of the output by a QUANTIZE."""
    inputs = list(node.inputs)
    result = ctx.result(node, inputs, fuse=False)
    rank = len(result.shape)
    orders = [ctx.order_of(value) for value in inputs if value is not None and not value.is_initializer()]
    order = channels_last(rank) if not orders or channels_last(rank) in orders else orders[0]
    tensors = [ctx.expanded(value, result, rank, order) for value in inputs]
    if result.quantisation is not None:
        tensors = [ctx.requantised(tensor, result.quantisation) for tensor in tensors]
    options = schema.ConcatenationOptionsT()
    options.axis = order.index(node.attributes.get_int("axis", 0) % rank)
    ctx.emit("CONCATENATION", tensors, result, order, options)


def slice_(ctx: Lowering, node: ir.Node) -> None:
    """STRIDED_SLICE. Constant starts, ends, axes and steps, negative ones too; not empty."""
    x = node.inputs[0]
    shape = ctx.shape(x)
    starts, ends = ctx.number(node, 1), ctx.number(node, 2)
    axes, steps = ctx.number(node, 3), ctx.number(node, 4)
    if starts is None or ends is None:
        raise Unsupported("without starts and ends")
    listed = range(starts.size) if axes is None else [int(axis) % len(shape) for axis in axes.ravel()]
    begin, end, stride = [0] * len(shape), list(shape), [1] * len(shape)
    end_mask = 0
    result = ctx.result(node, [x], fuse=False)
    order = ctx.order_of(x)
    for position, axis in enumerate(listed):
        step = 1 if steps is None else int(steps.ravel()[position])
        bounds = _bounds(int(starts.ravel()[position]), int(ends.ravel()[position]), step, shape[axis])
        found = range(shape[axis])[slice(*bounds)]
        if len(found) == 0:
            raise Unsupported("an empty slice")
        begin[axis], stride[axis] = found[0], step
        end[axis] = found[-1] + (1 if step > 0 else -1)
        if end[axis] < 0:  # a negative end would count from the back
            end[axis] = 0
            end_mask |= 1 << order.index(axis)
    _strided_slice(ctx, result, ctx.read(x, result), order, begin, end, stride, end_mask)


def split(ctx: Lowering, node: ir.Node) -> None:
    """STRIDED_SLICE for each part, which delegates take. Parts of any sizes along one axis."""
    x = node.inputs[0]
    shape = ctx.shape(x)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    at = 0
    for index, output in enumerate(node.outputs):
        size = ctx.shape(output)[axis]
        if output.uses() or output.is_graph_output():
            result = ctx.result(node, [x], fuse=False, output=index)
            begin, end = [0] * len(shape), list(shape)
            begin[axis], end[axis] = at, at + size
            _strided_slice(ctx, result, ctx.read(x, result), ctx.order_of(x), begin, end, [1] * len(shape), 0)
        at += size


def gather(ctx: Lowering, node: ir.Node) -> None:
    """GATHER. Constant indices along one axis: a vector, or one number (then a RESHAPE, too)."""
    x = node.inputs[0]
    shape = ctx.shape(x)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    indices = ctx.number(node, 1)
    if indices is None or indices.ndim > 1:
        raise Unsupported("its indices are not a constant vector or number")
    indices = indices % shape[axis]
    result = ctx.result(node, [x], fuse=False)
    order = ctx.order_of(x)
    source = ctx.read(x, result)
    options = schema.GatherOptionsT()
    options.axis = order.index(axis)
    if indices.ndim == 1:
        ctx.emit("GATHER", [source, ctx.integers(indices)], result, order, options, own=source.quantisation)
        return
    kept = list(held_shape(shape, order))
    kept[order.index(axis)] = 1
    made = ctx.step("GATHER", [source, ctx.integers([int(indices)])], kept, options)
    left = tuple(a - (a > axis) for a in order if a != axis)
    _hand_over(ctx, result, ctx.reshaped(made, held_shape(result.shape, left)), left)


def pad(ctx: Lowering, node: ir.Node) -> None:
    """PAD with zeros, PADV2 with another constant (in float), MIRROR_PAD with the reflection, a GATHER for each axis
    with the edge repeated. Constant amounts, none negative."""
    x = node.inputs[0]
    shape = ctx.shape(x)
    amounts, value, axes = ctx.number(node, 1), ctx.number(node, 2), ctx.number(node, 3)
    mode = node.attributes.get_string("mode", "constant")
    if amounts is None or mode not in ("constant", "reflect", "edge"):
        raise Unsupported(f"mode {mode!r}, or no amounts")
    listed = list(range(len(shape))) if axes is None else [int(axis) % len(shape) for axis in axes.ravel()]
    pairs = [(0, 0)] * len(shape)
    for position, axis in enumerate(listed):
        pairs[axis] = (int(amounts.ravel()[position]), int(amounts.ravel()[position + len(listed)]))
    if min(n for pair in pairs for n in pair) < 0:
        raise Unsupported("negative padding")
    filled = 0.0 if value is None or value.size == 0 else float(value.ravel()[0])
    if isinstance(value, np.ndarray) and value.dtype == np.int8:  # codes: the zero point, by edgeks' own pass
        filled = 0.0
    result = ctx.result(node, [x] if filled == 0.0 else [], fuse=False)
    order, source = ctx.order_of(x), ctx.read(x, result)
    _pad(ctx, result, source, order, [pairs[axis] for axis in order], mode, filled)


def resize(ctx: Lowering, node: ir.Node) -> None:
    """RESIZE_NEAREST_NEIGHBOR (asymmetric and rounded down, or half-pixel by a whole factor) or, in float,
    RESIZE_BILINEAR (half-pixel, aligned corners, or asymmetric; no antialias). Of H and W of N×C×H×W."""
    x = node.inputs[0]
    shape, mode = ctx.shape(x), node.attributes.get_string("mode", "nearest")
    transform = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    if len(shape) != 4:
        raise Unsupported(f"{len(shape)} axes; a feature map N×C×H×W has 4")
    if mode not in ("nearest", "linear") or node.attributes.get_int("antialias", 0) == 1:
        raise Unsupported(f"mode {mode!r}" if mode not in ("nearest", "linear") else "antialias")
    result = ctx.result(node, [x] if mode == "nearest" else [], fuse=False)
    if result.shape[:2] != shape[:2]:
        raise Unsupported("it resizes more than H and W")
    options: Any
    if mode == "nearest":
        options, name = schema.ResizeNearestNeighborOptionsT(), "RESIZE_NEAREST_NEIGHBOR"
        whole = all(after % before == 0 for before, after in zip(shape[2:], result.shape[2:], strict=True))
        if not (transform == "asymmetric" and rounding == "floor"):
            if transform not in ("half_pixel", "pytorch_half_pixel") or not whole:
                raise Unsupported(f"nearest by {transform}, {rounding}")
            options.halfPixelCenters = True
    else:
        options, name = schema.ResizeBilinearOptionsT(), "RESIZE_BILINEAR"
        if transform not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
            raise Unsupported(f"bilinear by {transform}")
        if transform == "pytorch_half_pixel" and 1 in result.shape[2:]:
            raise Unsupported("bilinear by pytorch_half_pixel to a size of 1")
        options.alignCorners = transform == "align_corners"
        options.halfPixelCenters = transform in ("half_pixel", "pytorch_half_pixel")
    source = ctx.read(x, result, channels_last(4))
    sizes = ctx.integers(result.shape[2:])
    ctx.emit(name, [source, sizes], result, channels_last(4), options, own=source.quantisation)


def depth_to_space(ctx: Lowering, node: ir.Node) -> None:
    """DEPTH_TO_SPACE. Either order of channels: torch's pixel_shuffle (CRD) by a GATHER of the channels first."""
    x = node.inputs[0]
    shape, block = ctx.shape(x), node.attributes.get_int("blocksize", 1)
    result = ctx.result(node, [x], fuse=False)
    source = ctx.read(x, result, channels_last(4))
    if node.attributes.get_string("mode", "DCR") == "CRD":
        channels = np.arange(shape[1]).reshape(-1, block, block).transpose(1, 2, 0).ravel()
        options: Any = schema.GatherOptionsT()
        options.axis = 3
        source = ctx.step("GATHER", [source, ctx.integers(channels)], source.shape, options)
    options = schema.DepthToSpaceOptionsT()
    options.blockSize = block
    ctx.emit("DEPTH_TO_SPACE", [source], result, channels_last(4), options, own=source.quantisation)


def tile(ctx: Lowering, node: ir.Node) -> None:
    """TILE. Constant repeats."""
    x = node.inputs[0]
    repeats = ctx.number(node, 1)
    if repeats is None:
        raise Unsupported("without repeats")
    result = ctx.result(node, [x], fuse=False)
    order, source = ctx.order_of(x), ctx.read(x, result)
    multiples = ctx.integers([int(repeats.ravel()[axis]) for axis in order])
    ctx.emit("TILE", [source, multiples], result, order, schema.TileOptionsT(), own=source.quantisation)


def expand(ctx: Lowering, node: ir.Node) -> None:
    """TILE, to a shape that is known at export."""
    x = node.inputs[0]
    result = ctx.result(node, [x], fuse=False)
    rank = len(result.shape)
    order = ctx.order_of(x) if len(ctx.shape(x)) == rank else plain(rank)
    source = ctx.expanded(x, result, rank, order)
    wanted = held_shape(result.shape, order)
    multiples = ctx.integers([want // have for want, have in zip(wanted, source.shape, strict=True)])
    ctx.emit("TILE", [source, multiples], result, order, schema.TileOptionsT(), own=source.quantisation)


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int, int | None, int]:
    """ONNX's start and end, which may lie far outside, as Python's."""
    if step < 0 and end < -size:
        return min(start, size - 1), None, step
    return start, end, step


def _strided_slice(
    ctx: Lowering,
    result: Result,
    source: Tensor,
    order: Order,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int],
    end_mask: int,
) -> None:
    options = schema.StridedSliceOptionsT()
    options.endMask = end_mask
    batch = source.shape[order.index(0)]
    if (begin[0], end[0], stride[0]) == (0, batch, 1):  # all of it, also of an interpreter that is resized
        options.endMask |= 1 << order.index(0)
    tables = [ctx.integers(held_shape(numbers, order)) for numbers in (begin, end, stride)]
    ctx.emit("STRIDED_SLICE", [source, *tables], result, order, options, own=source.quantisation)


def _pad(
    ctx: Lowering,
    result: Result,
    source: Tensor,
    order: Order,
    pairs: list[tuple[int, int]],
    mode: str,
    filled: float,
) -> None:
    if mode == "constant":
        padded = ctx.padded(source, pairs, None if filled == 0.0 else ctx.floats(filled))
        _hand_over(ctx, result, padded, order)
        return
    if mode == "edge":
        for axis, (low, high) in enumerate(pairs):
            if low or high:
                gather = schema.GatherOptionsT()
                gather.axis = axis
                size = source.shape[axis]
                picked = np.clip(np.arange(-low, size + high), 0, size - 1)
                shape = [*source.shape[:axis], picked.size, *source.shape[axis + 1 :]]
                source = ctx.step("GATHER", [source, ctx.integers(picked)], shape, gather)
        _hand_over(ctx, result, source, order)
        return
    table = ctx.network.constant("", np.array(pairs, np.int32))
    options = schema.MirrorPadOptionsT()
    options.mode = schema.MirrorPadMode.REFLECT
    ctx.emit("MIRROR_PAD", [source, table], result, order, options, own=source.quantisation)


def _hand_over(ctx: Lowering, result: Result, tensor: Tensor, order: Order, columns: Any = None) -> None:
    """A tensor that is there already is the result; in codes of the graph's own scale."""
    if result.quantisation is not None:
        tensor = ctx.requantised(tensor, result.quantisation)
    ctx.hold(result.value, tensor, order, columns)


def _feeds_one_layer(node: ir.Node) -> bool:
    """Whether what leaves `node` only reaches one Linear layer, whose kernel no other layer reads."""
    value = node.outputs[0]
    while (reader := only_reader(value)) is not None and reader.op_type in UNCHANGED_BY:
        value = reader.outputs[0]
    if reader is None or reader.op_type not in MATRIX_PRODUCTS:
        return False
    weight = reader.inputs[1]
    producer = None if weight is None else weight.producer()
    chain = [weight, *([] if producer is None else [producer.inputs[0]])]
    return all(value is not None and len(value.uses()) == 1 for value in chain)
