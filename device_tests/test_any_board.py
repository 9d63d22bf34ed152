"""What holds on any board: the loopback one, or the one that `--host` names."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeks.board.host import Host
from edgeks.board.ssh import Connection, quote, remote_path
from edgeks.errors import BoardError, InputError, OutputError


@pytest.fixture(scope="module")
def connection(board_host: Host) -> Iterator[Connection]:
    with Connection(board_host) as opened:
        yield opened


@pytest.fixture
def folder(connection: Connection) -> Iterator[str]:
    made = connection.run("mktemp -d /tmp/edgeks-test.XXXXXX").stdout.strip()
    yield made
    connection.run(f"rm -rf {quote(made)}")


def test_a_command_s_code_and_output(connection: Connection) -> None:
    completed = connection.run("echo out; echo err >&2; exit 3", check=False)
    assert (completed.code, completed.stdout, completed.stderr) == (3, "out\n", "err\n")
    assert connection.run("printf 'no line end'").stdout == "no line end"
    assert connection.run("true") == connection.run(":")
    assert connection.run("exit 255", check=False).code == 255  # ssh's own code for a lost link


def test_a_code_other_than_0_is_an_error_in_one_line(connection: Connection) -> None:
    with pytest.raises(BoardError, match=r"`ls /nowhere.*`: exit code \d+: .*/nowhere"):
        connection.run("ls /nowhere-at-all")


@pytest.mark.parametrize(
    "text",
    ["$HOME `id` \"x\" 'y' \\n \\\\ %s !! #", "two\nlines\n\nand a tab\t", "größe → 1", "--", "-n", "", "*", "~"],
    ids=["quotes", "lines", "unicode", "dashes", "option", "empty", "glob", "tilde"],
)
def test_text_arrives_as_it_is(connection: Connection, text: str) -> None:
    assert connection.run(f"printf %s {quote(text)}").stdout == text


def test_bytes_arrive_on_stdin(connection: Connection) -> None:
    every = bytes(range(256)) * 3
    assert connection.run("cksum", stdin=every).stdout.split()[1] == str(len(every))
    assert connection.run("od -An -v -tx1 | tr -d ' \\n'", stdin=every).stdout == every.hex()
    assert connection.run("wc -c", stdin=b"x" * 65536).stdout.strip() == "65536"
    assert connection.run("true", stdin=b"x" * 65536).code == 0  # nobody reads it
    assert connection.run("cat").stdout == ""
    with pytest.raises(ValueError, match="at most 65536"):
        connection.run("cat", stdin=b"x" * 65537)


def test_lines_come_while_the_command_runs(connection: Connection, folder: str) -> None:
    lines: list[str] = []

    def answer(line: str) -> None:
        lines.append(line)
        if line == "ready":
            connection.run(f"touch {folder}/go")

    command = f"echo ready; until [ -e {folder}/go ]; do sleep 1; done; echo; printf went"
    assert connection.run(command, on_line=answer).code == 0
    assert lines == ["ready", "", "went"]


def test_a_command_that_does_not_end_is_stopped(connection: Connection, folder: str) -> None:
    command = f"trap 'touch {folder}/asked' TERM; sleep 100 & while :; do wait; done"
    with pytest.raises(BoardError, match=r"did not end within 1 s; it was stopped"):
        connection.run(command, timeout=1)
    assert connection.run(f"ls {folder}").stdout == "asked\n"
    assert connection.run("echo still there").stdout == "still there\n"


def test_a_command_that_is_killed(connection: Connection) -> None:
    with pytest.raises(BoardError, match="killed by SIGKILL, most often because the board ran out of memory"):
        connection.run("kill -9 $$")
    with pytest.raises(BoardError, match="killed by SIGTERM"):
        connection.run("kill $$")
    assert connection.run("kill -9 $$", check=False).code == 137


@pytest.mark.parametrize("size", [0, 1, 65537, 3_000_000])
def test_a_file_there_and_back(connection: Connection, folder: str, tmp_path: Path, size: int) -> None:
    data, sent = os.urandom(size), []
    (tmp_path / "source").write_bytes(data)
    connection.put(tmp_path / "source", f"{folder}/a b/it's", on_bytes=sent.append)
    connection.get(f"{folder}/a b/it's", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert sent[-1:] == [size][: len(sent)]
    assert connection.run(f"ls -A {quote(folder + '/a b')}").stdout == "it's\n"


def test_paths_begin_at_the_home_folder(connection: Connection) -> None:
    home = connection.run('printf %s "$HOME"').stdout
    for path in ("edgeks test/f", "~/edgeks test/f", f"{home}/edgeks test/f"):
        connection.put(b"#!/bin/sh\necho ran\n", path, executable=True)
        assert connection.run(remote_path(path)).stdout == "ran\n"
    connection.run("rm -r ~/'edgeks test'")


def test_a_file_replaces_another_and_no_folder(connection: Connection, folder: str) -> None:
    connection.put(b"old", f"{folder}/f")
    connection.put(b"new", f"{folder}/f")
    assert connection.run(f"cat {folder}/f").stdout == "new"
    with pytest.raises(BoardError, match="cannot be written: is a folder"):
        connection.put(b"x", folder)
    with pytest.raises(BoardError, match=r"cannot be written: .*(File exists|Not a directory)"):
        connection.put(b"x", f"{folder}/f/below")
    assert connection.run(f"ls -A {folder}").stdout == "f\n"


def test_files_that_cannot_be_had(connection: Connection, folder: str, tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"none: cannot be read: no such file"):
        connection.get(f"{folder}/none", tmp_path / "f")
    with pytest.raises(BoardError, match=r"cannot be read: no such file"):
        connection.get(folder, tmp_path / "f")
    with pytest.raises(InputError, match="no such file"):
        connection.put(tmp_path / "none", f"{folder}/f")
    connection.put(b"x", f"{folder}/there")
    with pytest.raises(OutputError, match="does not exist"):
        connection.get(f"{folder}/there", tmp_path / "no folder" / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_grows(connection: Connection, folder: str, tmp_path: Path) -> None:
    grow = f"head -c 1000000 /dev/zero >{folder}/f; echo go; while :; do head -c 100000 /dev/zero >>{folder}/f; done"

    def fetch(line: str) -> None:
        connection.get(f"{folder}/f", tmp_path / "f")
        raise InterruptedError(line)

    with pytest.raises(InterruptedError):
        connection.run(grow, on_line=fetch)
    assert (tmp_path / "f").stat().st_size >= 1_000_000
