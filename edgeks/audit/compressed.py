"""How many bytes of a model an over-the-air update would carry, were it sent compressed: a hint, by zlib at level 6."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

MAX_WHOLE_BYTES = 1 << 25
SAMPLES = 64
SAMPLE_BYTES = 1 << 17
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CompressedSize:
    """`estimated`: only evenly spaced samples were compressed, and the rest taken to be like them."""

    compressed_bytes: int
    estimated: bool


def compressed_size(files: Iterable[Path]) -> CompressedSize:
    """Files → the size of all of them compressed, each by itself; of more than 32 MB an estimate from 8 MB."""
    sizes = {file: file.stat().st_size for file in files}
    if sum(sizes.values()) <= MAX_WHOLE_BYTES:
        return CompressedSize(sum(map(_whole, sizes)), estimated=False)
    ends, total, read, made = list(accumulate(sizes.values())), sum(sizes.values()), 0, 0
    names = list(sizes)
    for index in range(SAMPLES):
        position = index * total // SAMPLES
        number = bisect_right(ends, position)
        with names[number].open("rb") as opened:
            opened.seek(position - ends[number] + sizes[names[number]])
            sample = opened.read(SAMPLE_BYTES)
        read += len(sample)
        made += len(zlib.compress(sample, 6))
    return CompressedSize(min(total, total * made // max(1, read)), estimated=True)


def _whole(file: Path) -> int:
    packer, total = zlib.compressobj(6), 0
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            total += len(packer.compress(piece))
    return total + len(packer.flush())
