"""Where the kernels of a graph are: which node reads which weight Value, and through what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# Op → (index of the weight input, axis of the output channels in the weight).
WEIGHT_INPUT = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3, "ConvInteger": 1, "MatMulInteger": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KernelRead:
    """`node` reads `kernel`: directly, through Cast and Mul, or through the DequantizeLinear `dequantize`."""

    node: ir.Node
    kernel: ir.Value
    dequantize: ir.Node | None


def kernel_read(node: ir.Node) -> KernelRead | None:
    """The kernel that `node` reads; None where it reads none, or one that is computed at run time."""
    index = WEIGHT_INPUT.get(node.op_type)
    if index is None or node.domain not in ("", "ai.onnx") or len(node.inputs) <= index:
        return None
    weight = node.inputs[index]
    dequantize = None
    if weight is not None and (producer := weight.producer()) is not None and producer.op_type == "DequantizeLinear":
        weight, dequantize = producer.inputs[0], producer
    elif weight is not None:
        weight = _behind_scale(weight)
    if weight is None or not weight.is_initializer() or array(weight).ndim < 2:
        return None
    return KernelRead(node, weight, dequantize)


def _behind_scale(weight: ir.Value) -> ir.Value:
    """Mul(Cast(codes), scale) and Cast(halves), the forms in which kernels are stored → codes, halves; else itself."""
    product = weight.producer()
    if product is not None and product.op_type == "Cast" and product.inputs[0] is not None:
        return product.inputs[0] if product.inputs[0].is_initializer() else weight
    if product is None or product.op_type != "Mul" or product.inputs[1] is None or product.inputs[0] is None:
        return weight
    cast, scale = product.inputs[0].producer(), product.inputs[1]
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None or not scale.is_initializer():
        return weight
    return cast.inputs[0]


def kernel_reads(model: ir.Model) -> Iterator[KernelRead]:
    """Every read of a kernel in the main graph, in graph order."""
    for node in model.graph:
        read = kernel_read(node)
        if read is not None:
            yield read


def reads_by_kernel(model: ir.Model) -> dict[ir.Value, list[KernelRead]]:
    """Kernel → its reads, both in graph order."""
    found: dict[ir.Value, list[KernelRead]] = {}
    for read in kernel_reads(model):
        found.setdefault(read.kernel, []).append(read)
    return found


def readers(model: ir.Model) -> dict[ir.Value, list[str]]:
    """Kernel → names of the nodes that read it."""
    return {kernel: [str(read.node.name) for read in reads] for kernel, reads in reads_by_kernel(model).items()}


def array(value: ir.Value) -> NDArray[np.generic]:
    """An initializer's content."""
    if value.const_value is None:
        raise ValueError(f"{value.name} has no content")
    return np.asarray(value.const_value.numpy())


def required(value: ir.Value | None) -> ir.Value:
    """An input that the operator's schema says is there."""
    if value is None:
        raise ValueError("a required input is absent")
    return value


def output_channels(read: KernelRead) -> int:
    """Axis of the output channels in the kernel: 0 in OIHW and in Gemm's transposed OI, 1 in IO."""
    node = read.node
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    if node.op_type in ("MatMul", "MatMulInteger"):
        return array(read.kernel).ndim - 1
    return 1 if node.op_type == "ConvTranspose" else 0


def constant_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, each counted once."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def sole_use(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The one node (and its input index) that reads `value`; None where there are several, or it is a graph output."""
    uses = list(value.uses())
    return (uses[0].node, uses[0].idx) if len(uses) == 1 and not value.is_graph_output() else None
