"""QEMU's command line, and its process, which ends with whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeks.emulator.needs import SEARCHED
from edgeks.errors import BoardError

PROGRAM = "qemu-system-aarch64"
# Nice: what is emulated is never timed, so everything else on this machine comes first.
AHEAD = ("setpriv", "--pdeathsig", "KILL", "nice", "-n", "10")
KERNEL = "console=ttyAMA0 quiet loglevel=0 panic=-1"


def command(
    kernel: Path,
    initrd: Path,
    disks: Sequence[Path],
    cpu: str,
    memory: str,
    options: Sequence[str],
    parameters: str = "",
) -> list[str]:
    """A board without a screen, its console on stdout. What it writes to its disks is thrown away with it."""
    drives = [word for disk in disks for word in ("-drive", f"file={_escape(disk)},format=raw,if=virtio,snapshot=on")]
    return [
        PROGRAM, "-M", "virt,dtb-randomness=off", "-cpu", cpu, "-m", memory,
        "-kernel", str(kernel), "-initrd", str(initrd), "-append", f"{KERNEL} {parameters}".strip(), *drives,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-chardev", "stdio,id=console,signal=off",
        "-serial", "chardev:console", *options,
    ]  # fmt: skip


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")  # a comma ends a value in QEMU's options


def version() -> str:
    """What QEMU calls itself: `7.2.22 (Debian 1:7.2+dfsg-7)`.

    Raises:
        BoardError: it cannot be started.
    """
    try:
        told = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=False, env=_environment())
    except OSError as error:
        raise BoardError(f"{PROGRAM} cannot be started ({error.strerror})") from error
    return told.stdout.partition("\n")[0].removeprefix("QEMU emulator version ").strip()


@contextmanager
def running(words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU while the block runs; its console is stdout, its complaints come there too.

    It is killed at the end of the block and when the thread that started it ends, however that comes about.
    """
    try:
        process = subprocess.Popen(
            [*AHEAD, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=_environment(), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise BoardError(f"{words[0]} cannot be started ({error.strerror})") from error
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": SEARCHED}
