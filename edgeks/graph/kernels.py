"""Where the kernels of a graph are: which node reads which weight Value, and through what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.sharing.plan import Rolled

# Op → (index of the weight input, axis of the output channels in the weight).
WEIGHT_INPUT = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3, "ConvInteger": 1, "MatMulInteger": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KernelRead:
    """`node` reads `kernel`: directly, through Cast and Mul, or through the DequantizeLinear `dequantize`.

    `stacked`: in the body of a Loop, which gathers one of the kernels of the stack `kernel` in each trip.
    """

    node: ir.Node
    kernel: ir.Value
    dequantize: ir.Node | None
    stacked: bool = False


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
    if weight is None:
        return None
    kernel = _stack_behind(weight)
    if not kernel.is_initializer() or array(kernel).ndim < 2:
        return None
    return KernelRead(node, kernel, dequantize, stacked=kernel is not weight)


def _behind_scale(weight: ir.Value) -> ir.Value:
    """Mul(Cast(codes), scale) and Cast(halves), the forms in which kernels are stored → codes, halves; else itself."""
    product = weight.producer()
    if product is not None and product.op_type == "Cast" and product.inputs[0] is not None:
        return product.inputs[0] if _stack_behind(product.inputs[0]).is_initializer() else weight
    if product is None or product.op_type != "Mul" or product.inputs[1] is None or product.inputs[0] is None:
        return weight
    cast, scale = product.inputs[0].producer(), _stack_behind(product.inputs[1])
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None or not scale.is_initializer():
        return weight
    return cast.inputs[0]


def _stack_behind(weight: ir.Value) -> ir.Value:
    """Gather(stack of kernels, trip), as in the body of a Loop → the stack; else itself."""
    gather = weight.producer()
    if gather is None or gather.op_type != "Gather" or gather.inputs[0] is None:
        return weight
    return gather.inputs[0] if gather.inputs[0].is_initializer() else weight


def kernel_reads(model: ir.Model) -> Iterator[KernelRead]:
    """Every read of a kernel in the graph and its Loops' bodies, in graph order."""
    for node in model.graph.all_nodes():
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


def layers_by_kernel(model: ir.Model, rolled: Rolled) -> list[list[str]]:
    """The layers that read one kernel, for each: those of a loop's trips by name, a stack's kernels one by one."""
    found: list[list[str]] = []
    for reads in reads_by_kernel(model).values():
        trips = [rolled.get(str(read.node.name), (str(read.node.name),)) for read in reads]
        if reads[0].stacked:
            found += [list(layers) for layers in zip(*trips, strict=True)]
        else:
            found.append([layer for layers in trips for layer in layers])
    return found


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
