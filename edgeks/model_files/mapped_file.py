"""A file mapped into memory and read piece by piece, so that what was read does not stay in memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE_BYTES = 1 << 22


class MappedFile(mmap.mmap):
    """A whole file, read-only. Arrays over it keep it alive."""


def map_file(path: Path) -> MappedFile:
    """File → its content, of which nothing is read yet.

    Raises:
        OSError: it cannot be opened or mapped.
        ValueError: it is empty.
    """
    with path.open("rb") as file:
        return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)


def release(array: NDArray[Any]) -> None:
    """Give the pages that were read of a mapped array back to the system; any other array stays as it is."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, MappedFile) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def pieces(content: NDArray[np.uint8]) -> Iterator[memoryview]:
    """Bytes → the same bytes in pieces of a few megabytes; of a mapped file only one is in memory at a time."""
    for start in range(0, len(content), PIECE_BYTES):
        yield np.ascontiguousarray(content[start : start + PIECE_BYTES]).data
        release(content)
