"""A board that is this machine: a real sshd on 127.0.0.1, with a home folder, keys and known_hosts of its own.

Nothing of the tester's is read or written. The server ends with the process that started it, however that ends.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from edgeks.board.host import Host

ROOT = Path(__file__).resolve().parents[1]
FETCHED = ROOT / ".sshd"
START_SECONDS = 10.0
# The shell ends the server when the pipe from the test's process closes.
SUPERVISOR = 'exec 3<&0; "$@" </dev/null 3<&- & p=$!; { read -r _; kill $p; } <&3 & r=$!; exec 3<&-; wait $p; kill $r'
# root's sshd wants a user `sshd` and a folder /run/sshd: both in a mount namespace of its own. So is the account, whose
# shell and home folder the test chooses; an ordinary user's server gets them by its configuration.
AS_ROOT = (
    'mount --bind "$1" /etc/passwd && mount -t tmpfs -o mode=755 none /run && mkdir /run/sshd && shift && exec "$@"'
)


@cache
def executable() -> Path | None:
    """The sshd that is installed, or the one that `make .sshd` fetched."""
    for path in (shutil.which("sshd"), "/usr/sbin/sshd", FETCHED / "usr" / "sbin" / "sshd"):
        if path is not None and Path(path).exists():
            return Path(path)
    return None


def why_none() -> str:
    """Why there can be no loopback board here; empty where there can."""
    if sys.platform != "linux":
        return f"the loopback board needs Linux; this is {sys.platform}"
    if shutil.which("ssh") is None:
        return "no ssh: install OpenSSH's client"
    if executable() is None:
        return "no sshd: `make .sshd` fetches one where there is apt, or install OpenSSH's server"
    if os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        return "as root the loopback board needs a mount namespace (`unshare -m`); run the tests as an ordinary user"
    return ""


class Loopback:
    """A running sshd. `home` is the account's home folder there; `host` reaches it."""

    def __init__(self, folder: Path, port: int, server: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port = port
        self.log = folder / "log"
        self._server = server

    @property
    def host(self) -> Host:
        """The board as the user's configuration names it."""
        return Host("board", "board", ("-F", str(self.folder / "config")))

    def host_with(self, **settings: object) -> Host:
        """The board with settings of ssh's that come before those of its configuration."""
        words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return Host("board", "board", (*words, *self.host.options))

    def sessions(self) -> list[int]:
        """The processes of sshd that serve connections: the link's ends."""
        servers = [pid for pid, parent, name in processes() if parent == self._server.pid and name.startswith("sshd")]
        found, parents = [], servers
        while parents:
            parents = [pid for pid, parent, name in processes() if parent in parents and name.startswith("sshd")]
            found += parents
        return found

    def signal_sessions(self, number: signal.Signals) -> None:
        """Kill, freeze or thaw every link."""
        for pid in self.sessions():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        """End the server and its links."""
        sessions = self.sessions()
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()
        for pid in sessions:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def loopback(
    folder: Path, *, environment: Mapping[str, str] | None = None, shell: str = "/bin/bash"
) -> Iterator[Loopback]:
    """Start sshd with its files in `folder`; `environment` is what its sessions get, beside HOME.

    `shell` is the account's login shell, where the tests run as root.
    """
    (folder / "home").mkdir(parents=True)
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", folder / key], check=True)
    port = free_port()
    write_configuration(folder, port, dict(environment or {}))
    board = Loopback(folder, port, start(folder, shell))
    try:
        await_server(board)
        yield board
    finally:
        board.stop()


def write_configuration(folder: Path, port: int, environment: dict[str, str]) -> None:
    """The server's and the client's configuration files, and known_hosts."""
    # SHLVL: bash reads ~/.bashrc for a command over ssh only where it is the outermost shell.
    variables = {"SHLVL": "0", "HOME": str(folder / "home")} | environment
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/user_key.pub",
        "PidFile none",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "StrictModes no",  # a folder above that others can write is refused otherwise
        "PermitRootLogin yes",
        "SetEnv " + " ".join(f'"{name}={value}"' for name, value in variables.items()),
    ]
    if os.geteuid() != 0:  # its account has the tester's home folder
        lines.append('ForceCommand cd && exec sh -c "$SSH_ORIGINAL_COMMAND"')
    program = executable()
    assert program is not None
    for setting, name in (("SshdSessionPath", "sshd-session"), ("SshdAuthPath", "sshd-auth")):  # OpenSSH 10
        path = FETCHED / "usr" / "lib" / "openssh" / name
        if path.exists() and program.is_relative_to(FETCHED):
            lines.append(f"{setting} {path}")
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "config").write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {port}\n  User {pwd.getpwuid(os.geteuid()).pw_name}\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile none\n"
    )


def start(folder: Path, shell: str) -> subprocess.Popen[bytes]:
    """The supervisor of a server."""
    program = executable()
    assert program is not None
    command = [str(program), "-D", "-e", "-f", str(folder / "sshd_config")]
    if os.geteuid() == 0:
        accounts = [
            line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[0] not in ("root", "sshd")
        ]
        accounts += [f"root:x:0:0:root:{folder / 'home'}:{shell}", "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin"]
        (folder / "passwd").write_text("\n".join(accounts) + "\n")
        command = ["unshare", "-m", "sh", "-c", AS_ROOT, "sh", str(folder / "passwd"), *command]
    environment = dict(os.environ)
    if program.is_relative_to(FETCHED):
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, FETCHED.glob("usr/lib/*-linux-*")))
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["sh", "-c", SUPERVISOR, "sh", *command], stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        )


def await_server(board: Loopback) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", board.port), 1.0) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"sshd did not start: {board.log.read_text()}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def processes() -> list[tuple[int, int, str]]:
    """Every live process: its id, its parent's, its name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text(errors="replace").rpartition(") ")
        except OSError:
            continue
        state, parent = after.split()[:2]
        if state != "Z":
            found.append((int(path.parent.name), int(parent), before.partition("(")[2]))
    return found


def with_marker(marker: str) -> list[str]:
    """The command lines of the live processes that have `marker` in their command line or environment, but ours."""
    found = []
    for pid, _, _ in processes():
        try:
            words, environment = Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if pid != os.getpid() and (marker.encode() in words or marker.encode() in environment):
            found.append(shlex.join(words.decode(errors="replace").split("\0")))
    return found


def gone(marker: str, seconds: float = 5.0) -> bool:
    """Whether no process with `marker` is left, or is within so many seconds."""
    deadline = time.monotonic() + seconds
    while with_marker(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
