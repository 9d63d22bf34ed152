"""The emulated board's files, made once and kept in the user's cache: kernel, initrd, and two disks."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeks.atomic_write import atomic_write
from edgeks.emulator import debian, initrd, system, wheels
from edgeks.emulator.needs import require_needs
from edgeks.errors import BoardError

FREE_MB = 1024  # on the board's own disk: what is set up there lies in a throw-away layer above the image
OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Image:
    """Paths of what QEMU starts. `root` is the board's disk, `runtimes` the one with the runtimes for jobs."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel, uncompressed."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The first file system, without keys."""
        return self.folder / "initrd.gz"

    @property
    def root(self) -> Path:
        """ext4."""
        return self.folder / "root.ext4"

    @property
    def runtimes(self) -> Path:
        """ext4 with one folder of Python packages per `wheels.folder_of`."""
        return self.folder / "runtimes.ext4"


def cache_folder() -> Path:
    """Where all of it is: the user's cache, as XDG has it."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root.startswith("/") else Path.home() / ".cache") / "edgeks" / "emulator"


def key() -> str:
    """Names what the board is made of: packages, versions of the runtimes, and the code that puts them together."""
    own = [Path(module.__file__ or "").read_bytes() for module in (debian, initrd, system, wheels)]
    made_of = json.dumps([debian.PACKAGES, wheels.requirements()], sort_keys=True).encode()
    return hashlib.sha256(b"\0".join([made_of, *own])).hexdigest()[:16]


def build(on_line: OnLine | None = None, cache: Path | None = None) -> Image:
    """The board's files, from the cache or made now, in about a minute; `on_line` gets what is begun and done.

    No arm64 program runs. A build that is killed leaves only steps that are whole, and the next one goes on from there.

    Raises:
        BoardError: a program that it needs is missing, or a step failed (no network, disk full).
    """
    require_needs()
    folder = (cache or cache_folder()) / key()
    image, archive = Image(folder), folder / "debian.tar"
    steps: tuple[tuple[str, tuple[Path, ...], Callable[[Image, Path], None]], ...] = (
        ("Debian's packages", (archive,), _fetch_debian),
        ("kernel and initrd", (image.kernel, image.initrd), _write_kernel),
        ("the board's disk", (image.root,), _write_root),
        ("the runtimes' disk", (image.runtimes,), _write_runtimes),
    )
    if _lacks(image.kernel, image.initrd, image.root, image.runtimes):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder), _workspace(folder) as work:
                for name, paths, make in steps:
                    needed = _lacks(image.kernel, image.initrd, image.root) if paths == (archive,) else True
                    if not needed or not _lacks(*paths):
                        continue
                    if on_line:
                        on_line(f"emulated board: making {name}")
                    start = time.monotonic()
                    make(image, work)
                    size = sum(path.stat().st_blocks * 512 for path in paths) / 1e6
                    if on_line:
                        on_line(f"emulated board: {name}: {size:.0f} MB, {time.monotonic() - start:.0f} s")
                archive.unlink(missing_ok=True)
        except OSError as error:
            raise BoardError(f"{folder}: the emulated board cannot be built ({error.strerror or error})") from error
    return image


def _lacks(*paths: Path) -> bool:
    return not all(path.is_file() for path in paths)


def _fetch_debian(image: Image, work: Path) -> None:
    with atomic_write(image.folder / "debian.tar") as archive:
        debian.fetch_debian(archive, work)


def _write_kernel(image: Image, work: Path) -> None:
    kernel, busybox, modules = debian.kernel(image.folder / "debian.tar")
    with atomic_write(image.initrd) as path:
        path.write_bytes(gzip.compress(initrd.initrd(busybox, modules), 6, mtime=0))
    with atomic_write(image.kernel) as path:
        path.write_bytes(kernel)


def _write_root(image: Image, work: Path) -> None:
    root = work / "root"
    debian.unpack(image.folder / "debian.tar", root)
    system.write_system(root)
    system.compile_python(root / f"usr/lib/python{debian.PYTHON}", f"/usr/lib/python{debian.PYTHON}", debian.PYTHON)
    with atomic_write(image.root) as path:
        system.disk(root, path, FREE_MB)


def _write_runtimes(image: Image, work: Path) -> None:
    root = work / "runtimes"
    for name, wanted in wheels.requirements().items():
        wheels.fetch_wheels(wanted, root / name)
    system.compile_python(root, "/opt", debian.PYTHON)
    with atomic_write(image.runtimes) as path:
        system.disk(root, path, 64)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process: a second build waits, then finds what the first has made."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder for what is in between; those that killed builds have left are removed."""
    for leftover in folder.glob("work.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="work.", dir=folder, ignore_cleanup_errors=True) as work:
        Path(work).chmod(0o755)
        yield Path(work)
