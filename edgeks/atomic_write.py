"""Whole files or none: every output is written to a temporary name beside it and renamed."""

from __future__ import annotations

import glob
import os
import shutil
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
        _require_writable(path)
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


@contextmanager
def atomic_write_together(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary paths for files of one folder that belong together, under their own names in a folder of theirs.

    On success they are renamed in the order given, so that what names the others comes last. On a failure no new file
    is left.

    Raises:
        OutputError: as `atomic_write`.
    """
    first = paths[0]
    folder: Path | None = None
    renamed: list[Path] = []
    try:
        try:
            for path in paths:
                _require_writable(path)
            _sweep(first)
            folder = Path(tempfile.mkdtemp(prefix=f".{first.name}.{os.getpid()}.", suffix=".part", dir=first.parent))
        except OSError as error:
            raise OutputError(f"{first}: cannot be written ({error.strerror})") from error
        temporary = tuple(folder / path.name for path in paths)
        try:
            yield temporary
            for written in temporary:
                _match_umask(written)
                with written.open("rb") as file:
                    os.fsync(file.fileno())
            for written, path in zip(temporary, paths, strict=True):
                is_new = not path.exists()
                written.replace(path)
                if is_new:
                    renamed.append(path)
            renamed = []
        except EdgeksError as error:
            told = str(error).replace(str(folder), str(first.parent))
            if told == str(error):
                raise
            raise type(error)(told) from error
        except OSError as error:
            raise OutputError(f"{paths[-1]}: cannot be written ({error.strerror or error})") from error
    finally:
        for path in renamed:
            path.unlink(missing_ok=True)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _require_writable(path: Path) -> None:
    """Raise OutputError where `path` is no file, or cannot become one."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    if path.exists() and not path.is_file():  # renaming over /dev/null would replace the device
        raise OutputError(f"{path}: is a device or a pipe; name a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; create it or name another")


def _sweep(path: Path) -> None:
    """Remove what killed processes have left of earlier attempts to write `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        process = leftover.name.removeprefix(f".{path.name}.").split(".")[0]
        if process.isdigit() and not Path("/proc", process).exists() and Path("/proc/self").exists():
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
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
