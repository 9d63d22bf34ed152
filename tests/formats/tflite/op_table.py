"""Operator of the lowering table → networks of it: random shapes, strides, paddings, dilations, axes."""

import torch
from hypothesis import strategies as st
from op_draws import Draw
from op_network import OpNetwork
from ops_elementwise import (
    batch_normalization,
    binary,
    clip,
    elu,
    gelu,
    hard_sigmoid,
    leaky_relu,
    over_axis,
    prelu,
    unary,
)
from ops_moving import (
    concat,
    depth_to_space,
    expand,
    flatten,
    gather,
    pad,
    reshape,
    resize,
    slice_,
    split,
    squeeze,
    tile,
    transpose,
    unsqueeze,
)
from ops_with_kernel import conv, conv_transpose, gemm, global_pool, matmul, pool, reduction
from torch.nn import functional as F

POSITIVE = ((0.1, 4.0), (0.5, 3.0))
NETWORKS = {
    "Abs": unary(torch.abs),
    "Add": binary(torch.add),
    "AveragePool": lambda draw: pool(draw, "AveragePool"),
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": binary(torch.div, ((-3.0, 4.0), (0.5, 3.0))),
    "Elu": elu,
    "Exp": unary(torch.exp),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool(torch.mean),
    "GlobalMaxPool": global_pool(torch.amax),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": unary(F.hardswish),
    "Identity": unary(lambda a: a),
    "LeakyRelu": leaky_relu,
    "Log": unary(torch.log, POSITIVE),
    "LogSoftmax": over_axis(torch.log_softmax),
    "MatMul": matmul,
    "Max": binary(torch.maximum, fused=False),
    "MaxPool": lambda draw: pool(draw, "MaxPool"),
    "Min": binary(torch.minimum, fused=False),
    "Mul": binary(torch.mul),
    "Neg": unary(torch.neg),
    "PRelu": prelu,
    "Pad": pad,
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "Relu": unary(torch.relu),
    "Reshape": reshape,
    "Resize": resize,
    "Sigmoid": unary(torch.sigmoid),
    "Slice": slice_,
    "Softmax": over_axis(torch.softmax),
    "Split": split,
    "Sqrt": unary(torch.sqrt, POSITIVE),
    "Squeeze": squeeze,
    "Sub": binary(torch.sub),
    "Tanh": unary(torch.tanh),
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}


@st.composite
def networks(draw: Draw, op: str) -> OpNetwork:
    """Any network of `op`."""
    network = NETWORKS[op](draw)
    network.text = network.text.replace("OP", op)
    network.seed = draw(st.integers(0, 1000))
    if network.perm is not None and list(network.perm) == sorted(network.perm):
        network.perm = None
    return network
