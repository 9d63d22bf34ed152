"""The kernels of a .tflite file by the buffers that hold them: what `restore_sharing` puts together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.model_files.tflite_file import constant, is_dense, operator_code, tensor_name
from edgeks.model_files.tflite_kernels import kernel_operators


def bias_input(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Position of the bias among the inputs of an operator that reads a kernel."""
    return 3 if operator_code(model, operator) == schema.BuiltinOperator.TRANSPOSE_CONV else 2


@dataclass(frozen=True, slots=True, eq=False)
class KernelTensor:
    """A constant tensor that layers read as their kernel, directly or through other operators. Compared by identity.

    Several of them, each with scales of its own, may have one buffer. `axis` is that of the output channels.
    """

    tensor: schema.TensorT
    axis: int
    readers: tuple[schema.OperatorT, ...]

    @property
    def name(self) -> str:
        """The tensor's name."""
        return tensor_name(self.tensor)


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
    for read in kernel_operators(model):
        if read.stacked:  # kernels of several layers in one tensor
            continue
        known = found.get(id(read.tensor))
        readers = () if known is None else known.readers
        axis = read.output_axis if known is None else known.axis
        found[id(read.tensor)] = KernelTensor(read.tensor, axis, (*readers, read.operator))
    return [kernel for kernel in found.values() if is_dense(kernel.tensor)]


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
