"""The C library's heap (glibc's malloc) under large blocks: what stays resident between blocks that were freed.

A request takes the smallest free chunk that fits, else the end of the heap. An aligned request looks for room to move
in, so that a hole of just its own size does not do: freed temporaries between blocks that stay are lost to it. Blocks
from a threshold on are mapped on their own; freeing one raises the threshold to its size, after which such blocks come
from the heap. The end of the heap goes back to the system once twice the threshold is free there.
"""

from __future__ import annotations

from edgeks.audit.alignment import PAGE, rounded_up
from edgeks.audit.onnxruntime.free_chunks import FreeChunks

ALIGNMENT = 64  # of tensors
HEADER, STEP, SMALLEST = 8, 16, 32  # bytes of a chunk
MAP_FROM, MAP_FROM_AT_MOST = 128 << 10, 32 << 20
TRIM_FROM, KEPT_AT_END = 128 << 10, 128 << 10
TRIMS_FOR = 64 << 10  # a smaller chunk that is freed does not shrink the heap


class Heap:
    """Addresses are bytes from the heap's start; mapped blocks have addresses below 0. Blocks are written whole.

    `crowded`: between the requests there are many small ones, which fill what an aligned block leaves on both sides.
    """

    def __init__(self) -> None:
        self._free = FreeChunks()
        self._used: dict[int, int] = {}
        self._top = self._end = self._written = 0
        self._map_from, self._trim_from = MAP_FROM, TRIM_FROM
        self._resident: dict[int, int] = {}  # mapped block → bytes of it that were written
        self._maps = 0
        self.peak_bytes = 0
        self.crowded = False

    def allocate(self, size: int, written: int | None = None) -> int:
        """Bytes → address; of a mapped block, perhaps only some bytes are `written`."""
        address = self._chunk(max(rounded_up(size + HEADER, STEP), SMALLEST))
        if address < 0 and written is not None:
            self._resident[address] = min(rounded_up(written, PAGE), self._used[address])
        self._note()
        return address

    def allocate_aligned(self, size: int) -> int:
        """Bytes → address of a block that starts at a multiple of ALIGNMENT."""
        wanted = max(rounded_up(size + HEADER, STEP), SMALLEST)
        address = self._chunk(rounded_up(size + ALIGNMENT + SMALLEST + HEADER, STEP))
        if address >= 0:
            held = self._used.pop(address)
            start = rounded_up(address, ALIGNMENT)
            start += ALIGNMENT if 0 < start - address < SMALLEST else 0
            self._used[start] = wanted
            rest = address + held - start - wanted
            if not self.crowded:
                for left, at in ((start - address, address), (rest, start + wanted)):
                    if left:
                        self._release(left, at)
            address = start
        self._note()
        return address

    def free(self, address: int) -> None:
        """Give a block back."""
        size = self._used.pop(address)
        if address < 0:
            del self._resident[address]
            if self._map_from < size <= MAP_FROM_AT_MOST:
                self._map_from, self._trim_from = size, 2 * size
            return
        size = self._release(size, address)
        if size >= TRIMS_FOR and self._end - self._top >= self._trim_from:
            self._end = self._top + KEPT_AT_END
            self._written = min(self._written, self._end)

    @property
    def resident_bytes(self) -> int:
        """Pages that were written and not given back."""
        return self._written + sum(self._resident.values())

    def _chunk(self, size: int) -> int:
        found = self._free.best(size)
        if found is not None:
            held, address = found
            self._free.take(held, address)
            if held - size >= SMALLEST:
                self._free.give(held - size, address + size)
                held = size
            self._used[address] = held
            return address
        if self._end - self._top < size + SMALLEST:
            if size >= self._map_from:
                self._maps += 1
                self._used[-self._maps] = rounded_up(size + HEADER, PAGE)
                self._resident[-self._maps] = self._used[-self._maps]
                return -self._maps
            self._end = rounded_up(self._top + size + KEPT_AT_END, PAGE)
        address = self._top
        self._top += size
        self._written = max(self._written, self._top)
        self._used[address] = size
        return address

    def _release(self, size: int, address: int) -> int:
        size, address = self._free.give(size, address)
        if address + size == self._top:
            self._free.take(size, address)
            self._top = address
        return size

    def _note(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes)
