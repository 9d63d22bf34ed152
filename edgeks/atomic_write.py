"""Whole files or none: every output is written to a temporary name beside it and renamed."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeks.errors import EdgeksError, OutputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; rename it to `path` on success, remove it on any failure.

    An interrupted run leaves the old file as it was. Errors of edgeks that name the temporary path name `path`.

    Raises:
        OutputError: the folder does not exist, or cannot be written.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file")
        if path.exists() and not path.is_file():  # renaming over /dev/null would replace the device
            raise OutputError(f"{path}: is a device or a pipe; name a file")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: the folder {path.parent} does not exist; create it or name another")
        _sweep(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    temporary = Path(name)
    try:
        yield temporary
        _match_umask(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except EdgeksError as error:
        told = str(error).replace(str(temporary), str(path)).replace(temporary.name, path.name)
        if told == str(error):
            raise
        raise type(error)(told) from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes have left of earlier attempts to write `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = leftover.name.removeprefix(f".{path.name}.").split(".")[0]
        if process.isdigit() and not Path("/proc", process).exists() and Path("/proc/self").exists():
            leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Text → file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _match_umask(path: Path) -> None:
    """mkstemp makes files of mode 0600; give the file the mode that a plain open would have."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
