"""The floor of a file: the bytes that its numbers need, with each of them stored once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class ScaledCopy:
    """A kernel that is another one times a factor per output channel, and the new scales that would stand for it.

    `scales`: none for integer kernels, whose layers have scales in the file already; otherwise one per output channel
    and layer.
    """

    stored_bytes: int
    scales: int


def floor_bytes(
    stored_bytes: Sequence[int],
    read: Sequence[bool],
    equal: Iterable[Sequence[int]],
    scaled: Iterable[Sequence[ScaledCopy]],
) -> int:
    """Constants, which of them something reads, and which are copies → bytes with each stored once.

    Of byte-equal constants one counts; what nothing reads counts nothing; of kernels equal up to a factor the largest
    counts, and for each other one its scales, of 4 bytes each.
    """
    alike = [tuple(same) for same in equal]
    in_sets = {index for same in alike for index in same}
    alike += [(index,) for index in range(len(stored_bytes)) if index not in in_sets]
    total = sum(max(stored_bytes[index] for index in same) for same in alike if any(read[index] for index in same))
    for copies in scaled:
        _, *others = sorted(copies, key=lambda copy: -copy.stored_bytes)
        total -= sum(max(0, copy.stored_bytes - SCALE_BYTES * copy.scales) for copy in others)
    return total
