"""Data set specifications (`digits`, `cifar10:DIR`, `imagenet:DIR` …) → Dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeks.errors import DataError
from edgeks.images import ImageForm, resize
from edgeks.train import imagenet, tiny_imagenet
from edgeks.train.cifar import is_cifar, layout_text, read_cifar
from edgeks.train.dataset import (
    MAX_SIDE,
    MIN_SIDE,
    SPLIT_SEED,
    TEST_SHARE,
    Dataset,
    ImageStore,
    Labels,
    measured_preprocessing,
    stratified_split,
)
from edgeks.train.image_files import ImageFiles, Images
from edgeks.train.image_tree import ImageTree, LabelledFiles, Told, read_image_folder
from edgeks.train.layouts import check_folder, misfit, other_layouts_named

LEGAL = "digits, cifar10:DIR, cifar100:DIR, tiny_imagenet:DIR, imagenet:DIR, folder:DIR"
IN_MEMORY_BYTES = 4 << 30
FRAMED = 8 / 7  # a side with its frame: 256 for 224, 64 for 56


def load_dataset(spec: str, size: int | None = None, *, lazy: bool | None = None, told: Told | None = None) -> Dataset:
    """Specification → Dataset; with `size`, images are size × size. Layouts and rules: docs/data.md.

    - `digits`: scikit-learn's 1,797 bundled 8×8 grey digits, 80 % of every class for training.
    - `cifar10:DIR`, `cifar100:DIR`: the official files, python or binary layout, in DIR or in its official sub-folder.
    - `tiny_imagenet:DIR`: the official files, in DIR or in its official sub-folder; tested on the validation images.
    - `imagenet:DIR`: DIR/train/WNID/*.JPEG, and DIR/val in class folders or flat with a list of labels. Size: 224.
    - `folder:DIR`: RGB images in DIR/train/CLASS and DIR/test/CLASS (or DIR/val/CLASS), or only in DIR/CLASS: then 80 %
      of every class are for training. Needs `size`.

    Both ImageNets keep a frame around the training images where `size` leaves room for one (64 for 56, 256 for 224).
    Splits made here are seeded: the same data always gives the same split. Mean and standard deviation are those of
    the training images.

    `lazy` image files are decoded batch by batch, others now; None: lazy when decoded they would take more than 4 GiB.
    `told` hears what is read, how much of it, and of how much.

    Raises:
        DataError: unknown specification, or data that is missing, damaged or does not fit together.
    """
    if size is not None and not MIN_SIDE <= size <= MAX_SIDE:
        raise DataError(f"data set {spec!r}: size is {size}; legal: {MIN_SIDE} to {MAX_SIDE} pixels")
    if spec == "digits":
        return _digits(size)
    kind, _, name = spec.partition(":")
    if kind not in ("cifar10", "cifar100", "tiny_imagenet", "imagenet", "folder") or not name:
        raise DataError(f"unknown data set {spec!r}; legal: {LEGAL}")
    folder = Path(name).expanduser()
    try:
        check_folder(spec, folder)
        with other_layouts_named(kind, folder):
            if kind in ("cifar10", "cifar100"):
                return _cifar(folder, int(kind.removeprefix("cifar")), size)
            tree, form, size = _tree(kind, folder, size, told or _nobody)
    except OSError as error:
        raise DataError(f"{spec}: {error.filename} cannot be read ({error.strerror})") from error
    return _of_files(f"{kind.replace('_', ' ')} {folder.name}", tree, form, size, lazy, told or _nobody)


def _digits(size: int | None) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # 0…16 → bytes
    return _split("digits", _at_size(images, size), bunch.target.astype(np.int64), tuple("0123456789"))


def _cifar(folder: Path, classes: int, size: int | None) -> Dataset:
    if not is_cifar(folder, classes):
        raise misfit(folder, f"CIFAR-{classes}", layout_text(classes))
    cifar = read_cifar(folder, classes)
    train_images, test_images = _at_size(cifar.train_images, size), _at_size(cifar.test_images, size)
    preprocessing = measured_preprocessing(train_images, cifar.classes)
    return Dataset(f"cifar{classes}", train_images, cifar.train_labels, test_images, cifar.test_labels, preprocessing)


def _tree(kind: str, folder: Path, size: int | None, told: Told) -> tuple[ImageTree, ImageForm, int]:
    """The files of a data set, how large they are decoded, and how large the network's images are."""
    if kind == "tiny_imagenet":
        here = tiny_imagenet.tiny_imagenet_folder(folder)
        if here is None:
            raise misfit(folder, "Tiny ImageNet", tiny_imagenet.LAYOUT)
        size = size or tiny_imagenet.SIDE
        side = max(size, min(tiny_imagenet.SIDE, round(size * FRAMED)))
        return tiny_imagenet.read_tiny_imagenet(here, told), ImageForm(3, side, side, keep_aspect=True), size
    if kind == "imagenet":
        if not imagenet.is_imagenet(folder):
            raise misfit(folder, "ImageNet", imagenet.LAYOUT)
        size = size or imagenet.SIDE
        side = round(size * FRAMED)
        return imagenet.read_imagenet(folder, told), ImageForm(3, side, side, keep_aspect=True), size
    if size is None:
        raise DataError(
            f"folder:{folder}: an image folder needs a size to resize to: --size 64, or size = 64 below [data]"
        )
    return read_image_folder(folder, told), ImageForm(3, size, size), size


def _of_files(name: str, tree: ImageTree, form: ImageForm, size: int, lazy: bool | None, told: Told) -> Dataset:
    framed = _files(tree.folder, tree.train, form)
    train_labels = tree.train.labels
    if tree.test is None:
        train, test = stratified_split(train_labels, TEST_SHARE, SPLIT_SEED)
        tested, test_labels = framed.subset(test), train_labels[test]
        framed, train_labels = framed.subset(train), train_labels[train]
    else:
        tested, test_labels = _files(tree.folder, tree.test, form), tree.test.labels
    tested = tested.centred(size, size)
    if lazy is None:
        lazy = framed.decoded_bytes + tested.decoded_bytes > IN_MEMORY_BYTES
    images: tuple[ImageStore, ImageStore] = framed, tested
    if not lazy:
        images = _decoded(framed, "train", told), _decoded(tested, "test", told)
    preprocessing = measured_preprocessing(images[0], tree.classes, (size, size))
    return Dataset(name, images[0], train_labels, images[1], test_labels, preprocessing)


def _files(folder: Path, files: LabelledFiles, form: ImageForm) -> ImageFiles:
    return ImageFiles(folder, files.names, form, form.height, form.width)


def _decoded(files: ImageFiles, split: str, told: Told) -> Images:
    return files.decode(lambda done: told(f"reading {split} images", done, len(files)))


def _nobody(_what: str, _done: int, _total: int) -> None:
    """Is told, and says nothing."""


def _split(name: str, images: Images, labels: Labels, classes: tuple[str, ...]) -> Dataset:
    train, test = stratified_split(labels, TEST_SHARE, SPLIT_SEED)
    preprocessing = measured_preprocessing(images[train], classes)
    return Dataset(name, images[train], labels[train], images[test], labels[test], preprocessing)


def _at_size(images: Images, size: int | None) -> Images:
    return images if size is None else resize(images, size, size)
