"""What ONNX Runtime's CPU kernels lay out anew at load, and the buffers that they need while they run.

The sizes follow the kernels' sources (qlinearconv.cc, conv_integer.cc, matmul_integer_base.h, gemm.cc and MLAS's
convolve.cpp, qgemm.cpp and convsym.cpp of ONNX Runtime 1.31). A kernel that hands its packed buffer over shares it with
every node of its type whose packed bytes are the same; QLinearConv's symmetric paths, which take s8 weights with zero
point 0 where bias and zero points are constants, do not: they pack for each node (docs/adr/0017). The original goes
when all of its readers have packed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import NodeProto

from edgeks.audit.alignment import rounded_up
from edgeks.audit.onnx.arena import GraphLiveness
from edgeks.audit.onnxruntime.graph import RuntimeStep, convolution
from edgeks.audit.ram import Machine

PACKED_COLUMNS = 16
PACKED_DEPTH = 4
CONV_SEGMENT = 128 * 128 * 4  # bytes in which a thread of a float convolution lays its input out
OVERRUN = 30  # elements that integer kernels may read behind their input
DEPTHWISE_CHANNELS: dict[Machine, int] = {"x86-64": 16, "arm64": 8}
LEAST_INPUTS_ARM64 = 64
MATMULS = frozenset({"MatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm"})


@dataclass(frozen=True, slots=True)
class Packing:
    """Bytes of a packed kernel; `packed` is False for one used as it is. `private`: this node's own.

    `scratch_bytes` are needed while it is packed: the kernel with its output channels last. `direct`: the convolution
    reads its input where it lies and writes codes; else it unrolls the input, and sums in int32.
    """

    packed: bool
    size_bytes: int
    private: bool = False
    scratch_bytes: int = 0
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Weight:
    """A step's kernel as it is ahead of packing: shape as stored, and type.

    `symmetric`: its zero point is 0, and the zero point of the activations and the bias are constants.
    """

    shape: tuple[int, ...]
    dtype: str
    symmetric: bool


def pack(step: RuntimeStep, weight: Weight, signed_input: bool, machine: Machine) -> Packing:
    """How the kernel of a step is held, prepacking being on."""
    elements = math.prod(weight.shape)
    if step.form in ("integer", "channels-last") and step.op_type in ("Conv", "QLinearConv"):
        return _pack_integer_conv(step, weight, signed_input, machine)
    if step.op_type == "ConvTranspose":
        return Packing(True, elements * 4)
    if step.op_type in (*MATMULS, "QLinearMatMul") and len(weight.shape) == 2:
        rows, columns = weight.shape
        if step.op_type in ("Gemm", "QGemm") and _flag(step.node, "transB"):
            rows, columns = columns, rows
        if weight.dtype == "float32":
            return Packing(True, rounded_up(columns, PACKED_COLUMNS) * rows * 4)
        if weight.dtype in ("int8", "uint8"):
            return Packing(True, _integer_packed_bytes(columns, rows))
    return Packing(False, elements)


def _pack_integer_conv(step: RuntimeStep, weight: Weight, signed_input: bool, machine: Machine) -> Packing:
    groups, inputs, outputs, taps = convolution(step.node, weight.shape)
    depthwise = inputs == 1 and outputs == 1
    symmetric = weight.dtype == "int8" and weight.symmetric and not (signed_input and machine == "x86-64")
    if symmetric and groups > 1 and depthwise and groups % DEPTHWISE_CHANNELS[machine] == 0:
        return Packing(True, groups * taps, private=True, direct=True)
    if symmetric and groups == 1 and _is_direct(inputs, outputs, taps, machine):
        return Packing(True, outputs * inputs * taps, private=True, direct=True)
    if depthwise or (signed_input and machine == "x86-64"):
        return Packing(True, math.prod(weight.shape))  # laid out channels-last
    per_group = _integer_packed_bytes(outputs, inputs * taps)
    private = symmetric and signed_input  # MLAS has symmetric products of s8 on arm64
    return Packing(True, groups * per_group, private, scratch_bytes=outputs * inputs * taps)


def _is_direct(inputs: int, outputs: int, taps: int, machine: Machine) -> bool:
    """Whether MlasConvSym takes a convolution of one group; on arm64 as it does without dotprod."""
    if machine == "arm64":
        return taps > 1 and inputs >= LEAST_INPUTS_ARM64 and inputs % 8 == 0 and outputs % 8 == 0
    return inputs % PACKED_DEPTH == 0 and outputs % PACKED_COLUMNS == 0


def scratch(step: RuntimeStep, liveness: GraphLiveness, packing: Packing | None, threads: int) -> tuple[int, ...]:
    """Buffers that a step takes while it runs, in bytes and in their order."""
    if step.form in ("integer", "channels-last") and step.op_type in ("Conv", "QLinearConv"):
        return _integer_conv_scratch(step, liveness, packing)
    if step.form in ("integer", "channels-last") and step.op_type in ("AveragePool", "QLinearAveragePool"):
        return (4 * math.prod(liveness.size(step.node.input[0]).shape),)  # all of its input in float
    if step.op_type == "ConvInteger":
        return _columns(step, liveness, 1)
    if step.op_type == "Conv" and step.form == "float":
        return _float_conv_scratch(step, liveness, threads)
    if step.op_type == "DynamicQuantizeMatMul" and step.reads:
        return (liveness.size(step.node.input[0]).size_bytes // 4,)
    if step.form == "integer" and step.op_type in ("MatMul", "Gemm", "QGemm", "QLinearMatMul") and step.writes:
        return (4 * math.prod(liveness.size(step.writes[0].name).shape),)
    return ()


def _integer_conv_scratch(step: RuntimeStep, liveness: GraphLiveness, packing: Packing | None) -> tuple[int, ...]:
    kernel = liveness.kernel_shape(step.node)
    read, written = _image(step, liveness, 0), _image(step, liveness, None)
    if kernel is None or len(kernel) < 3 or read is None or written is None:
        return ()
    _, inputs, outputs, taps = convolution(step.node, kernel)
    direct = packing is not None and packing.direct
    depthwise = inputs == 1 and outputs == 1
    sizes = []
    if packing is None:
        sizes.append(math.prod(kernel))
    if not direct:
        sizes.append(4 * math.prod(written))
    if step.form == "integer":  # not channels-last yet: both images are transposed
        sizes += [math.prod(read) + OVERRUN, math.prod(written)]
    pixels = math.prod(written[2:])
    if depthwise or (direct and not _pointwise(step.node, taps)):
        sizes.append(8 * taps * pixels)
    elif not _pointwise(step.node, taps):
        sizes.append(inputs * taps * pixels + OVERRUN)
    return tuple(sizes)


def _float_conv_scratch(step: RuntimeStep, liveness: GraphLiveness, threads: int) -> tuple[int, ...]:
    kernel, written = liveness.kernel_shape(step.node), _image(step, liveness, None)
    if kernel is None or len(kernel) < 3 or written is None:
        return ()
    _, inputs, outputs, taps = convolution(step.node, kernel)
    if _pointwise(step.node, taps):
        return ()
    pixels = math.prod(written[2:])
    if outputs > pixels:
        return (4 * inputs * taps * pixels,)
    return (CONV_SEGMENT * threads,)


def _columns(step: RuntimeStep, liveness: GraphLiveness, element: int) -> tuple[int, ...]:
    kernel, written = liveness.kernel_shape(step.node), _image(step, liveness, None)
    if kernel is None or len(kernel) < 3 or written is None:
        return ()
    _, inputs, _, taps = convolution(step.node, kernel)
    return () if _pointwise(step.node, taps) else (element * inputs * taps * math.prod(written[2:]),)


def _image(step: RuntimeStep, liveness: GraphLiveness, position: int | None) -> tuple[int, ...] | None:
    """Shape, N×C×H×W, of what a convolution reads (0) or writes."""
    name = step.node.input[position] if position is not None else step.node.output[0]
    shape = liveness.size(name).shape
    if len(shape) < 3:
        return None
    return (shape[0], shape[-1], *shape[1:-1]) if _flag(step.node, "channels_last") else shape


def _pointwise(node: NodeProto, taps: int) -> bool:
    """A kernel of one tap, without stride and padding, reads its input as it lies."""
    numbers = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    return taps == 1 and not any(numbers.get("pads", ())) and all(n == 1 for n in numbers.get("strides", ()))


def _integer_packed_bytes(columns: int, depth: int) -> int:
    """MlasGemmPackBSize for codes: the block-aligned matrix, and the sum of each column."""
    aligned = rounded_up(columns, PACKED_COLUMNS)
    return rounded_up(aligned * rounded_up(depth, PACKED_DEPTH) + 4 * aligned, 64)


def _flag(node: NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)
