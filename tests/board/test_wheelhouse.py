"""Wheels for a board from a folder, without the network where they are there."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgeks.board.facts import BoardPython, Libc
from edgeks.board.wheelhouse import fetch_wheels, pip_archive
from edgeks.errors import BoardError

BOARD = BoardPython("/usr/bin/python3", (3, 11, 2), "aarch64", {}, True, False, False, False)
LIBC = Libc("glibc", (2, 36))
PINS = [("edgeks-no-such", "1.0")]


def make_wheel(folder: Path, tags: str) -> Path:
    """A wheel of a distribution that no index has."""
    made = folder / f"edgeks_no_such-1.0-{tags}.whl"
    files = {
        "edgeks_no_such-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: edgeks-no-such\nVersion: 1.0\n",
        "edgeks_no_such-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n"
        + "".join(f"Tag: {tags.rpartition('-')[0]}-{one}\n" for one in tags.rpartition("-")[2].split(".")),
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in {**files, "edgeks_no_such-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return made


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index, and none of the user's."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)


def test_a_wheel_that_is_there_is_taken_and_the_others_are_not(tmp_path: Path) -> None:
    made = make_wheel(tmp_path, "cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64")
    make_wheel(tmp_path, "cp311-cp311-manylinux_2_28_x86_64")
    make_wheel(tmp_path, "cp312-cp312-manylinux_2_28_aarch64")
    before = made.read_bytes()
    assert fetch_wheels(PINS, BOARD, LIBC, tmp_path) == (made,)
    assert made.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_wheel_for_a_newer_c_library_is_none(tmp_path: Path) -> None:
    make_wheel(tmp_path, "cp311-cp311-manylinux_2_38_aarch64")
    with pytest.raises(BoardError):
        fetch_wheels(PINS, BOARD, LIBC, tmp_path)


def test_no_network_here_either_says_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(BoardError) as caught:
        fetch_wheels(PINS, BOARD, LIBC, tmp_path / "new")
    assert "this machine has no way to its package index" in str(caught.value)
    assert f"put them into {tmp_path / 'new'}" in str(caught.value)
    assert "edgeks-no-such 1.0 for Python 3.11.2 on aarch64" in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_wheelhouse_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BoardError, match="name a folder: --wheels DIR"):
        fetch_wheels(PINS, BOARD, LIBC, tmp_path / "file")


def test_this_machines_pip_runs_from_one_file_in_an_environment_that_has_none(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    archive = pip_archive(tmp_path)
    make_wheel(tmp_path, "cp311-none-any" if sys.version_info[:2] == (3, 11) else "py3-none-any")
    python = tmp_path / "venv" / "bin" / "python"
    command = [str(python), f"{archive}/pip", "install", "--no-index", "--find-links", str(tmp_path), "edgeks-no-such"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Successfully installed edgeks-no-such-1.0" in done.stdout, done.stderr
