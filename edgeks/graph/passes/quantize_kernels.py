"""One int8 kernel per sharing group: quantised once, whatever number of layers read it (docs/arithmetic.md §1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.kernels import KernelRead, array, output_channels, reads_by_kernel
from edgeks.graph.marks import carry_marks
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.target import Format
from edgeks.wording import counted

MAX_CODE = 127  # symmetric: −128 is never used
UINT8_ZERO_POINT = 128
INTEGER_KERNEL_OPS: dict[Format, tuple[str, ...]] = {
    "onnx": ("Conv", "Gemm", "MatMul"),
    "tflite": ("Conv", "ConvTranspose", "Gemm", "MatMul"),
}
AS_ASKED = "as asked"


def quantize_kernels(
    model: ir.Model,
    weights: Literal["int8", "uint8"],
    *,
    keep_float: Collection[str] = (),
    codes_of: Mapping[str, NDArray[np.int8]] = MappingProxyType({}),
    trained: Mapping[ir.Value, NDArray[np.float32]] = MappingProxyType({}),
    file_format: Format = "onnx",
) -> str:
    """W → DequantizeLinear(W_q, s_W) in front of every reader; W_q = round(W/s_W) is one Value per kernel.

    s_W is per output channel, symmetric, |W_q| ≤ 127: max|W|/127, or what training decided for a kernel. uint8 stores
    W_q + 128 with zero point 128. Kernels that a layer in `keep_float` reads stay as they are. `codes_of` gives the W_q
    of kernels, by name, that were rounded otherwise.
    """
    kept, done = [], 0
    zero_points: dict[int, ir.Value] = {}
    for kernel, readers in reads_by_kernel(model).items():
        asked = any(read.node.name in keep_float for read in readers)
        reason = AS_ASKED if asked else why_not(kernel, readers, file_format)
        if reason:
            kept.append(f"{readers[0].node.name} ({reason})")
            continue
        axis = output_channels(readers[0])
        if kernel in trained:
            scale = trained[kernel]
            codes = codes_at(array(kernel), scale, axis)
        else:
            codes, scale = symmetric_codes(array(kernel).astype(np.float64), axis)
            codes = codes_of.get(str(kernel.name), codes)
        stored = codes if weights == "int8" else (codes.astype(np.int16) + UINT8_ZERO_POINT).astype(np.uint8)
        kernel_q = new_initializer(model, f"{kernel.name}_q", stored)
        carry_marks(kernel, kernel_q)
        inputs = [kernel_q, new_initializer(model, f"{kernel.name}_scale", scale)]
        # Zero points that are 0 may be left out, but ONNX Runtime fuses a Gemm only when they are spelt out.
        if weights == "uint8" or any(read.node.op_type != "Conv" for read in readers):
            if scale.size not in zero_points:
                vector = np.full(scale.size, UINT8_ZERO_POINT if weights == "uint8" else 0, stored.dtype)
                zero_points[scale.size] = new_initializer(model, f"weight_zero_point_{scale.size}", vector)
            inputs.append(zero_points[scale.size])
        for read in readers:
            dequantize = ir.node("DequantizeLinear", inputs, attributes={"axis": axis})
            dequantize.outputs[0].name = f"{read.node.name}.w"
            model.graph.insert_before(read.node, dequantize)
            read.node.replace_input_with(1, dequantize.outputs[0])
        done += 1
    drop_unused_initializers(model)
    return f"{counted(done, 'kernel')} quantised once each" + (f"; kept in float: {', '.join(kept)}" if kept else "")


def symmetric_codes(weight: NDArray[np.float64], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Kernel → (codes of its shape, one scale per slice along `axis`). A slice of zeros takes the scale 1/127."""
    other_axes = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=other_axes)
    step = np.where(largest > 0, largest, 1.0) / MAX_CODE
    scale: NDArray[np.float32] = np.maximum(step, np.finfo(np.float32).tiny).astype(np.float32)
    along = [1] * weight.ndim
    along[axis] = -1
    codes = np.rint(weight / scale.astype(np.float64).reshape(along))
    return np.clip(codes, -MAX_CODE, MAX_CODE).astype(np.int8), scale


def codes_at(weight: NDArray[np.generic], scale: NDArray[np.float32], axis: int) -> NDArray[np.int8]:
    """Kernel and one scale per slice along `axis` → codes, rounded in float32 as training does."""
    along = [1] * weight.ndim
    along[axis] = -1
    rounded = np.rint(weight.astype(np.float32) / scale.reshape(along))
    codes: NDArray[np.int8] = np.clip(rounded, -MAX_CODE, MAX_CODE).astype(np.int8)
    return codes


def why_not(kernel: ir.Value, readers: list[KernelRead], file_format: Format = "onnx") -> str | None:
    """The reason why a kernel stays in float; None when it can be quantised."""
    for read in readers:
        node = read.node
        grouped = node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1
        if node.op_type not in INTEGER_KERNEL_OPS[file_format] or grouped:
            return f"{node.op_type} has no integer kernel"
        if node.op_type == "MatMul" and array(kernel).ndim != 2:
            return "MatMul with a kernel that is not a matrix"
        if node.op_type == "Gemm":
            plain = node.attributes.get_float("alpha", 1.0) == 1.0 == node.attributes.get_float("beta", 1.0)
            if not plain or node.attributes.get_int("transA"):
                return "Gemm with alpha, beta or transA"
    if len({output_channels(read) for read in readers}) != 1:
        return "read with different output axes"
    if len(kernel.uses()) != len(readers):
        return "also read by other ops"
    return None if array(kernel).dtype == np.float32 else f"type {array(kernel).dtype}"
