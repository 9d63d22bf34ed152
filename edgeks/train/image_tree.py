"""ImageTree: the image files of a data set and their labels, as a folder on disk says; nothing is decoded yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeks.errors import DataError
from edgeks.images import folder_names, image_names
from edgeks.train.dataset import Labels
from edgeks.train.image_files import file_names

Told = Callable[[str, int, int], None]  # what is done, how much of it, of how much
SHOWN_CLASSES = 8
MAX_TEXT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """Paths relative to the tree's folder (as `file_names` makes them), and int64 labels, as many."""

    names: NDArray[np.bytes_]
    labels: Labels


@dataclass(frozen=True, slots=True)
class ImageTree:
    """`test` is None where the folder has no split of its own. A label is a place in `classes`."""

    folder: Path
    train: LabelledFiles
    test: LabelledFiles | None
    classes: tuple[str, ...]


def read_image_folder(folder: Path, told: Told) -> ImageTree:
    """DIR/train/CLASS/* with DIR/test/CLASS/* (or val), or DIR/CLASS/* alone; classes are sorted by name.

    Raises:
        DataError: it is no such folder.
    """
    train = folder / "train"
    if not train.is_dir():
        classes = class_names(folder)
        return ImageTree(folder, class_files(folder, "", classes, told), None, classes)
    test = next((split for split in ("test", "val") if (folder / split).is_dir()), None)
    if test is None:
        raise DataError(f"{folder}: has train/ but neither test/ nor val/; add one, or put the classes into {folder}")
    classes = class_names(train)
    check_known(folder / test, class_names(folder / test), train, classes)
    return ImageTree(
        folder, class_files(folder, "train", classes, told), class_files(folder, test, classes, told), classes
    )


def class_names(folder: Path) -> tuple[str, ...]:
    """The visible sub-folders, sorted: a class's label is its place in this order.

    Raises:
        DataError: the folder cannot be read, or has none.
    """
    names = folder_names(folder)
    if not names:
        raise DataError(f"{folder}: holds no class folders; legal: a sub-folder for each class")
    return tuple(names)


def check_known(folder: Path, found: Sequence[str], train: Path, classes: Sequence[str]) -> None:
    """Every class of the test split is one of the training split.

    Raises:
        DataError: one is not.
    """
    unknown = sorted({*found} - {*classes})
    if unknown:
        shown = ", ".join(classes[:SHOWN_CLASSES]) + (" …" if len(classes) > SHOWN_CLASSES else "")
        raise DataError(f"{folder}: class {unknown[0]!r} is not in {train}; legal: {shown}")


def class_files(folder: Path, split: str, classes: Sequence[str], told: Told) -> LabelledFiles:
    """The images in `folder`/`split`/CLASS and the immediate sub-folders of each; a class may be missing.

    Raises:
        DataError: a folder cannot be read or is empty.
    """
    prefix = f"{split}/" if split else ""
    names = []
    for label, name in enumerate(classes):
        told(f"listing {prefix or folder.name}", label, len(classes))
        here = folder / f"{prefix}{name}"
        found = image_names(here) if here.is_dir() else []
        names.append(file_names([f"{prefix}{name}/{image}" for image in found]))
    return LabelledFiles(np.concatenate(names), np.repeat(np.arange(len(classes)), [len(files) for files in names]))


def read_text(path: Path) -> str:
    """A file of names or labels.

    Raises:
        DataError: it cannot be read, or is larger than any such file.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; no list of labels is larger than {MAX_TEXT_BYTES}")
        return path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
