"""`edgeks bench` on a board when something is wrong: one line, an exit code that is not 0, nothing left behind.

No process of it on the board, no temporary file here; and what was measured before is kept.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_command import SHORT, command, edgeks_says, hosts_file, make_model, records
from loopback import ROOT, Loopback, free_port, gone, loopback, processes, with_marker
from tflite_by_hand import TfliteGraph

from edgeks.board.host import Host
from edgeks.board.ssh import Connection

LONG = ("--processes", "50", "--runs", "4", "--seconds", "0.2", "--warmup", "1")
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
OLD_RUNTIME = ROOT / ".venv-tflite-runtime" / "bin" / "python"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, or limit a group's memory")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "net.onnx")


@pytest.fixture
def here(board: Loopback, tmp_path: Path, temp: Path) -> Iterator[Host]:
    """The board with a folder of this test, and an interpreter that has everything; afterwards nothing is left."""
    host = replace(board.host, folder=str(tmp_path / "on the board"), python=sys.executable)
    yield host
    assert gone(str(host.folder)), with_marker(str(host.folder))
    assert gone(str(temp)), with_marker(str(temp))
    assert list(temp.iterdir()) == []


def refusal(folder: Path, model: Path, *hosts: Host, also: tuple[object, ...] = ()) -> str:
    """The one line of a benchmark that cannot be made."""
    code, _, err = edgeks_says(folder, "bench", model, "--hosts", hosts_file(folder, *hosts), *SHORT, *also)
    return one_line(code, err)


def one_line(code: int, err: str) -> str:
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("error: ").strip()


def broken_off(folder: Path, model: Path, host: Host, fault: Callable[[], object]) -> str:
    """The one line of a benchmark that `fault` ends when its first process has been measured, which is kept."""
    process = command(folder, "bench", model, "--hosts", hosts_file(folder, host), *LONG)
    deadline = time.monotonic() + 60
    while not has_measured(folder) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    fault()
    _, err = process.communicate(timeout=90)
    line = one_line(process.returncode, err)
    (record,) = records(folder)
    assert record["measurements"][0]["repetitions"]
    assert not record["complete"]
    assert [failure["error"] for failure in record["failures"]] == [line]
    return line


def has_measured(folder: Path) -> bool:
    try:
        return any(record["measurements"] for record in records(folder))
    except ValueError:  # claimed, not written yet
        return False


def runners(host: Host) -> list[int]:
    """The runner's processes on the board."""
    found = []
    for pid, _, _ in processes():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if len(words) > 1 and words[1].startswith(str(host.folder)) and words[1].endswith("runner.py"):
                found.append(pid)
    return found


def test_boards_that_cannot_be_reached(board: Loopback, here: Host, model: Path, tmp_path: Path) -> None:
    """Each of them in one line; the board beside them is measured."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    stranger = (board.folder / "config").read_text().replace(f"{board.folder}/user_key", f"{tmp_path}/other")
    (tmp_path / "stranger").write_text(stranger)
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{board.port} {(tmp_path / 'other.pub').read_text()}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {
            "wrong-key": ("-F", str(tmp_path / "stranger")),
            "unknown-host-key": ("-o", "UserKnownHostsFile=/dev/null", *here.options),
            "changed-host-key": ("-o", f"UserKnownHostsFile={tmp_path}/changed", *here.options),
            "port-closed": ("-o", f"Port={free_port()}", *here.options),
            "silent-port": ("-o", f"Port={silent.getsockname()[1]}", "-o", "ConnectTimeout=2", *here.options),
            "unknown-name": ("-F", "none"),
        }
        hosts = [replace(here, name=name, options=words) for name, words in options.items()]
        hosts[-1] = replace(hosts[-1], destination="board.invalid")
        line = refusal(tmp_path, model, *hosts, here)
    (record,) = records(tmp_path)
    said = {failure["machine"]: failure["error"] for failure in record["failures"]}
    assert line in said.values()
    assert all("\n" not in message for message in said.values())
    wanted = {
        "wrong-key": "permission denied",
        "unknown-host-key": "its host key is unknown",
        "changed-host-key": f"its host key is not the one in {tmp_path}/changed, line 1",
        "port-closed": "connection refused",
        "silent-port": "no answer within 2 s",
        "unknown-name": "the name is not known",
    }
    assert said.keys() == wanted.keys()
    assert all(words in said[name] for name, words in wanted.items()), said
    assert [found["machine"] for found in record["measurements"]] == ["board"]


def test_link_killed_in_the_middle(board: Loopback, here: Host, model: Path, tmp_path: Path) -> None:
    line = broken_off(tmp_path, model, here, lambda: board.signal_sessions(signal.SIGKILL))
    assert "the connection was lost during " in line
    assert "the board closed it" in line


def test_link_frozen(board: Loopback, here: Host, model: Path, tmp_path: Path) -> None:
    """The guard on the board is tested with the transport, where its patience is short; here the board comes back."""
    impatient = replace(here, options=("-o", "ServerAliveInterval=1", *here.options))
    try:
        line = broken_off(tmp_path, model, impatient, lambda: board.signal_sessions(signal.SIGSTOP))
    finally:
        board.signal_sessions(signal.SIGCONT)
    assert "the board stopped answering" in line


def test_remote_process_killed(here: Host, model: Path, tmp_path: Path) -> None:
    def kill() -> None:
        deadline = time.monotonic() + 20
        while not runners(here) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in runners(here):
            os.kill(pid, signal.SIGKILL)

    assert "was killed by SIGKILL" in broken_off(tmp_path, model, here, kill)


@as_root
def test_out_of_memory(here: Host, model: Path, tmp_path: Path) -> None:
    """The runner in a group of its own with so little memory that the kernel kills it."""
    group = MEMORY_GROUPS / f"edgeks-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("16M")
    except OSError as error:
        pytest.skip(f"no group with a limit of memory can be made here: {error}")
    python = tmp_path / "little_memory"
    python.write_text(
        f'#!/bin/sh\ncase $1 in *runner.py) echo $$ >{group}/cgroup.procs ;; esac\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    try:
        line = refusal(tmp_path, model, replace(here, python=str(python)))
        assert "net.onnx: out of memory: the system killed the process" in line
    finally:
        for _ in range(100):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


@as_root
@pytest.mark.parametrize(("option", "said"), [("size=12k", "No space left on device"), ("ro", "Read-only file system")])
def test_no_room_for_the_runner(here: Host, model: Path, tmp_path: Path, option: str, said: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with Connection(here) as connection:
        connection.run(f"mount -t tmpfs -o {option} none '{small}'")
        line = refusal(tmp_path, model, replace(here, folder=f"{small}/edgeks"))
        connection.run(f"umount '{small}'")
    assert said in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_others_own(here: Host, model: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    assert "Permission denied" in refusal(tmp_path, model, replace(here, folder=f"{tmp_path}/closed/edgeks"))


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with the tools of the system but its Pythons."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in (*Path("/bin").iterdir(), *Path("/usr/bin").iterdir()):
        if not tool.name.startswith(("python", "pypy")) and not (folder / tool.name).exists():
            (folder / tool.name).symlink_to(tool)
    return folder


def test_boards_without_what_it_takes(tools: Path, here: Host, model: Path, tmp_path: Path) -> None:
    """No Python; one that is too old; one whose ABI has no runtime."""
    with loopback(tmp_path / "bare", environment={"PATH": str(tools)}) as bare:
        lacking = replace(bare.host, folder=here.folder)
        assert "there is no python3" in refusal(tmp_path, model, lacking)
        pretend(tools / "python3", version=[3, 7, 3])
        assert "is Python 3.7.3; the runner needs 3.9 or later" in refusal(tmp_path, model, lacking)
        pretend(tools / "python3", machine="riscv64", platform="linux-riscv64")
        assert "onnxruntime cannot be set up" in refusal(tmp_path, model, lacking)
    assert not [record["measurements"] for record in records(tmp_path) if record["measurements"]]


def pretend(python: Path, **facts: object) -> None:
    """An interpreter that says other things of itself."""
    from edgeks.board.probe import PYTHON_FACTS

    done = subprocess.run([sys.executable, "-c", PYTHON_FACTS.read_text()], capture_output=True, text=True, check=True)
    told = {**json.loads(done.stdout), "packages": {}, **facts}
    python.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    python.chmod(0o755)


def test_a_runtime_that_the_interpreter_lacks(here: Host, model: Path, tmp_path: Path) -> None:
    system = next((path for path in ("/usr/bin/python3", "/bin/python3") if Path(path).exists()), None)
    if (
        system is None
        or not subprocess.run([system, "-c", "import onnxruntime"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Python of the system's, or one that has ONNX Runtime")
    line = refusal(tmp_path, model, replace(here, python=system))
    assert f"python = {system} cannot import onnxruntime: " in line


@pytest.mark.skipif(not OLD_RUNTIME.exists(), reason="no .venv-tflite-runtime: `make .venv-tflite-runtime` builds it")
def test_an_operator_that_the_boards_runtime_lacks(here: Host, tmp_path: Path) -> None:
    graph = TfliteGraph()
    x = graph.tensor([1, 4])
    made = graph.op("STABLEHLO_ADD", [x, graph.constant(np.ones((1, 4), np.float32))], graph.tensor([1, 4]))
    model = graph.write(tmp_path / "new.tflite", [x], [made])
    old = replace(here, python=str(OLD_RUNTIME))
    line = refusal(tmp_path, model, old, also=("--runtime", "tflite-runtime"))
    assert "new.tflite: tflite-runtime cannot load it: Op builtin_code out of range" in line


def test_ctrl_c_where_boards_hang(here: Host, model: Path, tmp_path: Path) -> None:
    """One is silent while it is reached, one in the runner: the link is cut, and what was put there is removed."""
    hanging = tmp_path / "hanging"
    hanging.write_text(f'#!/bin/sh\ncase $1 in *runner.py) exec sleep 300 ;; esac\nexec {sys.executable} "$@"\n')
    hanging.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mute = replace(here, name="mute", options=("-o", f"Port={port}", *here.options), folder=f"{here.folder} 2")
        hosts = hosts_file(tmp_path, replace(here, python=str(hanging)), mute)
        process = command(tmp_path, "bench", model, "--hosts", hosts, *SHORT)
        jobs = Path(str(here.folder)) / "jobs"
        deadline = time.monotonic() + 30
        while not list(jobs.glob("*/0/net.onnx")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=25)
    assert (process.returncode, err) == (130, "interrupted; what was finished stays\n")
    assert list(jobs.iterdir()) == []
    assert records(tmp_path) == []


NONSENSE = {
    '{"event": "samples", "ms": ["x"]}': "samples.ms[0] is 'x'; legal: a number",
    '{"event": "end", "ok": true}': "ended with code 0 before it was done",
}


@pytest.mark.parametrize("line", NONSENSE)
def test_a_board_that_talks_nonsense(here: Host, model: Path, tmp_path: Path, line: str) -> None:
    """What another board says is kept."""
    mad = tmp_path / "mad"
    real = f'echo "$c" | {sys.executable} "$@"'
    mad.write_text(
        "#!/bin/sh\ncase $1 in *runner.py) c=$(cat)\n"
        f"case $c in *outputs*) {real} ;; *) echo '{line}' ;; esac\nexit ;;\n"
        f'esac\nexec {sys.executable} "$@"\n'
    )
    mad.chmod(0o755)
    other = replace(here, name="other", options=(*here.options, "-o", "Compression=yes"), folder=f"{here.folder} 2")
    assert NONSENSE[line] in refusal(tmp_path, model, replace(here, python=str(mad)), other)
    (record,) = records(tmp_path)
    assert [found["machine"] for found in record["measurements"]] == ["other"]


@as_root
def test_a_full_disk_here_loses_nothing(here: Host, model: Path, tmp_path: Path) -> None:
    """What was measured is shown, and the one line says why it is not kept."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", small], check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        hosts = hosts_file(tmp_path, here)
        code, out, err = edgeks_says(tmp_path, "bench", model, "--hosts", hosts, *SHORT, "--records", small)
    finally:
        subprocess.run(["umount", small], check=True)
    assert "No space left on device" in one_line(code, err)
    assert "net.onnx on board: p50" in out
