"""ONNX Runtime's arena (BFCArena): which of its pages an inference touches, from the allocations in their order.

The arena takes regions from the system, each twice as large as the one before (from 1 MiB on), and never gives one
back. A request takes the smallest free chunk that is large enough; a chunk is split where at least half of it stays
over. Only pages that were written are resident. The first inference allocates tensor by tensor; from what it saw, one
block is planned that holds all tensors at fixed places, and every later inference allocates that block, so that both
remain (bfc_arena.cc, mem_pattern_planner.h and execution_frame.cc of ONNX Runtime 1.31).
"""

from __future__ import annotations

from collections.abc import Iterable

from edgeks.audit.alignment import PAGE, rounded_up
from edgeks.audit.onnxruntime.free_chunks import FreeChunks

INITIAL_REGION = 1 << 20
CHUNK = 256
HANDLE = 8  # bytes that the arena keeps for every CHUNK of a region, used or not
MAX_DEAD_BYTES = 1 << 27
TENSOR_ALIGNMENT = 64


class Arena:
    """Addresses are bytes from an own origin; regions do not touch each other."""

    def __init__(self) -> None:
        self._next_region = INITIAL_REGION
        self._end = 0
        self._regions = 0
        self._free = FreeChunks()
        self._used: dict[int, int] = {}
        self._written: list[tuple[int, int]] = []

    def allocate(self, size: int) -> int:
        """Bytes → address of memory that will be written from end to end."""
        wanted = max(rounded_up(size, CHUNK), CHUNK)
        found = self._free.take_best(wanted)
        held, address = found if found is not None else self._extend(wanted)
        if held >= 2 * wanted or held - wanted >= MAX_DEAD_BYTES:
            self._free.give(held - wanted, address + wanted)
            held = wanted
        self._used[address] = held
        self._written.append((address, address + size))
        return address

    def free(self, address: int) -> None:
        """Give a chunk back; free neighbours become one."""
        self._free.give(self._used.pop(address), address)

    def touched_bytes(self) -> int:
        """Pages written so far, in bytes, and the table that finds the chunk of an address: what is resident."""
        self._written = list(_merged((low // PAGE * PAGE, rounded_up(high, PAGE)) for low, high in self._written))
        return sum(high - low for low, high in self._written) + self._regions // CHUNK * HANDLE

    def _extend(self, wanted: int) -> tuple[int, int]:
        """Size and address of a new region."""
        grown = self._next_region < wanted
        while self._next_region < wanted:
            self._next_region *= 2
        size, address = self._next_region, self._end
        if not grown:
            self._next_region *= 2
        self._end += size + PAGE
        self._regions += size
        return size, address


class Plan:
    """The block that later inferences use: each tensor at the tightest gap between those that live when it is made."""

    def __init__(self) -> None:
        self.size = 0
        self._free = FreeChunks()
        self._live: dict[str, tuple[int, int]] = {}  # tensor → size, offset

    def allocate(self, tensor: str, size: int) -> None:
        """Find a place for a tensor; the block grows at its end where no gap is large enough."""
        size = rounded_up(size, TENSOR_ALIGNMENT)
        if not size:
            return
        found = self._free.take_best(size)
        if found is None:
            place = self._free.take_last(self.size)
            self.size = place + size
        else:
            held, place = found
            if held > size:
                self._free.give(held - size, place + size)
        self._live[tensor] = size, place

    def free(self, tensor: str) -> None:
        """The tensor's place can be used again."""
        if tensor in self._live:
            self._free.give(*self._live.pop(tensor))


def _merged(spans: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    low = high = -1
    for start, end in sorted(spans):
        if start > high:
            if high > low:
                yield low, high
            low, high = start, end
        else:
            high = max(high, end)
    if high > low:
        yield low, high
