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
    through_dynamic,
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
    kernel = kernel_of(node)
    if kernel is not None and kernel.content.ndim == 2:
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
    # tflite-runtime 2.14 on arm64 reads the bias of integer layers without asking whether there is one, and dies.
    bias = [bias_tensor(ctx, node, result, kernel, source)] if codes or node_has_bias(node) else []
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = result.activation
    options.keepNumDims = rank > 2
    ctx.emit("FULLY_CONNECTED", [source, weight, *bias], result, plain(rank), options)


def _as_convolution(
    ctx: Lowering, node: ir.Node, kernel: Kernel, source: Tensor, result: Result, *, transposed: bool
) -> None:
    """A Linear layer on activations that are quantised on the fly, as a 1×1 CONV_2D over a map of one row.

    FULLY_CONNECTED with a scale per output channel is refused by XNNPACK where one is negative, five times slower in
    the built-in kernels, and gives zeros in tflite-runtime 2.14 (tests/test_tflite_facts.py).
    """
    rows = int(np.prod(source.shape[:-1]))
    arrangement = (1, None, None, 0) if transposed else (0, None, None, 1)
    weight = kernel_tensor(ctx, kernel, arrangement, 0, codes=True)
    bias = bias_tensor(ctx, node, result, kernel, source)
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
    options.fusedActivationFunction = result.activation
    lead = (1, 1, rows) if rows != source.shape[0] else (rows, 1, 1)  # a batch is quantised image by image
    line = ctx.reshaped(source, (*lead, source.shape[-1]))
    made = ctx.step("CONV_2D", [line, weight, bias], (*lead, result.shape[-1]), options, name_of_output=result.name)
    ctx.hold(result.value, ctx.reshaped(made, result.shape), plain(len(result.shape)))
