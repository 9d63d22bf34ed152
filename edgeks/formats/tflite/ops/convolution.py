"""Convolutions: CONV_2D, DEPTHWISE_CONV_2D, TRANSPOSE_CONV."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.formats.tflite.layout import channels_last, held_shape
from edgeks.formats.tflite.lowering import Lowering, Result
from edgeks.formats.tflite.network import Tensor
from edgeks.formats.tflite.ops.kernels import (
    bias_tensor,
    kernel_of,
    kernel_tensor,
    layers_of,
    node_has_bias,
    of_one_scale,
    own_bias,
    through_dynamic,
)
from edgeks.formats.tflite.ops.per_iteration import (
    StackedKernel,
    emit_with_own,
    per_channel,
    picked_kernel,
    stacked_kernel,
)
from edgeks.formats.tflite.ops.windows import VALID, Window, padded_for, window
from edgeks.formats.tflite.values import Unsupported

MAP_RANK = 4


def conv(ctx: Lowering, node: ir.Node) -> None:
    """CONV_2D; DEPTHWISE_CONV_2D for one input channel per group, where the kernel has no other layers. 1-D or 2-D; any
    kernel size, stride, dilation, group count and padding (a PAD where it is neither SAME nor VALID); a constant
    kernel. A Relu, Relu6 or Clip(-1, 1) behind it is fused."""
    stacked = stacked_kernel(node)
    if stacked is not None:
        _conv_of_stacked(ctx, node, stacked)
        return
    kernel = kernel_of(node)
    if kernel is None:
        raise Unsupported("its kernel is computed at run time")
    rank = kernel.content.ndim
    x, on_the_fly = through_dynamic(node.inputs[0])
    result = ctx.result(node, [x] if kernel.dequantize else [])
    sizes = (None, 2) if rank == 3 else (2, 3)
    over = window(node, kernel.content.shape[2:], ctx.shape(x)[2:])
    source = _as_map(ctx, ctx.read(x, result, channels_last(rank)))
    depthwise = kernel.content.shape[1] == 1 and all(_groups(layer) > 1 for layer in layers_of(kernel))
    codes = kernel.dequantize and (result.quantisation is not None or (on_the_fly and _groups(node) == 1))
    kernel = of_one_scale(kernel) if on_the_fly else kernel
    arrangement = (1, *sizes, 0) if depthwise else (0, *sizes, 1)
    weight = kernel_tensor(ctx, kernel, arrangement, 3 if depthwise else 0, codes=codes)
    bias = bias_tensor(ctx, node, result, kernel, source)
    source, padding = padded_for(ctx, source, over)
    name, options = _operator(over, padding, kernel.content.shape[0] // _groups(node) if depthwise else None)
    own = own_bias(node, kernel.gain)
    if kernel.gain is not None or own is not None:
        _emit_own(ctx, name, [source, weight, bias], result, options, kernel.gain, own)
        return
    options.fusedActivationFunction = result.activation
    _emit_map(ctx, name, [source, weight, bias], result, rank, options)


def _conv_of_stacked(ctx: Lowering, node: ir.Node, kernel: StackedKernel) -> None:
    """A convolution with a kernel of its own in every iteration: in float; a FULLY_CONNECTED where it is 1×1."""
    shape, groups = kernel.content.shape[1:], _groups(node)
    if len(shape) != MAP_RANK:
        raise Unsupported(f"a {len(shape) - 2}-D kernel that differs from iteration to iteration; legal: 2-D")
    x, _ = through_dynamic(node.inputs[0])
    result = ctx.result(node, [])
    over = window(node, shape[2:], ctx.shape(x)[2:])
    source = ctx.read(x, result, channels_last(MAP_RANK))
    own = per_channel(node.inputs[2] if node_has_bias(node) else None)
    if groups == 1 and (over.kernel, over.strides, any(sum(over.pads, ()))) == ((1, 1), (1, 1), False):
        weight = picked_kernel(ctx, kernel, (0, 1))
        matrix = schema.FullyConnectedOptionsT()
        matrix.keepNumDims = True
        _emit_own(ctx, "FULLY_CONNECTED", [source, weight], result, matrix, kernel.scale, own)
        return
    depthwise = shape[1] == 1 and groups > 1
    if groups > 1 and not depthwise:
        raise Unsupported("a grouped kernel that differs from iteration to iteration; legal: one group, or depthwise")
    weight = picked_kernel(ctx, kernel, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    source, padding = padded_for(ctx, source, over)
    name, options = _operator(over, padding, shape[0] // groups if depthwise else None)
    bias = ctx.floats(np.zeros(shape[0]))
    _emit_own(ctx, name, [source, weight, bias], result, options, kernel.scale, own)


def _operator(over: Window, padding: int, multiplier: int | None) -> tuple[str, Any]:
    """CONV_2D, or with a `multiplier` DEPTHWISE_CONV_2D, and its options."""
    options: Any = schema.Conv2DOptionsT() if multiplier is None else schema.DepthwiseConv2DOptionsT()
    options.padding = padding
    options.strideH, options.strideW = over.strides
    options.dilationHFactor, options.dilationWFactor = over.dilations
    if multiplier is None:
        return "CONV_2D", options
    options.depthMultiplier = multiplier
    return "DEPTHWISE_CONV_2D", options


def _emit_own(
    ctx: Lowering,
    name: str,
    inputs: list[Tensor | None],
    result: Result,
    options: Any,
    gain: NDArray[np.float32] | None,
    offset: NDArray[np.float32] | None,
) -> None:
    """The operator and, behind it, what the iteration has of its own."""
    if len(result.shape) != MAP_RANK:
        raise Unsupported("a 1-D layer with a scale or bias of its own in every iteration")
    order = channels_last(MAP_RANK)
    emit_with_own(ctx, name, inputs, result, order, options, held_shape(result.shape, order), gain, offset)


def conv_transpose(ctx: Lowering, node: ir.Node) -> None:
    """TRANSPOSE_CONV. 2-D, one group, dilation 1; a constant kernel; padding, cut off the result by a STRIDED_SLICE, is
    given in numbers, and output_padding is no more than it."""
    kernel = kernel_of(node)
    if kernel is None:
        raise Unsupported("its kernel is computed at run time")
    if kernel.content.ndim != 4 or _groups(node) != 1:
        raise Unsupported("only one group and two dimensions have a TRANSPOSE_CONV")
    if set(node.attributes.get_ints("dilations", (1,))) != {1}:
        raise Unsupported("dilated; TRANSPOSE_CONV is not")
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        raise Unsupported("its padding is given by auto_pad or output_shape; legal: pads")
    x = node.inputs[0]
    result = ctx.result(node, [x] if kernel.dequantize else [], fuse=False)
    source = ctx.read(x, result, channels_last(4))
    weight = kernel_tensor(ctx, kernel, (1, 2, 3, 0), 0, codes=result.quantisation is not None)
    bias = bias_tensor(ctx, node, result, kernel, source)
    strides = tuple(node.attributes.get_ints("strides", (1, 1)))
    pads = tuple(node.attributes.get_ints("pads", (0, 0, 0, 0)))
    sizes = [(size - 1) * s + k for size, s, k in zip(ctx.shape(x)[2:], strides, kernel.content.shape[2:], strict=True)]
    wanted = result.shape[2:]
    options = schema.TransposeConvOptionsT()
    options.padding, (options.strideH, options.strideW) = VALID, strides
    more = [max(low + want - size, 0) for size, low, want in zip(sizes, pads[:2], wanted, strict=True)]
    if any(more):  # output_padding beyond what the kernel reaches: nothing but the bias there
        raise Unsupported(f"output_padding is {max(more)} more than padding; legal: no more than padding")
    whole = (result.shape[0], *sizes, result.shape[1])
    inputs = [ctx.integers(whole), weight, source, *([bias] if node_has_bias(node) else [])]
    if tuple(sizes) == wanted and not any(pads[:2]):
        ctx.emit("TRANSPOSE_CONV", inputs, result, channels_last(4), options)
        return
    made = ctx.step(
        "TRANSPOSE_CONV",
        inputs,
        whole,
        options,
        like=source,
        quantisation=result.quantisation,
        name_of_output=result.name,
    )
    result = replace(result, name="")
    begin = (0, *pads[:2], 0)
    end = (result.shape[0], *(low + want for low, want in zip(pads[:2], wanted, strict=True)), result.shape[1])
    cut = schema.StridedSliceOptionsT()
    cut.endMask = 1  # all of the batch, also of an interpreter that is resized
    tables: list[Tensor | None] = [made, ctx.integers(begin), ctx.integers(end), ctx.integers((1, 1, 1, 1))]
    ctx.emit("STRIDED_SLICE", tables, result, channels_last(4), cut)


def _as_map(ctx: Lowering, tensor: Tensor) -> Tensor:
    """N×L×C → N×1×L×C."""
    n, *sizes, channels = tensor.shape
    return ctx.reshaped(tensor, (n, 1, *sizes, channels)) if len(sizes) == 1 else tensor


def _emit_map(ctx: Lowering, name: str, inputs: list[Tensor | None], result: Any, rank: int, options: Any) -> None:
    """The operator, and for a 1-D one the RESHAPE back to N×L×C."""
    if rank == 4:
        ctx.emit(name, inputs, result, channels_last(4), options)
        return
    n, channels, length = result.shape
    type = "float32" if result.quantisation is None else "int8"
    made = ctx.network.activation(result.name, (n, 1, length, channels), type, result.quantisation)
    ctx.network.operator(name, inputs, [made], options)
    ctx.hold(result.value, ctx.reshaped(made, (n, length, channels)), channels_last(3))


def _groups(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1)
