"""Reaching a board: OpenSSH as a subprocess, one connection for many commands, files both ways.

The user's ~/.ssh/config, agent, known_hosts and jump hosts are honoured, host keys are checked as the user's
configuration says, and no password is ever asked for. Files go through `cat`, so that a board needs no SFTP server.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import inf
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from edgeks.atomic_write import atomic_write
from edgeks.board.host import Host
from edgeks.board.job_output import Body, Lines, Text
from edgeks.board.remote_job import LOADER, PIPE_BYTES, guarded, quote, remote_path
from edgeks.board.session import Session
from edgeks.board.ssh_failures import connect_failure, ended_by_signal, last_words, link_loss, shown
from edgeks.errors import BoardError, InputError, LinkLost

__all__ = ["Completed", "Connection", "quote", "remote_path"]

KEEPALIVE_SECONDS = 10
KEEPALIVES_MISSED = 3
BLOCK = 1 << 18
# A folder of a Unix socket must be short: the whole path, with ssh's random ending, has 104 bytes on some systems.
MAX_FOLDER = 60
# ssh as a child that ends with us however we end: its parent is a shell that kills it, and removes the socket's folder,
# when the pipe from us closes.
SUPERVISOR = (
    'd=$1; shift; exec 3<&0; "$@" 3<&- </dev/null & p=$!; exec 2>/dev/null; { read -r _; kill $p; } <&3 & r=$!; '
    'exec 3<&-; wait $p; c=$?; kill $r; rm -rf "$d"; exit $c'
)


@dataclass(frozen=True, slots=True)
class Completed:
    """A remote command that ended: its exit code (128 + n: killed by signal n) and what it wrote.

    `stdout` is whole, or its last 64 KiB where the lines went to `on_line`; `stderr` is its last 64 KiB.
    """

    code: int
    stdout: str
    stderr: str


class Connection:
    """One connection to a board, for commands and files one after another or from several threads.

    `keepalive`: the host and the board look for each other every so many whole seconds; after three in vain the link
    counts as frozen. `connect_timeout` in seconds is for the TCP connection and the server's first words; the keys may
    take twice as long again. `on_wait` is called many times a second meanwhile: what it raises ends the attempt.

    Raises:
        BoardError: ssh is missing, the board cannot be reached, is not the known one, or does not let us in.
    """

    def __init__(
        self,
        host: Host,
        connect_timeout: float = 10.0,
        keepalive: int = KEEPALIVE_SECONDS,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.host = host
        self._keepalive = keepalive
        self._said: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the connection)
        self._folder = _private_folder()
        self._socket = self._folder / "s"
        self._master: subprocess.Popen[bytes] | None = None
        try:
            self._master = self._start(connect_timeout)
            self._await_socket(self._master, connect_timeout, on_wait)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self._master is not None

    def close(self) -> None:
        """End the connection and whatever still runs over it; nothing is left on this machine. May be called twice."""
        master, self._master = self._master, None
        try:
            if master is not None:
                assert master.stdin is not None  # noqa: S101  (it was opened as a pipe)
                master.stdin.close()
                try:
                    master.wait(5)
                except BaseException:
                    with suppress(ProcessLookupError):
                        os.killpg(master.pid, 9)
                    master.wait()
                    raise
        except subprocess.TimeoutExpired:
            pass
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._said.close()

    def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
        check: bool = True,
        name: str | None = None,
    ) -> Completed:
        """Run POSIX sh text on the board, in the home folder, by `sh` whatever the login shell is.

        The job, with every process of its session, ends when this returns, when `timeout` seconds are over, and when
        the link or this process dies. Lines of stdout go to `on_line` as they come, without their line ends, a line of
        more than 1 MiB in pieces. `stdin` has at most 64 KiB. `name` is what errors call the command instead of its
        first line.

        Raises:
            LinkLost: the connection ended first.
            BoardError: the command did not end in time, was killed, or wrote more than 16 MiB that nobody took; its
                exit code is not 0, with `check`.
        """
        output = Lines(on_line) if on_line is not None else Text(shown(self.host))
        if len(stdin) > PIPE_BYTES:
            raise ValueError(f"stdin has {len(stdin)} bytes; at most {PIPE_BYTES}: put a file there instead")
        name = name or _brief(command)
        code, stderr = self._session(name, command, stdin, timeout, output.take)
        completed = Completed(code, output.end(), stderr)
        if check and code != 0:
            raise self._failed(name, completed)
        return completed

    def put(
        self,
        source: Path | bytes,
        remote: str,
        *,
        executable: bool = False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """A file or bytes → a file on the board, whole or not at all; folders above it are made.

        `on_bytes` gets the number of bytes sent so far.

        Raises:
            InputError: `source` cannot be read, or changes while it is sent.
            BoardError: `remote` cannot be written (disk full, read-only, a folder of that name), or the link was lost.
        """
        size = len(source) if isinstance(source, bytes) else _size(source)
        command = (
            f"export LC_ALL=C; f={remote_path(remote)}; t=$f.$$.part\n"
            "if [ -d \"$f\" ]; then echo 'is a folder' >&2; exit 1; fi\n"
            "trap 'rm -f \"$t\"' EXIT; trap 'exit 143' HUP INT TERM PIPE\n"
            'mkdir -p -- "${f%/*}/" && cat >"$t" || exit 1\n'
            f'n=$(wc -c <"$t"); if [ "$n" -ne {size} ]; then echo "$n of {size} bytes came" >&2; exit 1; fi\n'
            f'chmod {"755" if executable else "644"} "$t" && mv -f -- "$t" "$f"'
        )
        timeout = 120.0 + size / 20_000  # a slow radio link
        code, stderr = self._session(
            f"the transfer of {remote}", command, size, timeout, lambda _: None, _blocks(source, size, on_bytes)
        )
        if code != 0:
            found = ended_by_signal(code) or last_words(stderr) or f"exit code {code}"
            raise BoardError(f"{shown(self.host)}: {remote}: cannot be written: {found}{_advice(found)}")

    def get(self, remote: str, local: Path, *, limit: int = 1 << 40) -> None:
        """A file on the board → a file here, whole or not at all; of one that grows, what it held at the start.

        Raises:
            BoardError: no such file, it cannot be read, has more than `limit` bytes, shrank meanwhile, or the link was
                lost.
            OutputError: `local` cannot be written.
        """
        command = (
            f"export LC_ALL=C; f={remote_path(remote)}\n"
            "if [ ! -f \"$f\" ]; then echo 'no such file' >&2; exit 1; fi\n"
            'n=$(wc -c <"$f") && echo $n && head -c $n "$f"'
        )
        with atomic_write(local) as temporary, temporary.open("wb") as file:
            body = Body(file, limit, f"{shown(self.host)}: {remote}")
            code, stderr = self._session(f"the transfer of {remote}", command, b"", inf, body.take)
            if code != 0:
                found = ended_by_signal(code) or last_words(stderr) or f"exit code {code}"
                raise BoardError(f"{shown(self.host)}: {remote}: cannot be read: {found}")
            if body.received != body.announced:
                raise BoardError(
                    f"{shown(self.host)}: {remote}: {body.received} of {body.announced} bytes came; it was changed "
                    "while it was read: try again"
                )

    def _start(self, connect_timeout: float) -> subprocess.Popen[bytes]:
        if shutil.which("ssh") is None:
            raise BoardError("ssh is not installed here; install OpenSSH's client (on Debian: openssh-client)")
        # The first value that ssh meets counts: some before the user's options, some after them.
        defaults = {
            "ConnectTimeout": max(1, round(connect_timeout)),
            "ServerAliveInterval": self._keepalive,
            "ServerAliveCountMax": KEEPALIVES_MISSED,
        }
        settings = {
            "BatchMode": "yes",
            "ControlMaster": "yes",
            "ControlPath": self._socket,
            "ControlPersist": "no",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "LogLevel": "INFO",  # its words tell failures apart
        }
        options = [*_options(settings), *self.host.options, *_options(defaults)]
        command = ["ssh", "-N", "-T", *options, "--", self.host.destination]
        return subprocess.Popen(
            ["sh", "-c", SUPERVISOR, "sh", self._folder, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C in the terminal must not end the link before the job
            env=os.environ | {"LC_ALL": "C"},
        )

    def _await_socket(
        self, master: subprocess.Popen[bytes], connect_timeout: float, on_wait: Callable[[], None]
    ) -> None:
        """ssh makes its socket when the board has let it in."""
        start = time.monotonic()
        while not self._socket.exists():
            elapsed = time.monotonic() - start
            if master.poll() is not None:
                raise BoardError(connect_failure(self.host, self._words(), elapsed))
            if elapsed > 3 * connect_timeout:
                raise BoardError(connect_failure(self.host, "timed out", elapsed))
            on_wait()
            time.sleep(0.01)

    def _session(
        self,
        name: str,
        command: str,
        stdin: bytes | int,
        timeout: float,
        sink: Callable[[bytes], None],
        feed: Iterable[bytes] = (),
    ) -> tuple[int, str]:
        """Exit code and stderr of a command; its stdin: as given, or so many bytes of `feed`; stdout goes to `sink`."""
        if "\0" in command:
            raise ValueError("a command holds no zero byte")
        self._require_link(name)
        marker = f"edgeks-{secrets.token_hex(8)}"
        line = guarded(command, marker, stdin, KEEPALIVES_MISSED * self._keepalive, timeout)
        session = Session(self._client(), marker, chain([line], feed), sink, self._keepalive)
        try:
            if not session.pump(time.monotonic() + timeout) and session.code is None:
                raise BoardError(f"{shown(self.host)}: {name} did not end within {timeout:g} s; it was stopped")
        except BaseException:
            session.stop()
            raise
        finally:
            session.close()
        if session.code is None:
            self._require_link(name, settle=1.0)
            if "Session open refused" in session.stderr:
                raise BoardError(
                    f"{shown(self.host)}: sshd there refuses one more command at once (MaxSessions in its sshd_config)"
                )
            if not session.has_begun:
                said = last_words(session.stderr) or last_words(session.said_before) or "nothing"
                raise BoardError(
                    f"{shown(self.host)}: the account's login shell did not start sh; it said: {said}; see what "
                    "`ssh` gives by hand, and that the account has a shell"
                )
            raise LinkLost(
                f"{shown(self.host)}: the shell of {name} was killed on the board before the command ended, most "
                "often because the board ran out of memory (`dmesg` there says so)"
            )
        return session.code, session.stderr

    def _client(self) -> list[str]:
        """ssh as a client of the master: none of the user's configuration, and no way to the board but the socket."""
        settings = {"ControlMaster": "no", "ControlPath": self._socket, "ProxyCommand": "exit 1"}
        settings |= {"BatchMode": "yes", "LogLevel": "ERROR"}
        return ["ssh", "-T", "-F", "none", *_options(settings), "--", "board", LOADER]

    def _require_link(self, name: str, settle: float = 0.0) -> None:
        """Raise LinkLost if the master has ended, or does within `settle` seconds."""
        master = self._master  # another thread may close the connection
        if master is None:
            raise LinkLost(f"{shown(self.host)}: the connection is closed; {name} cannot run")
        with suppress(subprocess.TimeoutExpired):
            master.wait(settle)
            raise LinkLost(
                f"{shown(self.host)}: the connection was lost during {name}: {link_loss(self._words())}; check the "
                "board's power and network, then run it again"
            )

    def _failed(self, name: str, completed: Completed) -> BoardError:
        found = ended_by_signal(completed.code) or f"exit code {completed.code}"
        said = last_words(completed.stderr)
        return BoardError(f"{shown(self.host)}: {name}: {found}{f': {said}' if said else ''}{_advice(said)}")

    def _words(self) -> str:
        """What the master has said so far."""
        with suppress(ValueError):  # closed
            return os.pread(self._said.fileno(), 1 << 16, 0).decode(errors="replace")
        return ""


def _blocks(source: Path | bytes, size: int, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    """Exactly `size` bytes of `source`."""
    sent = 0
    try:
        with tempfile.SpooledTemporaryFile() if isinstance(source, bytes) else source.open("rb") as file:
            if isinstance(source, bytes):
                file.write(source)
                file.seek(0)
            while sent < size:
                block = file.read(min(BLOCK, size - sent))
                if not block:
                    raise InputError(f"{source!r}: became shorter while it was sent; try again")
                sent += len(block)
                yield block
                if on_bytes is not None:
                    on_bytes(sent)
    except OSError as error:
        raise InputError(f"{source!r}: cannot be read ({error.strerror})") from error


def _size(source: Path) -> int:
    try:
        if not source.is_file():
            raise InputError(f"{source}: no such file, or no file; name one to send to the board")
        return source.stat().st_size
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from error


def _options(settings: Mapping[str, object]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _private_folder() -> Path:
    """A new folder of mode 0700 whose path is short enough for a socket."""
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="edgeks", dir=parent if len(os.fsencode(parent)) <= MAX_FOLDER else "/tmp"))  # noqa: S108


def _brief(command: str) -> str:
    """A command as errors name it that has no name."""
    line = command.strip().splitlines()[0] if command.strip() else ""
    return f"`{line}`" if line == command.strip() and len(line) <= 80 else f"`{line[:80]}…`"


def _advice(found: str) -> str:
    if "No space left" in found:
        return "; free some space there (`df -h`), or name a folder on another disk"
    if "Read-only file system" in found or "Permission denied" in found:
        return "; name a folder that the account can write"
    return ""
