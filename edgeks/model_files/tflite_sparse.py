"""Kernels with many zeros in a .tflite file: the schema's SparsityParameters, compressed sparse rows (CSR).

The axes but the last make the rows; of every row the file holds the columns of the weights that are kept (1 byte each
up to 256 columns, else 2) and where it ends. No convolution reads that: DENSIFY makes the dense kernel of it once, and
that stays in RAM as long as the interpreter. A CONV_2D that reads a sparse tensor itself would take its bytes for a
dense one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

DENSE, CSR = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR
# A kernel has at most so many times the bytes of what the file holds of it: a small file must not ask for all RAM.
MAX_TIMES = 512


def sparsity(kernel: NDArray[Any]) -> tuple[schema.SparsityParametersT, NDArray[Any]]:
    """Kernel → its description, and the weights that are kept, row by row (the first weight, where none is)."""
    rows = kernel.reshape(-1, kernel.shape[-1])
    kept = rows != 0
    if not kept.any():
        kept[0, 0] = True
    ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    found = schema.SparsityParametersT()
    found.traversalOrder = np.arange(kernel.ndim, dtype=np.int32)
    found.dimMetadata = [_dense(size) for size in kernel.shape[:-1]]
    last = schema.DimensionMetadataT()
    last.format = CSR
    last.arraySegmentsType, last.arraySegments = _vector(ends)
    last.arrayIndicesType, last.arrayIndices = _vector(np.nonzero(kept)[1])
    found.dimMetadata.append(last)
    return found, rows[kept]


def index_bytes(found: schema.SparsityParametersT) -> int:
    """Bytes of the description's own vectors."""
    last = found.dimMetadata[-1]
    return sum(np.asarray(vector.values).nbytes for vector in (last.arraySegments, last.arrayIndices))


def densified(values: NDArray[Any], tensor: schema.TensorT) -> NDArray[Any] | None:
    """What DENSIFY makes of the kept weights of a sparse tensor; None where it is stored in another way than here."""
    places = kept_places(len(values), tensor)
    if places is None:
        return None
    dense = np.zeros((math.prod(tensor.shape[:-1]), tensor.shape[-1]), values.dtype)
    dense[places] = values
    return dense.reshape(tensor.shape)


def kept_places(count: int, tensor: schema.TensorT) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Row and column of each of the `count` weights that a sparse tensor keeps; None where it is stored in another way.

    Raises:
        ValueError: the description contradicts itself, or the kernel is far larger than what is kept of it.
    """
    found, shape = tensor.sparsity, [] if tensor.shape is None else [int(size) for size in tensor.shape]
    order = [] if found.traversalOrder is None else [int(axis) for axis in found.traversalOrder]
    entries = found.dimMetadata or []
    blocks = found.blockMap is not None and len(found.blockMap) > 0
    if blocks or not shape or order != list(range(len(shape))) or len(entries) != len(shape) or min(shape) < 1:
        return None
    vectors = entries[-1].arraySegments, entries[-1].arrayIndices
    if entries[-1].format != CSR or None in vectors or any(entry.format != DENSE for entry in entries[:-1]):
        return None
    ends, columns = (np.asarray([] if vector.values is None else vector.values).astype(np.int64) for vector in vectors)
    rows, width = math.prod(shape[:-1]), shape[-1]
    if rows * width > MAX_TIMES * (count + len(ends)):
        raise ValueError(f"a sparse kernel of {rows * width} weights, of which {count} are kept")
    fits = len(ends) == rows + 1 and ends[0] == 0 and ends[-1] == len(columns) == count
    if not fits or (np.diff(ends) < 0).any() or (count and not 0 <= columns.min() <= columns.max() < width):
        raise ValueError(f"a sparse kernel of shape {shape} whose indices do not fit it")
    return np.repeat(np.arange(rows), np.diff(ends)), columns


def _dense(size: int) -> schema.DimensionMetadataT:
    entry = schema.DimensionMetadataT()
    entry.format, entry.denseSize = DENSE, size
    return entry


def _vector(numbers: NDArray[Any]) -> tuple[int, Any]:
    """Whole numbers in the smallest type that holds them."""
    largest = int(numbers.max(initial=0))
    kind, type_of, dtype = next(
        row for row, limit in ((_BYTES, 1 << 8), (_SHORTS, 1 << 16), (_INTS, 1 << 31)) if largest < limit
    )
    vector = type_of()
    vector.values = numbers.astype(dtype)
    return kind, vector


_BYTES = schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT, np.uint8
_SHORTS = schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT, np.uint16
_INTS = schema.SparseIndexVector.Int32Vector, schema.Int32VectorT, np.int32
