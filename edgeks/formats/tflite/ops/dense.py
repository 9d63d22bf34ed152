"""Linear layers and matrix products: FULLY_CONNECTED, BATCH_MATMUL."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from edgeks.formats.tflite.layout import plain
from edgeks.formats.tflite.lowering import Lowering, Result
from edgeks.formats.tflite.network import Tensor
from edgeks.formats.tflite.ops.kernels import (
    Kernel,
    bias_tensor,
    kernel_of,
    kernel_tensor,
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
from edgeks.formats.tflite.values import Unsupported


def gemm(ctx: Lowering, node: ir.Node) -> None:
    """FULLY_CONNECTED; CONV_2D of 1×1 where activations are quantised on the fly. x·W + b with a constant W; alpha and
    beta 1, transA 0. A Relu, Relu6 or Clip(-1, 1) behind it is fused. A flattened feature map that this layer alone
    reads costs no transpose: the columns of W are permuted instead."""
    attributes = node.attributes
    if attributes.get_float("alpha", 1.0) != 1.0 or attributes.get_float("beta", 1.0) != 1.0:
        raise Unsupported("alpha or beta is not 1")
    if attributes.get_int("transA", 0):
        raise Unsupported("its input is transposed")
    _fully_connected(ctx, node, transposed=not attributes.get_int("transB", 0))


def matmul(ctx: Lowering, node: ir.Node) -> None:
    """FULLY_CONNECTED (CONV_2D of 1×1 where activations are quantised on the fly) for x·W with a constant matrix W;
    BATCH_MATMUL, in float, for a product of two tensors of equal rank, up to 4 axes."""
    stacked = stacked_kernel(node)
    kernel = kernel_of(node) if stacked is None else None
    if stacked is not None or (kernel is not None and kernel.content.ndim == 2):
        _fully_connected(ctx, node, transposed=True)
        return
    left, right = node.inputs
    result = ctx.result(node, [], fuse=False)
    rank = len(result.shape)
    if rank > 4 or rank != len(ctx.shape(left)) or rank != len(ctx.shape(right)):
        raise Unsupported("a product of tensors of different rank, or of more than 4 axes")
    factors = [
        ctx.read(left, result, plain(rank)),
        ctx.read(right, result, plain(rank))
        if kernel is None
        else kernel_tensor(ctx, kernel, plain(rank), rank - 1, codes=False),
    ]
    ctx.emit("BATCH_MATMUL", factors, result, plain(rank), schema.BatchMatMulOptionsT())


def _fully_connected(ctx: Lowering, node: ir.Node, *, transposed: bool) -> None:
    stacked = stacked_kernel(node)
    if stacked is not None:
        _of_stacked(ctx, node, stacked, transposed=transposed)
        return
    kernel = kernel_of(node)
    if kernel is None or kernel.content.ndim != 2:
        raise Unsupported("its matrix is computed at run time")
    x, on_the_fly = through_dynamic(node.inputs[0])
    result = ctx.result(node, [x] if kernel.dequantize else [])
    rank = len(ctx.shape(x))
    held = ctx.operand(x, result)
    columns = held.columns
    source = held.tensor if columns is not None else ctx.reordered(held, plain(rank))
    if on_the_fly and kernel.dequantize and columns is None:
        _as_convolution(ctx, node, kernel, source, result, transposed=transposed)
        return
    codes = kernel.dequantize and result.quantisation is not None
    weight = kernel_tensor(ctx, kernel, (1, 0) if transposed else (0, 1), 0, codes=codes, columns=columns)
    own = own_bias(node, kernel.gain)
    # tflite-runtime 2.14 on arm64 reads the bias of integer layers without asking whether there is one, and dies.
    bias = [bias_tensor(ctx, node, result, kernel, source)] if codes or (node_has_bias(node) and own is None) else []
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = rank > 2
    inputs, order, gain = [source, weight, *bias], plain(rank), kernel.gain
    emit_with_own(ctx, "FULLY_CONNECTED", inputs, result, order, options, result.shape, gain, own)


def _of_stacked(ctx: Lowering, node: ir.Node, kernel: StackedKernel, *, transposed: bool) -> None:
    """A Linear layer with a matrix of its own in every iteration: in float."""
    if kernel.content.ndim != 3:
        raise Unsupported("a product with more than a matrix that differs from iteration to iteration")
    x, _ = through_dynamic(node.inputs[0])
    result = ctx.result(node, [])
    rank = len(result.shape)
    source = ctx.read(x, result, plain(rank))
    weight = picked_kernel(ctx, kernel, (1, 0) if transposed else (0, 1))
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = rank > 2
    own = per_channel(node.inputs[2] if node_has_bias(node) else None)
    emit_with_own(
        ctx, "FULLY_CONNECTED", [source, weight], result, plain(rank), options, result.shape, kernel.scale, own
    )


def _as_convolution(
    ctx: Lowering, node: ir.Node, kernel: Kernel, source: Tensor, result: Result, *, transposed: bool
) -> None:
    """A Linear layer on activations that are quantised on the fly, as a 1×1 CONV_2D over a map of one row.

    FULLY_CONNECTED with a scale per output channel is refused by XNNPACK where one is negative, five times slower in
    the built-in kernels, and gives zeros in tflite-runtime 2.14 (tests/test_tflite_facts.py).
    """
    rows = int(np.prod(source.shape[:-1]))
    kernel = of_one_scale(kernel)
    arrangement = (1, None, None, 0) if transposed else (0, None, None, 1)
    weight = kernel_tensor(ctx, kernel, arrangement, 0, codes=True)
    bias = bias_tensor(ctx, node, result, kernel, source)
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
    lead = (1, 1, rows) if rows != source.shape[0] else (rows, 1, 1)  # a batch is quantised image by image
    line = ctx.reshaped(source, (*lead, source.shape[-1]))
    shape, order, own = (*lead, result.shape[-1]), plain(len(result.shape)), own_bias(node, kernel.gain)
    if kernel.gain is not None or own is not None:
        inputs = [line, weight, bias]
        emit_with_own(ctx, "CONV_2D", inputs, result, order, options, shape, kernel.gain, own)
        return
    options.fusedActivationFunction = result.activation
    made = ctx.step("CONV_2D", [line, weight, bias], shape, options, name_of_output=result.name)
    ctx.hold(result.value, ctx.reshaped(made, result.shape), order)
