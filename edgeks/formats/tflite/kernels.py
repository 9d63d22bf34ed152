"""The kernels of a .tflite file: which constants convolutions and linear layers read as their weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.tflite_file import constant, operator_code

OPERATOR = schema.BuiltinOperator
# Operator → axis of its kernel's output channels: O×H×W×I, 1×H×W×O, O×H×W×I, O×I. The kernel is input 1 of each.
CHANNEL_AXIS: dict[int, int] = {
    OPERATOR.CONV_2D: 0,
    OPERATOR.DEPTHWISE_CONV_2D: 3,
    OPERATOR.TRANSPOSE_CONV: 0,
    OPERATOR.FULLY_CONNECTED: 0,
}
KERNEL_INPUT = 1


def bias_input(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Position of the bias among the inputs of an operator that reads a kernel."""
    return 3 if operator_code(model, operator) == OPERATOR.TRANSPOSE_CONV else 2


@dataclass(frozen=True, slots=True, eq=False)
class KernelTensor:
    """A constant tensor that layers read as their kernel, directly or through a DEQUANTIZE. Compared by identity.

    Several of them, each with scales of its own, may have one buffer. `axis` is that of the output channels.
    """

    tensor: schema.TensorT
    axis: int
    readers: tuple[schema.OperatorT, ...]

    @property
    def name(self) -> str:
        """The tensor's name."""
        name = self.tensor.name
        return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


@dataclass(frozen=True, slots=True)
class StoredKernel:
    """One buffer that holds a kernel, and the tensors that point to it. `values`: see `rows`."""

    buffer: int
    values: NDArray[Any]
    stored_bytes: int
    tensors: tuple[KernelTensor, ...]


def kernel_tensors(model: schema.ModelT) -> list[KernelTensor]:
    """Every constant tensor that is read as a kernel, in the order of its first reader."""
    found: dict[int, KernelTensor] = {}
    for graph in model.subgraphs:
        for tensor, axis, operator in _reads(model, graph):
            known = found.get(id(tensor))
            readers = (operator,) if known is None else (*known.readers, operator)
            found[id(tensor)] = KernelTensor(tensor, axis, readers)
    return list(found.values())


def stored_kernels(model: schema.ModelT) -> list[StoredKernel]:
    """Every buffer that holds a kernel, in the order of its first reader."""
    by_buffer: dict[int, list[KernelTensor]] = defaultdict(list)
    for kernel in kernel_tensors(model):
        by_buffer[kernel.tensor.buffer].append(kernel)
    return [
        StoredKernel(buffer, rows(model, found[0]), len(model.buffers[buffer].data), tuple(found))
        for buffer, found in by_buffer.items()
    ]


def rows(model: schema.ModelT, kernel: KernelTensor) -> NDArray[Any]:
    """Kernel → output channels × taps; integer codes as int16, less their zero point."""
    held = constant(model, kernel.tensor)
    assert held is not None  # noqa: S101  # kernel_tensors lists constants only
    flat = np.moveaxis(held, kernel.axis, 0).reshape(held.shape[kernel.axis], -1)
    if flat.dtype.kind not in "iu":
        return flat
    zero_points = _zero_points(kernel.tensor)
    return flat.astype(np.int16) - zero_points.reshape(-1, 1).astype(np.int16)


def _zero_points(tensor: schema.TensorT) -> NDArray[Any]:
    quantization = tensor.quantization
    if quantization is None or quantization.zeroPoint is None or not len(quantization.zeroPoint):
        return np.zeros(1, np.int64)
    return np.asarray(quantization.zeroPoint)


def _reads(model: schema.ModelT, graph: schema.SubGraphT) -> Iterator[tuple[schema.TensorT, int, schema.OperatorT]]:
    """(Kernel tensor, axis of its output channels, the operator that reads it), in the order of the graph."""
    operators = graph.operators if graph.operators is not None else []
    unpacked = {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in operators
        if operator_code(model, operator) == OPERATOR.DEQUANTIZE
    }
    for operator in operators:
        axis = CHANNEL_AXIS.get(operator_code(model, operator))
        if axis is None or len(operator.inputs) <= KERNEL_INPUT:
            continue
        index = int(operator.inputs[KERNEL_INPUT])
        tensor = graph.tensors[unpacked.get(index, index)]
        held = constant(model, tensor)
        if held is not None and held.ndim > axis:
            yield tensor, axis, operator
