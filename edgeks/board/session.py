"""One guarded command over an open connection: an ssh process and its three streams, pumped by the calling thread."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

BLOCK = 1 << 16
# What is kept of stderr, and of what a login shell says before the job begins: their ends.
KEPT_BYTES = 1 << 16
# A job that left a process of another session behind: it holds the streams open after the job's end.
LINGER_SECONDS = 2.0
STOP_SECONDS = 5.0


class Session:
    """`command` (ssh, with `remote_job.LOADER` as its last word) given `feed`, then a line every `beat` seconds.

    `sink` gets what the job writes to stdout, in blocks as they come. Memory is bounded whatever the board sends.
    """

    def __init__(
        self, command: Sequence[str], marker: str, feed: Iterator[bytes], sink: Callable[[bytes], None], beat: float
    ) -> None:
        self.code: int | None = None
        self.has_begun = False
        self._marker = marker.encode()
        self._end = re.compile(rb"\n" + self._marker + rb" (\d+)\n")
        self._feed: Iterator[bytes] | None = feed
        self._pending = memoryview(b"")
        self._sink: Callable[[bytes], None] | None = sink
        self._beat = beat
        self._before = b""
        self._stderr = b""
        # A session of its own: Ctrl-C in the terminal must not reach ssh, which would let go of the job unseen.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._selector = selectors.DefaultSelector()
        for stream, events in (
            (self._process.stdin, selectors.EVENT_WRITE),
            (self._process.stdout, selectors.EVENT_READ),
            (self._process.stderr, selectors.EVENT_READ),
        ):
            assert stream is not None  # noqa: S101  (Popen gives what it was asked for)
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, events)

    @property
    def stderr(self) -> str:
        """The end of what the job wrote to stderr; where none began, of what ssh and the login shell did."""
        text = self._stderr.rpartition(self._marker + b"\n")[2]
        return self._end.split(text)[0].decode(errors="replace")

    @property
    def said_before(self) -> str:
        """The end of what the login shell wrote to stdout before the job began."""
        return self._before.decode(errors="replace")

    def pump(self, deadline: float) -> bool:
        """Feed and listen until the job has ended (True) or `deadline` of time.monotonic() has passed (False)."""
        next_beat = time.monotonic() + self._beat
        while any(key.events == selectors.EVENT_READ for key in self._selector.get_map().values()):
            now = time.monotonic()
            if now >= deadline:
                return False
            if now >= next_beat:
                next_beat = now + self._beat
                self._send_beat()
            for key, _ in self._selector.select(max(0.0, min(deadline, next_beat) - now)):
                if key.fileobj is self._process.stdin:
                    self._write()
                else:
                    self._read(key.fileobj, key.fd)
            if self.code is not None:
                deadline = min(deadline, time.monotonic() + LINGER_SECONDS)
                self._close_stdin()
        return True

    def stop(self) -> None:
        """End the job: its stdin ends, and the guard on the board kills it. Returns when it is gone, or cannot be."""
        self._sink = None
        self._close_stdin()
        with suppress(OSError):
            self.pump(time.monotonic() + STOP_SECONDS)

    def close(self) -> None:
        """No process and no stream of this session is left."""
        self._close_stdin()
        self._selector.close()
        try:
            self._process.wait(STOP_SECONDS if self.code is None else LINGER_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
        finally:
            for stream in (self._process.stdout, self._process.stderr):
                if stream is not None:
                    stream.close()

    def _read(self, stream: object, descriptor: int) -> None:
        try:
            block = os.read(descriptor, BLOCK)
        except BlockingIOError:
            return
        if not block:
            self._selector.unregister(descriptor)
        elif stream is self._process.stderr:
            self._stderr = (self._stderr + block)[-KEPT_BYTES:]
            if found := self._end.search(self._stderr):
                self.code = int(found[1])
        elif self.has_begun:
            self._take(block)
        else:
            said, begin, body = (self._before + block).partition(self._marker + b"\n")
            self._before = said[-KEPT_BYTES:]
            if begin:
                self.has_begun = True
                self._take(body)

    def _take(self, body: bytes) -> None:
        if body and self._sink is not None:
            self._sink(body)

    def _write(self) -> None:
        if not self._pending and self._feed is not None:
            block = next(self._feed, None)
            if block is None:
                self._feed = None
            else:
                self._pending = memoryview(block)
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            return
        if not self._pending:
            if self._feed is None:
                self._selector.unregister(stdin)
            return
        try:
            self._pending = self._pending[os.write(stdin.fileno(), self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the job has ended without reading it all, or ssh has
            self._close_stdin()

    def _send_beat(self) -> None:
        """One line, once all is fed; a link that takes nothing is no reason to wait."""
        stdin = self._process.stdin
        if self._feed is None and not self._pending and stdin is not None and not stdin.closed:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(stdin.fileno(), b"\n")

    def _close_stdin(self) -> None:
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with suppress(KeyError):
                self._selector.unregister(stdin)
            stdin.close()
