"""Where the stdout of a remote job goes: a text, lines as they come, a file. Memory is bounded whatever comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from edgeks.errors import BoardError

MAX_STDOUT = 1 << 24
MAX_LINE = 1 << 20
KEPT_STDOUT = 1 << 16


class Text:
    """Stdout as one text; more than 16 MiB is an error."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._bytes = bytearray()

    def take(self, block: bytes) -> None:
        """Add what came."""
        self._bytes += block
        if len(self._bytes) > MAX_STDOUT:
            raise BoardError(
                f"{self._host}: the command wrote more than {MAX_STDOUT >> 20} MiB to stdout; it was stopped"
            )

    def end(self) -> str:
        """All that came."""
        return self._bytes.decode(errors="replace")


class Lines:
    """Stdout line by line; its end is kept."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._left = b""
        self._tail = b""

    def take(self, block: bytes) -> None:
        """Add what came."""
        self._tail = (self._tail + block)[-KEPT_STDOUT:]
        *lines, self._left = (self._left + block).split(b"\n")
        for line in lines:
            self._on_line(line.decode(errors="replace"))
        if len(self._left) > MAX_LINE:
            line, self._left = self._left, b""
            self._on_line(line.decode(errors="replace"))

    def end(self) -> str:
        """Hand over a line that had no end; the last 64 KiB of all that came."""
        if self._left:
            self._on_line(self._left.decode(errors="replace"))
        return self._tail.decode(errors="replace")


class Body:
    """Stdout as a line with a number of bytes, at most `limit`, and these bytes → a file."""

    def __init__(self, file: BinaryIO, limit: int, name: str) -> None:
        self._file, self._limit, self._name = file, limit, name
        self._head = b""
        self.announced: int | None = None
        self.received = 0

    def take(self, block: bytes) -> None:
        """Add what came."""
        if self.announced is None:
            self._head += block
            line, end, block = self._head.partition(b"\n")
            if not end:
                self._head = self._head[:MAX_LINE]
                return
            self.announced = int(line) if line.strip().isdigit() else 0
        self.received += len(block)
        if max(self.announced, self.received) > self._limit:
            raise BoardError(f"{self._name}: has {max(self.announced, self.received):,} bytes; at most {self._limit:,}")
        self._file.write(block)
