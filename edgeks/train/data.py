"""Data set specifications (`digits`, `cifar10:DIR`, `cifar100:DIR`, `folder:DIR`) → Dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeks.errors import DataError
from edgeks.images import list_images, read_images, resize
from edgeks.preprocessing import MAX_SIZE
from edgeks.train.cifar import read_cifar
from edgeks.train.dataset import (
    SPLIT_SEED,
    TEST_SHARE,
    Dataset,
    Images,
    Labels,
    measured_preprocessing,
    stratified_split,
)

LEGAL = "digits, cifar10:DIR, cifar100:DIR, folder:DIR"


def load_dataset(spec: str, size: int | None = None) -> Dataset:
    """Specification → Dataset; with `size`, every image resized to size × size (bilinear).

    - `digits`: scikit-learn's 1,797 bundled 8×8 grey digits, 80 % of every class for training.
    - `cifar10:DIR`, `cifar100:DIR`: the official files, python or binary layout, in DIR or in its official sub-folder.
    - `folder:DIR`: RGB images in DIR/train/CLASS and DIR/test/CLASS (or DIR/val/CLASS), or only in DIR/CLASS: then 80 %
      of every class are for training. Needs `size`.

    Splits made here are seeded: the same data always gives the same split. Mean and standard deviation are those of
    the training images.

    Raises:
        DataError: unknown specification, or data that is missing, damaged or does not fit together.
    """
    if size is not None and not 1 <= size <= MAX_SIZE:
        raise DataError(f"data set {spec!r}: size is {size}; legal: 1 to {MAX_SIZE} pixels")
    kind, _, folder = spec.partition(":")
    if spec == "digits":
        return _digits(size)
    if kind in ("cifar10", "cifar100") and folder:
        return _cifar(Path(folder).expanduser(), int(kind.removeprefix("cifar")), size)
    if kind == "folder" and folder:
        return _folder(Path(folder).expanduser(), size)
    raise DataError(f"unknown data set {spec!r}; legal: {LEGAL}")


def _digits(size: int | None) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # 0…16 → bytes
    return _split("digits", _at_size(images, size), bunch.target.astype(np.int64), tuple("0123456789"))


def _cifar(folder: Path, classes: int, size: int | None) -> Dataset:
    cifar = read_cifar(folder, classes)
    train_images, test_images = _at_size(cifar.train_images, size), _at_size(cifar.test_images, size)
    preprocessing = measured_preprocessing(train_images, cifar.classes)
    return Dataset(f"cifar{classes}", train_images, cifar.train_labels, test_images, cifar.test_labels, preprocessing)


def _folder(folder: Path, size: int | None) -> Dataset:
    if size is None:
        raise DataError(
            f"folder:{folder}: an image folder needs a size to resize to: --size 64, or size = 64 below [data]"
        )
    name = f"folder {folder.name}"
    train = folder / "train"
    if not train.is_dir():
        classes = _class_names(folder)
        images, labels = _read_split(folder, classes, size)
        return _split(name, images, labels, classes)
    test = next((folder / split for split in ("test", "val") if (folder / split).is_dir()), None)
    if test is None:
        raise DataError(f"{folder}: has train/ but neither test/ nor val/; add one, or put the classes into {folder}")
    classes = _class_names(train)
    unknown = [label for label in _class_names(test) if label not in classes]
    if unknown:
        raise DataError(f"{test}: class {unknown[0]!r} is not in {train}; legal: {', '.join(classes)}")
    train_images, train_labels = _read_split(train, classes, size)
    test_images, test_labels = _read_split(test, classes, size)
    preprocessing = measured_preprocessing(train_images, classes)
    return Dataset(name, train_images, train_labels, test_images, test_labels, preprocessing)


def _class_names(folder: Path) -> tuple[str, ...]:
    """The visible sub-folders, sorted: a class's label is its place in this order."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as an image folder ({error.strerror})") from error
    if not names:
        raise DataError(f"{folder}: holds no class folders; legal: a sub-folder for each class")
    return tuple(names)


def _read_split(folder: Path, classes: tuple[str, ...], size: int) -> tuple[Images, Labels]:
    files = [
        (path, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in list_images(folder / name)
    ]
    images = read_images([path for path, _ in files], 3, size, size)
    return images, np.array([label for _, label in files], np.int64)


def _split(name: str, images: Images, labels: Labels, classes: tuple[str, ...]) -> Dataset:
    train, test = stratified_split(labels, TEST_SHARE, SPLIT_SEED)
    preprocessing = measured_preprocessing(images[train], classes)
    return Dataset(name, images[train], labels[train], images[test], labels[test], preprocessing)


def _at_size(images: Images, size: int | None) -> Images:
    return images if size is None else resize(images, size, size)
