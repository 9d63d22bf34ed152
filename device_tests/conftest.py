"""Boards to test against: the loopback board, and the one that `--host` names."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Loopback, loopback, why_none

from edgeks.board.host import Host
from edgeks.board.hosts_file import parse_host


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest device_tests --host pi@raspberrypi.local`: the tests of any board run on that one."""
    parser.addoption("--host", default=None, help="a board for the tests that any board must pass: user@host")


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """The loopback board, one for all tests of this process."""
    if reason := why_none():
        pytest.skip(reason)
    with loopback(tmp_path_factory.mktemp("board") / "sshd") as started:
        yield started


@pytest.fixture
def temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this process's temporary files, of a short path, to see that none is left."""
    with tempfile.TemporaryDirectory(prefix="dt") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def board_host(request: pytest.FixtureRequest) -> Host:
    """The board of `--host`, else the loopback board."""
    destination = request.config.getoption("--host")
    if destination is not None:
        return parse_host(destination)
    started: Loopback = request.getfixturevalue("board")
    return started.host
