"""Flash of a .tflite file, in the terms of `edgeks.audit.flash`: a buffer is a constant, an operator is a node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.audit.compressed import CompressedSize, compressed_size
from edgeks.audit.copies import equal_sets, scaled_sets
from edgeks.audit.flash import UNREAD, CopySet, Flash, OpBytes, SharedKernel
from edgeks.audit.floor import SCALE_BYTES, ScaledCopy, floor_bytes
from edgeks.audit.stored_kernel import StoredKernel
from edgeks.model_files.tflite_file import (
    NUMPY_TYPES,
    OPERATOR_NAMES,
    TYPE_NAMES,
    is_dense,
    operator_code,
    shaped,
    tensor_name,
    whole_numbers,
)
from edgeks.model_files.tflite_kernels import MAX_RUNS, KernelOperator, kernel_operators


@dataclass(frozen=True, slots=True)
class StoredBuffer:
    """A buffer with content that is no metadata, under the name, type and shape of the first tensor that points to it.

    Others may point to it as well, with scales of their own.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    content: NDArray[np.uint8]

    @property
    def stored_bytes(self) -> int:
        """Bytes of the content."""
        return len(self.content)

    def load(self) -> NDArray[np.uint8]:
        """The content, mapped."""
        return self.content


def measure_tflite_flash(model: schema.ModelT, file_bytes: int, path: Path | None = None) -> Flash:
    """Objects of a .tflite file → Flash, by reading what may be a copy of something else; `path` is what is compressed.

    Scales and zero points are no buffers: they count as graph. Kernels that are sparse, or of types that numpy does not
    know (int4), are compared byte for byte only, and so are very large ones (as of `edgeks.audit.flash.measure_flash`).
    """
    buffers = _buffers(model)
    operators: dict[int, list[KernelOperator]] = defaultdict(list)
    for operator in kernel_operators(model):
        operators[operator.buffer].append(operator)
    kernels = [buffer for buffer in buffers if buffer.index in operators]
    shared = [
        SharedKernel(kernel.name, kernel.dtype, kernel.shape, layers, kernel.stored_bytes)
        for kernel in kernels
        if len(layers := tuple(name for operator in operators[kernel.index] for name in operator.layers)) > 1
    ]
    equal = equal_sets([(buffer.dtype, buffer.shape) for buffer in buffers], [buffer.load for buffer in buffers])
    of_kernel = {kernel.index: position for position, kernel in enumerate(kernels)}
    stored = [_stored_kernel(kernel, operators[kernel.index][0]) for kernel in kernels]
    known = [[of_kernel[i] for b in alike if (i := buffers[b].index) in of_kernel] for alike in equal]
    scaled = scaled_sets(stored, known)
    copies = [CopySet("equal", *_wasted([buffers[index] for index in alike])) for alike in equal]
    constant_bytes = sum(buffer.stored_bytes for buffer in buffers)
    unique_bytes = constant_bytes - sum(copies.wasted_bytes for copies in copies)
    copies += [CopySet("scaled", *_wasted([kernels[index] for index in alike])) for alike in scaled]
    graph_bytes = max(0, file_bytes - constant_bytes)  # a file may let two buffers overlap
    compressed = CompressedSize(0, estimated=True) if path is None else compressed_size([path])
    read = {index for _, indices in _reads(model, {buffer.index for buffer in buffers}) for index in indices}
    floor = _scale_bytes(operators) + floor_bytes(
        [buffer.stored_bytes for buffer in buffers],
        [buffer.index in read for buffer in buffers],
        equal,
        [[_scaled_copy(kernels[i], stored[i], operators[kernels[i].index]) for i in alike] for alike in scaled],
    )
    return Flash(
        file_bytes=file_bytes,
        constant_bytes=constant_bytes,
        unique_bytes=unique_bytes,
        graph_bytes=graph_bytes,
        saved_bytes=sum(kernel.saved_bytes for kernel in shared),
        kernels=sum(operators[kernel.index][0].kernels for kernel in kernels),
        layers=sum(min(read.runs or 1, MAX_RUNS) for found in operators.values() for read in found),
        shared=tuple(sorted(shared, key=lambda kernel: -kernel.saved_bytes)),
        copies=tuple(sorted(copies, key=lambda copies: -copies.wasted_bytes)),
        ops=_bytes_per_op(model, buffers),
        metadata_bytes=min(graph_bytes, _metadata_bytes(model, {buffer.index for buffer in buffers})),
        floor_bytes=floor,
        compressed_bytes=None if path is None else compressed.compressed_bytes,
        compressed_is_estimate=path is not None and compressed.estimated,
    )


def _buffers(model: schema.ModelT) -> list[StoredBuffer]:
    tensor_of: dict[int, schema.TensorT] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor_of.setdefault(int(tensor.buffer), tensor)
    described = {entry.buffer for entry in model.metadata or []} - tensor_of.keys()
    found = []
    for index, buffer in enumerate(model.buffers):
        content = np.asarray([] if buffer.data is None else buffer.data, np.uint8)
        if not len(content) or index in described:
            continue
        if (owner := tensor_of.get(index)) is None:
            found.append(StoredBuffer(index, f"buffer {index}", "unknown", (len(content),), content))
            continue
        shape = tuple(whole_numbers(owner.shape))
        found.append(StoredBuffer(index, tensor_name(owner), _type_name(owner), shape, content))
    return found


def _type_name(tensor: schema.TensorT) -> str:
    return TYPE_NAMES.get(tensor.type, f"type {tensor.type}").lower()


def _wasted(alike: list[StoredBuffer]) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    sizes = [buffer.stored_bytes for buffer in alike]
    return tuple(buffer.name for buffer in alike), alike[0].shape, sum(sizes) - max(sizes)


def _stored_kernel(kernel: StoredBuffer, operator: KernelOperator) -> StoredKernel:
    """The kernel with its output channels on axis 0 and its zero points subtracted; bytes where it is no array."""
    tensor, axis = operator.tensor, operator.output_axis
    if not is_dense(tensor):
        return StoredKernel(kernel.load, kernel.content.shape, kernel.content.dtype)
    shape, dtype = tuple(whole_numbers(tensor.shape)), np.dtype(NUMPY_TYPES[tensor.type])
    zero_points = np.array(whole_numbers(None if tensor.quantization is None else tensor.quantization.zeroPoint))
    known = dtype.kind in "iu" and len(zero_points) in (1, shape[axis])
    return StoredKernel(lambda: shaped(kernel.content, tensor), shape, dtype, axis, zero_points if known else None)


def _scaled_copy(kernel: StoredBuffer, stored: StoredKernel, operators: list[KernelOperator]) -> ScaledCopy:
    own_scales = kernel.dtype in ("int8", "uint8")
    return ScaledCopy(kernel.stored_bytes, 0 if own_scales else stored.shape[0] * len(operators))


def _scale_bytes(operators: dict[int, list[KernelOperator]]) -> int:
    """Scales of the kernels, one per output channel of each layer or one per layer; layers may share a tensor."""
    tensors = {id(operator.tensor): operator.tensor for found in operators.values() for operator in found}
    quantised = [tensor.quantization for tensor in tensors.values() if tensor.quantization is not None]
    return SCALE_BYTES * sum(len(entry.scale) for entry in quantised if entry.scale is not None)


def _metadata_bytes(model: schema.ModelT, constants: set[int]) -> int:
    """Content and names of metadata entries, the description, signatures' names; tensors' names are structure."""
    total = len(model.description or b"")
    for entry in model.metadata or []:
        total += len(entry.name or b"")
        held = 0 <= entry.buffer < len(model.buffers) and entry.buffer not in constants
        data = model.buffers[entry.buffer].data if held else None
        total += 0 if data is None else len(data)
    for signature in model.signatureDefs or []:
        total += len(signature.signatureKey or b"")
        total += sum(len(entry.name or b"") for entry in [*(signature.inputs or []), *(signature.outputs or [])])
    return total


def _bytes_per_op(model: schema.ModelT, buffers: list[StoredBuffer]) -> tuple[OpBytes, ...]:
    """A constant that goes through DEQUANTIZE or DENSIFY belongs to the first operator that reads the result."""
    nodes: dict[str, int] = defaultdict(int)
    readers: dict[int, str] = {}
    for name, read in _reads(model, {buffer.index for buffer in buffers}):
        nodes[name] += bool(read)
        for buffer in read:
            readers.setdefault(buffer, name)
    rows: dict[str, list[int]] = defaultdict(list)
    for stored_buffer in buffers:
        rows[readers.get(stored_buffer.index, UNREAD)].append(stored_buffer.stored_bytes)
    made = [OpBytes(op, nodes[op], len(sizes), sum(sizes)) for op, sizes in rows.items()]
    return tuple(sorted(made, key=lambda row: (-row.stored_bytes, row.op_type)))


def _reads(model: schema.ModelT, stored: set[int]) -> Iterator[tuple[str, list[int]]]:
    """Of each operator but these two its name, and the stored buffers that it reads, perhaps through them."""
    for graph in model.subgraphs:
        source = {index: int(tensor.buffer) for index, tensor in enumerate(graph.tensors) if tensor.buffer in stored}
        for operator in graph.operators if graph.operators is not None else []:
            code = operator_code(model, operator)
            name = OPERATOR_NAMES.get(code, f"operator {code}")
            read = [source[index] for index in whole_numbers(operator.inputs) if index in source]
            if name in ("DEQUANTIZE", "DENSIFY") and read:
                source |= dict.fromkeys(whole_numbers(operator.outputs), read[0])
                continue
            yield name, read
