"""Whole files or none."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeks.atomic_write import atomic_write, write_text
from edgeks.errors import ModelFileError, OutputError


def test_the_file_appears_when_the_block_ends_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "out.bin"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_any_failure_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("named", [str, lambda path: path.name])
def test_errors_name_the_file_that_was_asked_for(tmp_path, named):
    path = tmp_path / "out.tflite"
    with pytest.raises(ModelFileError) as caught, atomic_write(path) as temporary:
        raise ModelFileError(f"{named(temporary)}: is damaged")
    assert str(caught.value) == f"{named(path)}: is damaged"


def test_a_full_disk_is_an_output_error(tmp_path):
    with (
        pytest.raises(OutputError, match=r"out.bin: cannot be written \(No space left"),
        atomic_write(tmp_path / "out.bin"),
    ):
        Path("/dev/full").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_the_mode_of_a_plain_open(tmp_path):
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    old = os.umask(0o027)
    try:
        plain.write_text("")
        write_text(atomic, "")
    finally:
        os.umask(old)
    assert stat.S_IMODE(atomic.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode) == 0o640


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("old")
    for path, message in [
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "none" / "out", "the folder .*none does not exist; create it"),
        (tmp_path / "file" / "out", "the folder .*file does not exist"),
        (Path("/proc/out"), "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written .*File name too long"),
        (Path(os.devnull), "is a device or a pipe; name a file"),
    ]:
        with pytest.raises(OutputError, match=message), atomic_write(path):
            pytest.fail("must not get here")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path(os.devnull).is_char_device()


def test_killed_while_writing(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    code = (
        "import sys, time; from pathlib import Path; from edgeks.atomic_write import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        deadline = time.monotonic() + 30
        while not any(p.read_bytes() == b"half" for p in tmp_path.glob(".out.bin.*.part")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_bytes() == b"old"
