"""What a folder that does not fit its specification looks like: errors that say what was found, and what to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeks.errors import DataError
from edgeks.images import image_names
from edgeks.train.cifar import is_cifar
from edgeks.train.imagenet import is_imagenet
from edgeks.train.tiny_imagenet import tiny_imagenet_folder

SHOWN = 6
ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip")


def check_folder(spec: str, folder: Path) -> None:
    """`folder` can be listed.

    Raises:
        DataError: it is missing, a file, or not readable.
    """
    if folder.is_file():
        unpack = "unzip" if folder.suffix == ".zip" else "tar -xf"
        remedy = (
            f"unpack it ({unpack} {folder.name}) and name the folder" if folder.suffix in ARCHIVES else "name a folder"
        )
        raise DataError(f"{spec}: {folder} is a file; {remedy}")
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError as error:
        raise DataError(f"{spec}: {folder}: no such folder") from error
    except OSError as error:
        raise DataError(f"{spec}: {folder} cannot be read ({error.strerror})") from error


def misfit(folder: Path, what: str, legal: str) -> DataError:
    """The error for a folder that does not have the layout of `what`: what it holds, and what is legal."""
    return DataError(f"{folder}: is no {what}, it {_holds(folder)}; legal: {legal}")


@contextmanager
def other_layouts_named(kind: str, folder: Path) -> Iterator[None]:
    """An error in reading `folder` as `kind` also says what else the folder looks like.

    Raises:
        DataError: that error.
    """
    try:
        yield
    except DataError as error:
        look = recognise(folder)
        if look is None or look == f"{kind}:{folder}":
            raise
        raise DataError(f"{error}; this looks like {look}") from error


def recognise(folder: Path) -> str | None:
    """The specification that would take `folder`, or one of its sub-folders; None where none would."""
    for kind, fits in _KINDS:
        if fits(folder):
            return f"{kind}:{folder}"
    for name in _names(folder):
        if (folder / name).is_dir():
            for kind, fits in _KINDS[:-1]:  # a folder of images is found in nearly any folder
                if fits(folder / name):
                    return f"{kind}:{folder / name}"
    return None


def _is_class_folder(folder: Path) -> bool:
    """Images in sub-folders, or in those of train."""
    where = folder / "train" if (folder / "train").is_dir() else folder
    return any((where / name).is_dir() and _has_images(where / name) for name in _names(where)[:SHOWN])


def _has_images(folder: Path) -> bool:
    try:
        return bool(image_names(folder))
    except DataError:
        return False


def _holds(folder: Path) -> str:
    names = _names(folder)
    if not names:
        return "is empty"
    return f"holds {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


_KINDS: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("cifar10", lambda folder: is_cifar(folder, 10)),
    ("cifar100", lambda folder: is_cifar(folder, 100)),
    ("tiny_imagenet", lambda folder: tiny_imagenet_folder(folder) is not None),
    ("imagenet", is_imagenet),
    ("folder", _is_class_folder),
)
