"""The emulated board to log in to: a Host as any other, on a port of this machine."""

from __future__ import annotations

import secrets
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeks.board.host import Host
from edgeks.emulator import initrd, qemu
from edgeks.emulator.cpus import CPUS, require_cpu
from edgeks.emulator.image import OnLine, build
from edgeks.emulator.system import USER
from edgeks.emulator.tool import run_tool
from edgeks.errors import BoardError

READY_SECONDS = 180.0
ATTEMPTS = 3
NAME = "emulated-pi"
CONFIG = """Host {name}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile "{folder}/id"
  IdentitiesOnly yes
  UserKnownHostsFile "{folder}/known_hosts"
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  HostKeyAlias {name}
"""


@dataclass(frozen=True, slots=True)
class EmulatedBoard:
    """A board that runs. `host` logs in as the user pi, `root` as root. `seconds`: until sshd answered."""

    host: Host
    root: Host
    seconds: float
    console: list[str]


@contextmanager
def boot(
    cpu: str = "cortex-a72", memory: str = "512M", cores: int = 2, *, on_line: OnLine | None = None
) -> Iterator[EmulatedBoard]:
    """Start the emulated board and yield it once sshd answers; it is gone at the end of the block, and all it has
    written with it.

    Its keys are made anew each time, ssh checks the board's, and nothing but this machine's 127.0.0.1 can reach it,
    nor it anything. `on_line` gets what building and starting say.

    Raises:
        ConfigError: no such core.
        BoardError: it cannot be built or started, or sshd does not answer.
    """
    image = build(on_line)
    require_cpu(cpu)
    with tempfile.TemporaryDirectory(prefix="edgeks_board_") as name:
        folder = Path(name)
        first = folder / "initrd.gz"
        first.write_bytes(_keys(folder) + image.initrd.read_bytes())
        for attempt in range(1, ATTEMPTS + 1):
            port = _free_port()
            network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"
            options = (
                "-smp", str(cores), "-accel", "tcg,thread=multi", "-netdev", network,
                "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
            )  # fmt: skip
            words = qemu.command(image.kernel, first, (image.root,), cpu, memory, options)
            start = time.monotonic()
            with qemu.running(words) as process:
                console = _listen(process)
                hosts = [_host(folder, port, user) for user in (USER, "root")]
                if not _is_ready(process, hosts[0]):
                    if any("host forwarding" in line for line in console) and attempt < ATTEMPTS:
                        continue  # another process took the port in between
                    found = "went down" if process.poll() is not None else f"no sshd within {READY_SECONDS:.0f} s"
                    raise BoardError(f"the emulated board: {found}; {' '.join(console[-3:]) or 'no message'}")
                board = EmulatedBoard(hosts[0], hosts[1], time.monotonic() - start, console)
                if on_line:
                    on_line(f"emulated board: {CPUS[cpu]}, {memory}: sshd answered after {board.seconds:.0f} s")
                yield board
                return


def _keys(folder: Path) -> bytes:
    """Two key pairs, the user's and the board's; ssh is told the board's → what to put before the initrd."""
    for name in ("id", "host"):
        run_tool(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f", str(folder / name)], "a key pair")
    public = (folder / "host.pub").read_text(encoding="ascii")
    (folder / "known_hosts").write_text(f"{NAME} {public}", encoding="ascii")
    host = (folder / "host").read_bytes()
    (folder / "host").unlink()
    return initrd.keys(host, (folder / "id.pub").read_bytes())


def _host(folder: Path, port: int, user: str) -> Host:
    path = folder / f"config_{user}"
    path.write_text(CONFIG.format(name=NAME, port=port, user=user, folder=folder), encoding="utf-8")
    return Host(name=NAME, destination=NAME, options=("-F", str(path)), is_emulated=True)


def _free_port() -> int:
    """A port of 127.0.0.1 that nobody has, one of those that are not handed out at once again."""
    for _ in range(100):
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BoardError("no free port on 127.0.0.1 between 20000 and 29999 in 100 attempts")


def _listen(process: subprocess.Popen[bytes]) -> list[str]:
    """The console's lines, as they come: a console that nobody reads stops the board."""
    lines: list[str] = []

    def read() -> None:
        try:
            for raw in process.stdout or ():
                lines.append(raw.decode(errors="replace").rstrip())
        except ValueError:  # closed
            pass

    threading.Thread(target=read, daemon=True).start()
    return lines


def _is_ready(process: subprocess.Popen[bytes], host: Host) -> bool:
    """Wait until ssh gets through, or QEMU ends."""
    command = ["ssh", *host.options, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host.destination, "true"]
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return True
        time.sleep(0.3)
    return False
