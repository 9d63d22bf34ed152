"""A kernel as it lies in a file, read some output channels at a time: what `edgeks.sharing.equality` compares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeks.model_files.mapped_file import PIECE_BYTES, release

# A channel is compared whole, and where the channels are on the last axis each read of some goes over all of the file.
MAX_TAPS = 1 << 18
MAX_STRIDED_BYTES = 1 << 27


class StoredKernel:
    """Indexed like an array with the output channels on axis 0 and zero points subtracted.

    `load` gives the array as stored, mapped where it is large; `axis` is that of its output channels, `zero_point` one
    or one per output channel. Pages of a mapped array do not stay in memory.
    """

    def __init__(
        self,
        load: Callable[[], NDArray[Any]],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        axis: int = 0,
        zero_point: NDArray[Any] | None = None,
    ) -> None:
        self._load, self._axis, self._stored_dtype = load, axis, dtype
        self._stored_bytes = math.prod(shape) * dtype.itemsize
        self._zero_point = None
        if zero_point is not None and zero_point.any():
            self._zero_point = np.asarray(zero_point, np.int32)
        self.shape = (shape[axis], *shape[:axis], *shape[axis + 1 :]) if shape else ()
        self.dtype = dtype if self._zero_point is None else np.dtype(np.int32)

    @property
    def comparable(self) -> bool:
        """Whether it is looked for up to a factor: of a type with numbers, and not so large that it would take long."""
        numeric = self._stored_dtype.kind in "iuf" or self._stored_dtype.name == "bfloat16"
        if not numeric or len(self.shape) < 2 or not 1 < math.prod(self.shape[1:]) <= MAX_TAPS:
            return False
        return self._axis == 0 or self._stored_bytes <= MAX_STRIDED_BYTES

    def __getitem__(self, channels: Any, /) -> NDArray[Any]:
        stored = self._load()
        if not self.shape:
            return stored
        array = np.moveaxis(stored, self._axis, 0)
        found = self._some(stored, array, channels) if isinstance(channels, slice | np.ndarray) else array[channels]
        if self._zero_point is None:
            return found
        points = self._zero_point if self._zero_point.size == 1 else self._zero_point[channels]
        return found.astype(np.int32) - points.reshape(-1, *[1] * (found.ndim - 1))

    def _some(self, stored: NDArray[Any], array: NDArray[Any], channels: Any) -> NDArray[Any]:
        """A copy of some channels, read in pieces: with the channels on the last axis they lie all over the file."""
        count = len(range(*channels.indices(len(array)))) if isinstance(channels, slice) else len(channels)
        found = np.empty((count, *array.shape[1:]), array.dtype)
        if array.ndim == 1:
            found[:] = array[channels]
            return found
        step = max(1, PIECE_BYTES // max(1, abs(array.strides[1])))
        for start in range(0, array.shape[1], step):
            found[:, start : start + step] = array[channels, start : start + step]
            release(stored)
        return found
