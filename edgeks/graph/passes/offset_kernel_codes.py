"""int8 codes with a zero point other than 0, which lets ONNX Runtime share a packed kernel (docs/adr/0017)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.kernels import KernelRead, array, reads_by_kernel
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.wording import counted

LOWEST = -128
BLOCK = 16  # products that MLAS's kernel for Arm cores without dotprod takes at once, taps outside and channels inside
# Node that is told the zero point → the index of that input.
ZERO_POINT_INPUT = {"DequantizeLinear": 2, "QLinearConv": 5}


def offset_kernel_codes(model: ir.Model, zero_point: int) -> str:
    """W_q with zero point 0 → W_q + z with zero point z, for int8 kernels (OIHW) that several convolutions read.

    ONNX Runtime packs a kernel with zero point 0 for each node and one with another zero point once for all nodes.
    Exact, but for a second −128 in a block of products that an Arm core without dotprod adds in 16 bits: it becomes
    −127, since −128·−128 twice is one more than those hold. That is some codes in a million.
    Left as they are, because there is nothing to share or it would be slower (docs/adr/0017): kernels of one layer, of
    depthwise convolutions, of Gemm and MatMul, and uint8 kernels, whose zero point of 128 does the same.
    """
    points: dict[int, ir.Value] = {}
    done = layers = changed = 0
    for kernel, reads in reads_by_kernel(model).items():
        codes = array(kernel)
        if codes.dtype != np.int8 or not _can_share(reads) or kernel.is_graph_output():
            continue
        wide = codes.astype(np.int16) + zero_point
        if wide.min() < LOWEST:
            continue
        moved = _without_pairs_of_lowest(wide.astype(np.int8))
        changed += int(np.count_nonzero(moved != wide))
        kernel.const_value = ir.tensor(moved, name=kernel.name)
        for read in reads:
            teller = _teller(read)
            index = ZERO_POINT_INPUT[teller.op_type]
            scale = teller.inputs[index - 1]
            width = array(scale).size if scale is not None and teller.op_type == "DequantizeLinear" else 1
            if width not in points:
                name = f"kernel_zero_point_{width}"
                content = np.full(width, zero_point, np.int8) if width > 1 else np.array(zero_point, np.int8)
                points[width] = new_initializer(model, name, content)
            teller.resize_inputs(max(len(teller.inputs), index + 1))
            teller.replace_input_with(index, points[width])
        done, layers = done + 1, layers + len(reads)
    drop_unused_initializers(model)
    if not done:
        return "nothing to do: no two convolutions share an int8 kernel with zero point 0"
    note = f"{counted(done, 'kernel')} of {counted(layers, 'layer')} with zero point {zero_point}"
    return note + (f"; {counted(changed, 'code')} one step smaller" if changed else "")


def _without_pairs_of_lowest(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Kernel (OIHW) → the same with at most one −128 in every block of an output channel's products."""
    outputs, inputs = codes.shape[:2]
    rows = np.moveaxis(codes.reshape(outputs, inputs, -1), 1, 2)
    depth = inputs * rows.shape[1]
    blocks = np.pad(rows.reshape(outputs, depth), ((0, 0), (0, -depth % BLOCK))).reshape(outputs, -1, BLOCK)
    lowest = blocks == LOWEST
    blocks[lowest & (np.cumsum(lowest, axis=2) > 1)] += 1
    rows = blocks.reshape(outputs, -1)[:, :depth].reshape(rows.shape)
    return np.ascontiguousarray(np.moveaxis(rows, 2, 1).reshape(codes.shape))


def _teller(read: KernelRead) -> ir.Node:
    return read.dequantize or read.node


def _can_share(reads: list[KernelRead]) -> bool:
    """Whether several convolutions, none of them depthwise, read the codes, all with zero point 0."""
    if len(reads) < 2:
        return False
    for read in reads:
        teller, shape = _teller(read), array(read.kernel).shape
        if teller.op_type not in ZERO_POINT_INPUT or read.node.op_type not in ("Conv", "QLinearConv"):
            return False
        if shape[1] == 1 and read.node.attributes.get_int("group", 1) == shape[0]:
            return False
        index = ZERO_POINT_INPUT[teller.op_type]
        point = teller.inputs[index] if len(teller.inputs) > index else None
        if point is not None and (not point.is_initializer() or array(point).any()):
            return False
    return True
