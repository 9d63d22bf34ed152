"""The link to a board when something is wrong with it: each fault against a real sshd, and nothing is left behind."""

import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from loopback import ROOT, Loopback, free_port, gone, loopback, processes, with_marker

from edgeks.board.host import Host
from edgeks.board.ssh import Connection
from edgeks.errors import BoardError, LinkLost

pytestmark = pytest.mark.usefixtures("temp")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose the account's shell, or mount")


@pytest.fixture
def marker(temp: Path) -> Iterator[str]:
    """A word to find a job's processes by; afterwards none is left, and nothing of the connection's here."""
    word = f"marked-{secrets.token_hex(8)}"
    yield word
    assert gone(word), with_marker(word)
    assert gone(str(temp)), with_marker(str(temp))
    assert list(temp.iterdir()) == []


def fault(host: Host, connect_timeout: float = 5.0) -> str:
    """The message of the error of a board that cannot be reached."""
    with pytest.raises(BoardError) as error:
        Connection(host, connect_timeout)
    assert "\n" not in str(error.value)
    return str(error.value)


def job(marker: str, rest: str = "sleep 100") -> str:
    """A command that all its processes can be found by."""
    return f"export MARKER={marker}; echo up; {rest}"


def other_key(board: Loopback, folder: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "other"], check=True)
    config = (board.folder / "config").read_text().replace(f"{board.folder}/user_key", f"{folder}/other")
    (folder / "config").write_text(config)
    return folder / "config"


def test_wrong_key(board: Loopback, tmp_path: Path, marker: str) -> None:
    message = fault(Host("pi4", "board", ("-F", str(other_key(board, tmp_path)))))
    assert message.startswith("pi4 (board): permission denied; it takes publickey; as user ")
    assert f"ssh tried {tmp_path}/other and the agent's keys" in message
    assert "ssh-copy-id" in message


def test_unknown_host_key(board: Loopback, tmp_path: Path, marker: str) -> None:
    message = fault(board.host_with(UserKnownHostsFile=tmp_path / "none"))
    assert "its host key is unknown; connect once with `ssh -o UserKnownHostsFile=" in message
    assert "fingerprint" in message
    assert not (tmp_path / "none").exists()


def test_changed_host_key(board: Loopback, tmp_path: Path, marker: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    known = tmp_path / "known"
    known.write_text(f"# one line\n[127.0.0.1]:{board.port} {(tmp_path / 'other.pub').read_text()}")
    message = fault(board.host_with(UserKnownHostsFile=known))
    assert f"its host key is not the one in {known}, line 2" in message
    assert f'`ssh-keygen -R "[127.0.0.1]:{board.port}" -f {known}`' in message


def test_port_closed(board: Loopback, marker: str) -> None:
    port = free_port()
    message = fault(board.host_with(Port=port))
    assert f"connection refused: nothing listens on port {port}; start sshd" in message


def test_silent_port(board: Loopback, marker: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = fault(board.host_with(Port=silent.getsockname()[1]), connect_timeout=1.0)
    assert "no answer within 1 s" in message


def test_a_port_that_is_silent_after_the_greeting(board: Loopback, marker: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        accepted: list[socket.socket] = []

        def greet() -> None:
            accepted.append(silent.accept()[0])
            accepted[0].sendall(b"SSH-2.0-x\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        message = fault(board.host_with(Port=silent.getsockname()[1]), connect_timeout=0.5)
        thread.join()
        accepted[0].close()
    assert "no answer within" in message


def test_unknown_name(marker: str) -> None:
    assert "board.invalid: the name is not known" in fault(Host("board.invalid", "board.invalid", ("-F", "none")))


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, marker: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fault(Host("pi", "pi")) == "ssh is not installed here; install OpenSSH's client (on Debian: openssh-client)"


def test_an_option_that_ssh_does_not_know(marker: str) -> None:
    assert "ssh could not connect" in fault(Host("pi", "pi", ("-F", "none", "-o", "Nonsense=1")))


@as_root
def test_an_account_without_a_shell(tmp_path: Path, marker: str) -> None:
    with (
        loopback(tmp_path / "board", shell="/usr/sbin/nologin") as board,
        Connection(board.host) as connection,
        pytest.raises(BoardError, match="login shell did not start sh; it said: This account is currently not avail"),
    ):
        connection.run("true")


def test_a_noisy_login_shell(tmp_path: Path, marker: str) -> None:
    with loopback(tmp_path / "board") as board:
        (board.home / ".bashrc").write_text("echo welcome; printf prompt; echo warning >&2; trap 'echo bye' EXIT\n")
        with Connection(board.host) as connection:
            completed = connection.run("echo out; echo err >&2")
            assert (completed.stdout, completed.stderr) == ("out\n", "err\n")


@as_root
@pytest.mark.parametrize("name", ["dash", "bash", "zsh", "csh", "tcsh", "fish"])
def test_login_shells(tmp_path: Path, marker: str, name: str) -> None:
    shell = shutil.which(name)
    if shell is None:
        pytest.skip(f"{name} is not installed")
    with loopback(tmp_path / "board", shell=shell) as board, Connection(board.host) as connection:
        assert connection.run("x='a!b\n\\'; printf %s \"$x\"; cat", stdin=b"\0").stdout == "a!b\n\\\0"


@as_root
def test_a_login_shell_that_stays_between(tmp_path: Path, marker: str) -> None:
    """Then sh is not the leader of its session, which is how the job's processes are told from others."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\n/bin/sh "$@"\nexit\n')
    shell.chmod(0o755)
    with loopback(tmp_path / "board", shell=str(shell)) as board, Connection(board.host) as connection:
        assert connection.run(job(marker, "cat; sleep 100 & exit 3"), stdin=b"in", check=False).stdout == "up\nin"
        assert gone(marker, 1), with_marker(marker)
        with pytest.raises(BoardError, match="did not end"):
            connection.run(job(marker, "sleep 100 & sleep 101"), timeout=1.0)
        assert gone(marker, 1), with_marker(marker)


def test_link_killed_in_the_middle(board: Loopback, marker: str) -> None:
    lines: list[str] = []

    def cut(line: str) -> None:
        lines.append(line)
        board.signal_sessions(signal.SIGKILL)

    with Connection(board.host) as connection:
        with pytest.raises(LinkLost, match=r"the connection was lost during `export .*: the board closed it; check"):
            connection.run(job(marker), on_line=cut)
        assert lines == ["up"]
        assert gone(marker), with_marker(marker)
        with pytest.raises(LinkLost):
            connection.run("true")


def test_link_frozen(board: Loopback, marker: str) -> None:
    def freeze(_: str) -> None:
        board.signal_sessions(signal.SIGSTOP)

    try:
        with Connection(board.host, keepalive=1) as connection:
            with pytest.raises(LinkLost, match="the board stopped answering"):
                connection.run(job(marker), on_line=freeze)
            assert gone(marker, 10), with_marker(marker)  # its guard hears nothing from us
    finally:
        board.signal_sessions(signal.SIGKILL)


def test_a_long_job_is_not_taken_for_one_on_a_frozen_link(board: Loopback, marker: str) -> None:
    with Connection(board.host, keepalive=1) as connection:
        assert connection.run(job(marker, "sleep 8; echo done")).stdout == "up\ndone\n"


def test_every_process_of_the_job_ends(board: Loopback, marker: str) -> None:
    several = "sleep 100 & (trap '' TERM; timeout 100 sleep 101) & set -m; sleep 102 & wait"
    with Connection(board.host) as connection:
        with pytest.raises(BoardError, match="did not end"):
            connection.run(job(marker, several), timeout=1.0)
        assert gone(marker, 1), with_marker(marker)
        assert connection.run(job(marker, "sleep 100 & timeout 100 sleep 101 & echo left")).stdout == "up\nleft\n"
        assert gone(marker, 1), with_marker(marker)


def test_a_process_that_left_the_session_keeps_nobody_waiting(board: Loopback, marker: str) -> None:
    with Connection(board.host) as connection:
        assert connection.run(job(marker, "setsid sleep 30 & sleep 0.2")).stdout == "up\n"
        (left,) = with_marker(marker)
        assert "sleep 30" in left
        connection.run(f"for p in /proc/[0-9]*; do grep -qs {marker} $p/environ && kill ${{p#/proc/}}; done; true")


def test_the_waiting_shell_is_killed(board: Loopback, marker: str) -> None:
    with (
        Connection(board.host, keepalive=1) as connection,
        pytest.raises(LinkLost, match=r"shell of .* was killed on the board"),
    ):
        connection.run(job(marker, "kill -9 $PPID; sleep 100"))


def test_ssh_is_killed_here(board: Loopback, temp: Path, marker: str) -> None:
    def kill(_: str) -> None:
        (master,) = [pid for pid, _, name in processes() if name == "ssh" and is_master(pid)]
        os.kill(master, signal.SIGKILL)

    def is_master(pid: int) -> bool:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return "-N" in words and any(word.startswith(f"ControlPath={temp}") for word in words)

    with Connection(board.host) as connection, pytest.raises(LinkLost):
        connection.run(job(marker), on_line=kill)


def test_an_error_of_the_reader_s_stops_the_job(board: Loopback, marker: str) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with Connection(board.host) as connection:
        with pytest.raises(KeyboardInterrupt):
            connection.run(job(marker), on_line=stop)
        assert gone(marker, 1), with_marker(marker)
        assert connection.run("echo on").stdout == "on\n"


PROGRAM = """
import sys
from edgeks.board.host import Host
from edgeks.board.ssh import Connection
with Connection(Host("board", "board", ("-F", sys.argv[1]))) as connection:
    connection.run(sys.argv[2], on_line=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_this_process_is_killed(board: Loopback, marker: str, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM, str(board.folder / "config"), job(marker)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        os.killpg(program.pid, number)  # as the terminal does
        assert program.wait(10) != 0


def test_a_flood_needs_no_memory(board: Loopback, marker: str) -> None:
    count, before = [0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def add(line: str) -> None:
        count[0] += len(line) + 1

    with Connection(board.host) as connection:
        completed = connection.run("yes | head -c 20000000", on_line=add)
        assert (count[0], len(completed.stdout)) == (20_000_000, 65536)
        completed = connection.run("head -c 20000000 /dev/zero", on_line=add)  # one line
        assert 15 < count[0] - 40_000_000 < 21  # pieces
        assert len(connection.run("yes | head -c 20000000 >&2").stderr) <= 65536
        with pytest.raises(BoardError, match="more than 16 MiB to stdout; it was stopped"):
            connection.run(job(marker, "yes"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000  # kB


@as_root
def test_disk_full(board: Loopback, tmp_path: Path, marker: str) -> None:
    with Connection(board.host) as connection:
        connection.run("mkdir -p ~/small && mount -t tmpfs -o size=100k none ~/small")
        with pytest.raises(BoardError, match=r"small/f: cannot be written: .*No space left on device; free some space"):
            connection.put(b"x" * 1_000_000, "~/small/f")
        assert connection.run("ls -A ~/small").stdout == ""
        with pytest.raises(BoardError, match="No space left on device; free"):
            connection.run("head -c 200000 /dev/zero >~/small/f")
        connection.run("umount ~/small; rmdir ~/small")


@as_root
def test_read_only_home(board: Loopback, marker: str) -> None:
    with Connection(board.host) as connection:
        connection.run("mkdir -p ~/ro && mount -t tmpfs -o ro none ~/ro")
        with pytest.raises(BoardError, match=r"cannot be written: .*Read-only file system; name a folder"):
            connection.put(b"x", "~/ro/below/f")
        connection.run("umount ~/ro; rmdir ~/ro")


def test_a_put_that_is_cut_leaves_nothing(board: Loopback, marker: str) -> None:
    def cut(sent: int) -> None:
        board.signal_sessions(signal.SIGKILL)

    with Connection(board.host) as connection, pytest.raises(LinkLost, match="lost during the transfer of cut/f: the"):
        connection.put(b"x" * 20_000_000, "cut/f", on_bytes=cut)
    assert gone("cut/f"), with_marker("cut/f")
    assert list((board.home / "cut").glob("*")) == []


def test_a_get_that_is_cut_leaves_nothing(board: Loopback, tmp_path: Path, marker: str) -> None:
    with Connection(board.host) as connection:
        connection.run("truncate -s 100G ~/large")
        timer = threading.Timer(0.5, board.signal_sessions, [signal.SIGKILL])
        timer.start()
        with pytest.raises(LinkLost):
            connection.get("large", tmp_path / "f")
        timer.join()
    (board.home / "large").unlink()
    assert list(tmp_path.iterdir()) == []


def test_commands_of_several_threads(board: Loopback, marker: str) -> None:
    with Connection(board.host) as connection, ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda n: connection.run(f"echo {n}").stdout, range(12))) == [
            f"{n}\n" for n in range(12)
        ]


def test_more_sessions_than_the_server_allows(board: Loopback, marker: str) -> None:
    refused: list[str] = []

    def run(number: int) -> None:
        try:
            connection.run(job(marker, "sleep 3"))
        except BoardError as error:
            refused.append(str(error))

    with Connection(board.host) as connection, ThreadPoolExecutor(12) as threads:
        list(threads.map(run, range(12)))
    assert refused
    assert all("refuses one more command at once" in message for message in refused)


def test_a_jump_host(board: Loopback, tmp_path: Path, marker: str) -> None:
    text = (board.folder / "config").read_text()
    (tmp_path / "config").write_text(text + text.replace("Host board", "Host inner\n  ProxyJump board"))
    with Connection(Host("inner", "inner", ("-F", str(tmp_path / "config")))) as connection:
        assert connection.run("echo through").stdout == "through\n"


def test_the_users_settings_do_not_get_in_the_way(board: Loopback, tmp_path: Path, marker: str) -> None:
    text = (board.folder / "config").read_text()
    wild = (
        "  RemoteCommand echo no\n  RequestTTY force\n  ControlMaster auto\n  ControlPath ~/%C\n  ControlPersist yes\n"
        "  LogLevel QUIET\n  PermitLocalCommand yes\n  LocalCommand echo local\n  LocalForward 1 127.0.0.1:1\n"
    )
    (tmp_path / "config").write_text(text + wild)
    with Connection(Host("board", "board", ("-F", str(tmp_path / "config")))) as connection:
        assert connection.run("echo plain").stdout == "plain\n"
        assert connection.run("tty", check=False).code == 1


def test_the_loopback_board_ends_with_the_tests(tmp_path: Path) -> None:
    """pytest killed: no sshd is left, and no job of it."""
    program = (
        "import sys; sys.path.insert(0, 'device_tests'); from pathlib import Path; from loopback import loopback\n"
        "from edgeks.board.ssh import Connection\n"
        "with loopback(Path(sys.argv[1])) as board, Connection(board.host) as connection:\n"
        "    connection.run('echo up; sleep 100', on_line=lambda line: print(line, flush=True))\n"
    )
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        assert any("sshd" in line for line in with_marker(str(folder)))
        starter.kill()
    assert gone(str(folder)), with_marker(str(folder))
