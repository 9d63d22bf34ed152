"""Examining, setting up and cleaning a board over a real sshd, with real wheels."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from loopback import Loopback, gone, loopback, why_none
from typer.testing import CliRunner

from edgeks.board.environment import ensure_environment
from edgeks.board.facts import BoardFacts, Unknown
from edgeks.board.folder import board_folder, clean, make_board_folder
from edgeks.board.host import Host
from edgeks.board.probe import probe, probe_here
from edgeks.board.ssh import Connection
from edgeks.board.wheelhouse import fetch_wheels
from edgeks.board.wheels import DISTRIBUTIONS, Installable, installable
from edgeks.cli.doctor import doctor
from edgeks.errors import BoardError

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(scope="module")
def wheels(board: Loopback, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The smallest runtime that the board can have, and a wheelhouse with it and its NumPy."""
    with Connection(board.host) as connection:
        facts = probe(connection)
    for runtime in ("tflite-runtime", "litert"):
        what = installable(facts, runtime)
        if isinstance(what, Installable):
            folder = tmp_path_factory.mktemp("wheels")
            try:
                fetch_wheels(what.pins, what.python, what.libc, folder)
            except BoardError as error:
                pytest.skip(str(error))
            return runtime, folder
    pytest.skip("the board has no Python with wheels")


@pytest.fixture
def here(board: Loopback, tmp_path: Path) -> Host:
    """The board with a folder for this test alone."""
    return replace(board.host, folder=str(tmp_path / "on the board"))


def hosts_file(tmp_path: Path, *hosts: Host) -> str:
    path = tmp_path / "hosts.toml"
    tables = [
        f"[{host.name}]\ndestination = {json.dumps(host.destination)}\noptions = {json.dumps(list(host.options))}\n"
        + (f"folder = {json.dumps(host.folder)}\n" if host.folder else "")
        + (f"python = {json.dumps(host.python)}\n" if host.python else "")
        for host in hosts
    ]
    path.write_text("\n".join(tables))
    return str(path)


def files(home: Path) -> list[Path]:
    return sorted(path for path in home.rglob("*") if path.is_file())


def test_the_facts_are_those_of_the_machine(board: Loopback) -> None:
    before = files(board.home)
    with Connection(board.host) as connection:
        facts = probe(connection)
        assert board_folder(connection) == facts.folder == f"{board.home}/.cache/edgeks/board"
    local = probe_here()
    same = ("os", "kernel", "machine", "userland", "libc", "cpu", "cores", "features", "ram_bytes", "throttle")
    assert [getattr(facts, name) for name in same] == [getattr(local, name) for name in same]
    assert files(board.home) == before  # nothing is written there


def test_two_set_ups_at_a_time_from_a_wheelhouse(board: Loopback, wheels: tuple[str, Path]) -> None:
    """Both give one environment that can run the runtime; nothing is left beside it; it is removed without a trace."""
    runtime, wheelhouse = wheels
    before = files(board.home)

    def set_up(_turn: int) -> str:
        with Connection(board.host) as connection:
            return ensure_environment(connection, probe(connection), runtime, wheelhouse)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(set_up, range(2))
    assert first == second
    folder = board.home / ".cache" / "edgeks" / "board"
    assert sorted(path.name for path in folder.iterdir()) == [".edgeks", Path(first).parents[1].name]
    program = f"import numpy, {DISTRIBUTIONS[runtime][1]}, sys; print(sys.prefix)"
    done = subprocess.run([first, "-c", program], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == Path(first).parents[1]
    with Connection(board.host) as connection:
        facts = probe(connection)
        ours = [python for python in facts.pythons if python.is_ours]
        assert [python.path for python in ours] == [first]
        assert ours[0].packages[DISTRIBUTIONS[runtime][0]]
        said: list[str] = []
        assert ensure_environment(connection, facts, runtime, None, said.append) == first  # it is there: no network
        assert said == []
        (Path(first).parents[1] / "edgeks.json").unlink()  # half-made: it is made anew
        assert ensure_environment(connection, facts, runtime, wheelhouse, said.append) == first
        assert said
        (removed,) = clean(connection)
        assert removed.startswith(f"{Path(first).parents[1].name}, ")
        assert clean(connection) == ()
    assert files(board.home) == before
    assert not (board.home / ".cache" / "edgeks").exists()


def test_a_set_up_that_is_interrupted_leaves_nothing(here: Host, wheels: tuple[str, Path]) -> None:
    runtime, wheelhouse = wheels

    def interrupt(line: str) -> None:
        if line.startswith("Unpacking"):
            raise KeyboardInterrupt

    with Connection(here) as connection:
        facts = probe(connection)
        with pytest.raises(KeyboardInterrupt):
            ensure_environment(connection, facts, runtime, wheelhouse, interrupt)
        assert here.folder is not None
        assert [path.name for path in Path(here.folder).iterdir()] == [".edgeks"]


def test_ctrl_c_ends_what_runs_on_the_board(here: Host, wheels: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "toml").mkdir()
    words = [
        "--hosts",
        hosts_file(tmp_path / "toml", here),
        "--setup",
        "--runtime",
        wheels[0],
        "--wheels",
        str(wheels[1]),
    ]
    command = subprocess.Popen([sys.executable, "-m", "edgeks", "doctor", *words], cwd=Path(__file__).parents[1])
    assert here.folder is not None
    site = "part-*/venv/lib/python3*/site-packages/numpy"
    deadline = time.monotonic() + 120
    while not list(Path(here.folder).glob(site)):  # it unpacks
        assert command.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    assert command.wait(60) == 130
    assert gone(here.folder, 20)
    assert [path.name for path in Path(here.folder).iterdir()] == [".edgeks"]


@pytest.mark.slow
def test_a_set_up_from_the_boards_package_index(here: Host, wheels: tuple[str, Path]) -> None:
    """With this machine's pip, so that the board needs none; the system's packages are not touched."""
    runtime, _ = wheels
    with Connection(here) as connection:
        facts = probe(connection)
        try:
            python = ensure_environment(connection, facts, runtime)
        except BoardError as error:
            if "no way to the package index" in str(error):
                pytest.skip(str(error))
            raise
        assert python.startswith(f"{here.folder}/venv-")
        assert probe(connection).pythons[:-1] == facts.pythons


def test_a_board_without_internet(wheels: tuple[str, Path], tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": "/dev/null"}
    with loopback(tmp_path / "sshd", environment=nowhere) as offline, Connection(offline.host) as connection:
        facts = probe(connection)
        assert isinstance(facts.index_reached, Unknown)
        assert "127.0.0.1" in facts.index_reached.reason
        with pytest.raises(BoardError, match=r"no way to the package index .* push them from here: --wheelhouse"):
            ensure_environment(connection, facts, wheels[0])
        assert [path.name for path in (offline.home / ".cache/edgeks/board").iterdir()] == [".edgeks"]


def test_the_python_that_the_user_names(board: Loopback, here: Host) -> None:
    mine = replace(here, python=sys.executable)
    with Connection(mine) as connection:
        facts = probe(connection)
        assert facts.pythons[0].path == sys.executable
        assert ensure_environment(connection, facts, "onnxruntime") == sys.executable
    assert not (board.home / ".cache/Microsoft").exists()  # where ONNX Runtime would keep an identity of the device
    bare = replace(here, python="/bin/false")
    with Connection(bare) as connection, pytest.raises(BoardError, match="python = /bin/false cannot import litert"):
        ensure_environment(connection, facts, "litert")


def test_a_python_of_the_board_with_this_machines_version_will_do(here: Host) -> None:
    facts = replace(probe_here(), folder=here.folder)
    with Connection(here) as connection:
        assert ensure_environment(connection, facts, "onnxruntime") == facts.pythons[0].path


@pytest.fixture(scope="module")
def without_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """A board whose PATH has the tools of a small system, and no Python."""
    if reason := why_none():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("bare")
    tools = folder / "bin"
    tools.mkdir()
    for tool in (
        "sh",
        "cat",
        "mkdir",
        "mv",
        "rm",
        "sleep",
        "head",
        "tail",
        "tr",
        "grep",
        "sort",
        "df",
        "date",
        "uname",
    ):
        found = next(path for path in (Path("/usr/bin") / tool, Path("/bin") / tool) if path.exists())
        (tools / tool).symlink_to(found)
    with loopback(folder / "sshd", environment={"PATH": str(tools)}) as started:
        yield started


def refuse(host: Host, facts: BoardFacts | None = None, runtime: str = "onnxruntime") -> str:
    with Connection(host) as connection, pytest.raises(BoardError) as caught:
        ensure_environment(connection, facts or probe(connection), runtime)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_board_without_python(without_python: Loopback) -> None:
    assert "there is no python3; on Debian: sudo apt install python3" in refuse(without_python.host)


def test_a_board_with_a_python_that_is_too_old(without_python: Loopback) -> None:
    old = {**python_facts(), "version": [3, 7, 3]}
    fake = without_python.folder.parent / "bin" / "python3"
    fake.write_text(f"#!/bin/sh\necho '{json.dumps(old)}'\n")
    fake.chmod(0o755)
    assert "is Python 3.7.3; the runner needs 3.9 or later" in refuse(without_python.host)
    fake.unlink()


def python_facts() -> dict[str, object]:
    from edgeks.board.probe import PYTHON_FACTS

    done = subprocess.run([sys.executable, "-c", PYTHON_FACTS.read_text()], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_folder_that_cannot_be_written_or_is_not_edgeks_own(here: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refuse(replace(here, folder=f"{tmp_path}/file/x"))
    assert "folder = … in the hosts file" in refuse(replace(here, folder="/proc/edgeks"))
    mine = replace(here, folder=str(tmp_path))
    assert "holds other things than edgeks'" in refuse(mine)
    with Connection(mine) as connection, pytest.raises(BoardError, match="has no mark of edgeks"):
        clean(connection)
    assert (tmp_path / "file").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home(here: Host, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    assert "Permission denied" in refuse(replace(here, folder=f"{closed}/edgeks"))


def test_a_python_that_cannot_make_environments(here: Host) -> None:
    with Connection(here) as connection:
        facts = probe(connection)
    broken = replace(facts, pythons=tuple(replace(python, path="/bin/false", packages={}) for python in facts.pythons))
    assert "/bin/false cannot make a virtual environment" in refuse(here, broken)


def test_the_command(board: Loopback, here: Host, tmp_path: Path) -> None:
    ready = replace(here, name="ready", python=sys.executable)
    closed = replace(here, name="closed", options=("-o", "Port=1", *here.options))
    result = CliRunner().invoke(app, ["--hosts", hosts_file(tmp_path, ready, closed), "--json"])
    assert result.exit_code == 2
    first, second = json.loads(result.stdout)["boards"]
    assert (first["host"], second["host"], second["status"]) == ("ready", "closed", "not reached")
    assert first["status"] in {"ready", "ready with warnings"}
    assert {check["name"] for check in first["checks"]} >= {"CPU", "throttling", "runtimes"}
    assert "refused" in second["error"] or "closed" in second["error"]
    assert second["facts"] is None


def test_the_command_sets_up_and_cleans(here: Host, wheels: tuple[str, Path], tmp_path: Path) -> None:
    runtime, wheelhouse = wheels
    (tmp_path / "toml").mkdir()
    hosts = hosts_file(tmp_path / "toml", here)
    done = CliRunner().invoke(app, ["--hosts", hosts, "--setup", "--runtime", runtime, "--wheels", str(wheelhouse)])
    assert done.exit_code in {0, 1}, done.output  # 1: a check failed that has nothing to do with it, such as heat
    assert f"{runtime}: {here.folder}/venv-" in done.output
    with Connection(here) as connection:
        assert make_board_folder(connection) == here.folder
    cleaned = CliRunner().invoke(app, ["--hosts", hosts, "--clean"])
    assert cleaned.exit_code == 0
    assert "removed venv-" in cleaned.output
    assert here.folder is not None
    assert not Path(here.folder).exists()
    assert "nothing of edgeks is there" in CliRunner().invoke(app, ["--hosts", hosts, "--clean"]).output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--setup"], "--setup works on a board"),
        (["--host", "x", "--wheelhouse"], "--wheelhouse is for --setup"),
        (["--host", "x", "--setup", "--clean"], "opposites"),
        (["--host", "x", "--setup", "--runtime", "tensorrt"], "--runtime tensorrt: legal: onnxruntime, litert"),
    ],
)
def test_options_that_contradict_each_other(words: list[str], complaint: str) -> None:
    assert complaint in str(CliRunner().invoke(app, words).exception)
