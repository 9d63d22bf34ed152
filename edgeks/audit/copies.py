"""Which of many stored tensors hold one thing several times: byte for byte, or kernels up to a factor per channel."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeks.audit.stored_kernel import StoredKernel
from edgeks.model_files.mapped_file import pieces
from edgeks.sharing.equality import copy_sets

SAMPLE_BYTES = 4096

Load = Callable[[], NDArray[np.uint8]]


def equal_sets(kinds: Sequence[Hashable], contents: Sequence[Load]) -> list[tuple[int, ...]]:
    """Tensors → the sets of two or more indices of one kind (type and shape) whose bytes are the same.

    Nothing is read of a tensor that is the only one of its kind, and of the others all only where a sample is equal.
    """
    found = [*range(len(kinds))]
    alike = _groups(found, lambda index: kinds[index])
    alike = [group for same in alike for group in _groups(same, lambda index: _sample(contents[index]()))]
    alike = [group for same in alike for group in _groups(same, lambda index: _digest(contents[index]()))]
    return sorted(map(tuple, alike))


def scaled_sets(kernels: Sequence[StoredKernel], equal: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """Kernels → the sets equal up to a factor. Of each set of `equal` ones only the first takes part."""
    counted = {index for same in equal for index in same[1:]}
    left = [index for index, kernel in enumerate(kernels) if index not in counted and kernel.comparable]
    sets = copy_sets([kernels[index] for index in left])
    return [tuple(left[position] for position in positions) for positions in sets]


def _groups(indices: Sequence[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        by_key[key(index)].append(index)
    return [group for group in by_key.values() if len(group) > 1]


def _sample(content: NDArray[np.uint8]) -> bytes:
    middle = len(content) // 2
    starts = (0, middle, max(0, len(content) - SAMPLE_BYTES))
    return b"".join(content[start : start + SAMPLE_BYTES].tobytes() for start in starts)


def _digest(content: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces(content):
        digest.update(piece)
    return digest.digest()
