"""Operator of the graph → the function that lowers it. A row needs a test and is a line of docs/tflite_ops.md."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeks.formats.tflite.lowering import Lowering
from edgeks.formats.tflite.ops import convolution, dense, elementwise, moving, pooling

Lower = Callable[[Lowering, ir.Node], None]

LOWERINGS: dict[str, Lower] = {
    "Abs": elementwise.plain_float("ABS"),
    "Add": elementwise.add,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": elementwise.batch_normalization,
    "Clip": elementwise.clip,
    "Concat": moving.concat,
    "Conv": convolution.conv,
    "ConvTranspose": convolution.conv_transpose,
    "DepthToSpace": moving.depth_to_space,
    "Div": elementwise.div,
    "Elu": elementwise.elu,
    "Exp": elementwise.plain_float("EXP"),
    "Expand": moving.expand,
    "Flatten": moving.reshape,
    "Gather": moving.gather,
    "Gelu": elementwise.gelu,
    "Gemm": dense.gemm,
    "GlobalAveragePool": pooling.global_average_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    "HardSigmoid": elementwise.hard_sigmoid,
    "HardSwish": elementwise.hard_swish,
    "Identity": moving.identity,
    "LeakyRelu": elementwise.leaky_relu,
    "Log": elementwise.plain_float("LOG"),
    "LogSoftmax": elementwise.log_softmax,
    "MatMul": dense.matmul,
    "Max": elementwise.maximum,
    "MaxPool": pooling.max_pool,
    "Min": elementwise.minimum,
    "Mul": elementwise.mul,
    "Neg": elementwise.plain_float("NEG"),
    "PRelu": elementwise.prelu,
    "Pad": moving.pad,
    "ReduceMax": pooling.reduce_max,
    "ReduceMean": pooling.reduce_mean,
    "ReduceSum": pooling.reduce_sum,
    "Relu": elementwise.relu,
    "Reshape": moving.reshape,
    "Resize": moving.resize,
    "Sigmoid": elementwise.sigmoid,
    "Slice": moving.slice_,
    "Softmax": elementwise.softmax,
    "Split": moving.split,
    "Sqrt": elementwise.plain_float("SQRT"),
    "Squeeze": moving.reshape,
    "Sub": elementwise.sub,
    "Tanh": elementwise.tanh,
    "Tile": moving.tile,
    "Transpose": moving.transpose,
    "Unsqueeze": moving.reshape,
}
