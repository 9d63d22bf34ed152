"""Flash of a .tflite file, in the terms of `edgeks.audit.flash`: a buffer is a constant, an operator is a node."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.audit.flash import UNREAD, CopySet, Flash, OpBytes, SharedKernel
from edgeks.sharing.equality import copy_sets
from edgeks.tflite_file import OPERATOR_NAMES, TYPE_NAMES, constant, operator_code, tensor_name, whole_numbers
from edgeks.tflite_kernels import KernelOperator, kernel_operators


@dataclass(frozen=True, slots=True)
class StoredBuffer:
    """A buffer with content that is no metadata, under the name, type and shape of the first tensor that points to it.

    Others may point to it as well, with scales of their own.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes

    def digest(self) -> bytes:
        """The same for two buffers exactly when type, shape and every byte are the same."""
        return hashlib.sha256(f"{self.dtype}{self.shape}".encode() + self.content).digest()


def measure_tflite_flash(model: schema.ModelT, file_bytes: int) -> Flash:
    """Objects of a .tflite file → Flash, by reading every buffer once.

    Scales and zero points are no buffers: they count as graph. Kernels of types that numpy does not know (int4) are
    compared byte for byte only.
    """
    buffers = _buffers(model)
    operators: dict[int, list[KernelOperator]] = defaultdict(list)
    for operator in kernel_operators(model):
        operators[operator.buffer].append(operator)
    kernels = [buffer for buffer in buffers if buffer.index in operators]
    shared = [
        SharedKernel(kernel.name, kernel.dtype, kernel.shape, layers, len(kernel.content))
        for kernel in kernels
        if len(layers := tuple(operator.layer for operator in operators[kernel.index])) > 1
    ]
    equal = _equal_copies(buffers)
    scaled = _scaled_copies(model, kernels, {index: found[0] for index, found in operators.items()})
    constant_bytes = sum(len(buffer.content) for buffer in buffers)
    return Flash(
        file_bytes=file_bytes,
        constant_bytes=constant_bytes,
        unique_bytes=constant_bytes - sum(copies.wasted_bytes for copies in equal),
        graph_bytes=max(0, file_bytes - constant_bytes),  # a file may let two buffers overlap
        saved_bytes=sum(kernel.saved_bytes for kernel in shared),
        kernels=len(kernels),
        layers=sum(map(len, operators.values())),
        shared=tuple(sorted(shared, key=lambda kernel: -kernel.saved_bytes)),
        copies=tuple(sorted((*equal, *scaled), key=lambda copies: -copies.wasted_bytes)),
        ops=_bytes_per_op(model, buffers),
    )


def _buffers(model: schema.ModelT) -> list[StoredBuffer]:
    tensor_of: dict[int, schema.TensorT] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor_of.setdefault(int(tensor.buffer), tensor)
    described = {entry.buffer for entry in model.metadata or []} - tensor_of.keys()
    found = []
    for index, buffer in enumerate(model.buffers):
        content = b"" if buffer.data is None else np.asarray(buffer.data, np.uint8).tobytes()
        if not content or index in described:
            continue
        if (owner := tensor_of.get(index)) is None:
            found.append(StoredBuffer(index, f"buffer {index}", "unknown", (len(content),), content))
            continue
        shape = tuple(whole_numbers(owner.shape))
        found.append(StoredBuffer(index, tensor_name(owner), _type_name(owner), shape, content))
    return found


def _type_name(tensor: schema.TensorT) -> str:
    return TYPE_NAMES.get(tensor.type, f"type {tensor.type}").lower()


def _equal_copies(buffers: list[StoredBuffer]) -> list[CopySet]:
    by_digest: dict[bytes, list[StoredBuffer]] = defaultdict(list)
    for buffer in buffers:
        by_digest[buffer.digest()].append(buffer)
    return [
        CopySet("equal", tuple(copy.name for copy in alike), alike[0].shape, (len(alike) - 1) * len(alike[0].content))
        for alike in by_digest.values()
        if len(alike) > 1
    ]


def _scaled_copies(
    model: schema.ModelT, kernels: list[StoredBuffer], operators: dict[int, KernelOperator]
) -> list[CopySet]:
    """Sets of kernels equal up to a factor; of byte-equal ones, which are counted already, only one takes part."""
    distinct = list({kernel.digest(): kernel for kernel in kernels}.values())
    values = {kernel.index: _values(model, operators[kernel.index]) for kernel in distinct}
    comparable = [kernel for kernel in distinct if values[kernel.index] is not None]
    found = []
    for indices in copy_sets([array for array in values.values() if array is not None]):
        alike = [comparable[index] for index in indices]
        sizes = [len(kernel.content) for kernel in alike]
        names = tuple(kernel.name for kernel in alike)
        found.append(CopySet("scaled", names, alike[0].shape, sum(sizes) - max(sizes)))
    return found


def _values(model: schema.ModelT, operator: KernelOperator) -> NDArray[Any] | None:
    """The kernel with its output channels on axis 0 and its zero points subtracted; None where numpy has no type."""
    content, axis = constant(model, operator.tensor), operator.output_axis
    if content is None:
        return None
    quantisation = operator.tensor.quantization
    zero_points = np.array(whole_numbers(None if quantisation is None else quantisation.zeroPoint), np.int64)
    if content.dtype.kind in "iu" and zero_points.any() and len(zero_points) in (1, content.shape[axis]):
        along = [1] * content.ndim
        along[axis] = len(zero_points)
        content = content.astype(np.int64) - zero_points.reshape(along)
    return np.moveaxis(content, axis, 0)


def _bytes_per_op(model: schema.ModelT, buffers: list[StoredBuffer]) -> tuple[OpBytes, ...]:
    """A constant that goes through DEQUANTIZE belongs to the first operator that reads the result."""
    readers: dict[int, list[str]] = defaultdict(list)
    nodes: dict[str, int] = defaultdict(int)
    stored = {buffer.index for buffer in buffers}
    for graph in model.subgraphs:
        source = {index: int(tensor.buffer) for index, tensor in enumerate(graph.tensors) if tensor.buffer in stored}
        for operator in graph.operators or []:
            code = operator_code(model, operator)
            name = OPERATOR_NAMES.get(code, f"operator {code}")
            read = [source[index] for index in whole_numbers(operator.inputs) if index in source]
            if name == "DEQUANTIZE" and read:
                source |= dict.fromkeys(whole_numbers(operator.outputs), read[0])
                continue
            for buffer in read:
                readers[buffer].append(name)
            nodes[name] += bool(read)
    rows: dict[str, list[int]] = defaultdict(list)
    for stored_buffer in buffers:
        rows[next(iter(readers[stored_buffer.index]), UNREAD)].append(len(stored_buffer.content))
    made = [OpBytes(op, nodes[op], len(sizes), sum(sizes)) for op, sizes in rows.items()]
    return tuple(sorted(made, key=lambda row: (-row.stored_bytes, row.op_type)))
