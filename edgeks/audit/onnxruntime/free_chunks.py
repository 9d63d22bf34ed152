"""Free pieces of a stretch of memory, of which the smallest that fits is taken, and neighbours become one."""

from __future__ import annotations

from bisect import bisect_left, insort


class FreeChunks:
    """Sizes and addresses in bytes."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []  # size, address: in the order in which they are tried
        self._at: dict[int, int] = {}  # address → size
        self._before: dict[int, int] = {}  # address after the chunk → its address

    def best(self, wanted: int) -> tuple[int, int] | None:
        """Size and address of the smallest chunk of at least `wanted` bytes."""
        index = bisect_left(self._by_size, (wanted, -1))
        return self._by_size[index] if index < len(self._by_size) else None

    def give(self, size: int, address: int) -> tuple[int, int]:
        """A chunk is free; the size and address of what it has become with its free neighbours."""
        after = self._at.get(address + size)
        if after is not None:
            self.take(after, address + size)
            size += after
        before = self._before.get(address)
        if before is not None:
            held = self._at[before]
            self.take(held, before)
            address, size = before, size + held
        insort(self._by_size, (size, address))
        self._at[address] = size
        self._before[address + size] = address
        return size, address

    def take(self, size: int, address: int) -> None:
        """A chunk is free no more."""
        del self._by_size[bisect_left(self._by_size, (size, address))]
        del self._at[address]
        del self._before[address + size]

    def take_best(self, wanted: int) -> tuple[int, int] | None:
        """Size and address of the chunk that fits best, which is taken; None where there is none."""
        found = self.best(wanted)
        if found is not None:
            self.take(*found)
        return found

    def take_last(self, end: int) -> int:
        """Address of the free chunk that ends at `end`, which is taken; `end` where there is none."""
        address = self._before.get(end, end)
        if address != end:
            self.take(end - address, address)
        return address
