"""Dataset: labelled images, split into training and test, with the preprocessing that belongs to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeks.errors import DataError
from edgeks.preprocessing import Preprocessing
from edgeks.train.image_files import ImageFiles, Images

ImageStore = Images | ImageFiles  # in memory, or decoded when they are asked for
Labels = NDArray[np.int64]

MIN_SIDE, MAX_SIDE = 4, 4096  # of the images that a network takes
SPLIT_SEED = 0
TEST_SHARE = 0.2
MIN_STD = 1 / 255
MEASURED_FILES = 4096
PORTION = 256


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images are uint8 N×C×H×W, labels int64 N with values 0 to classes − 1.

    Training images may be larger than the network's H×W, by the same frame in both directions: the crop that is trained
    on lies anywhere in them.

    Raises:
        DataError: a split is empty, shapes or types do not fit together, or a label is out of range.
    """

    name: str
    train_images: ImageStore
    train_labels: Labels
    test_images: ImageStore
    test_labels: Labels
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        p = self.preprocessing
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if len(images) == 0:
                raise DataError(f"{self.name}: the {split} split has no images")
            framed = images.shape[1:] == (p.channels, p.height, p.width)
            if split == "train" and len(images.shape) == 4:
                frame = images.shape[2] - p.height, images.shape[3] - p.width
                framed = images.shape[1] == p.channels and frame[0] == frame[1] >= 0
            if images.dtype != np.uint8 or not framed:
                raise DataError(
                    f"{self.name}: {split} images have type {images.dtype} and shape {images.shape}; "
                    f"legal: uint8 N×{p.channels}×{p.height}×{p.width}"
                )
            if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{self.name}: {split} labels have type {labels.dtype} and shape {labels.shape}; "
                    f"legal: int64, one for each of the {len(images)} images"
                )
            if labels.min() < 0 or labels.max() >= len(p.classes):
                wrong = labels[(labels < 0) | (labels >= len(p.classes))][0]
                raise DataError(
                    f"{self.name}: {split} split has the label {wrong}; legal: 0 to {len(p.classes) - 1} "
                    f"({len(p.classes)} classes)"
                )

    def training(self, rows: NDArray[np.int64]) -> tuple[ImageStore, Labels]:
        """Some of the training images with the frame around them, and their labels."""
        return _rows(self.train_images, rows), self.train_labels[rows]

    def held_out(self, rows: NDArray[np.int64]) -> tuple[ImageStore, Labels]:
        """Some of the training images as a test image would be shown: their middle; and their labels."""
        images, p = _rows(self.train_images, rows), self.preprocessing
        if isinstance(images, ImageFiles):
            return images.centred(p.height, p.width), self.train_labels[rows]
        top, left = (images.shape[2] - p.height) // 2, (images.shape[3] - p.width) // 2
        return images[:, :, top : top + p.height, left : left + p.width], self.train_labels[rows]

    def sample(self, rows: NDArray[np.int64]) -> Images:
        """Some of the training images in memory, as a test image would be shown."""
        return self.held_out(rows)[0][:]

    def check_fits(self, trained: Preprocessing) -> None:
        """A network that was `trained` on such images and classes can go on with these, or be judged by them.

        Raises:
            DataError: their size or their classes differ; the first class that does is named.
        """
        mine = self.preprocessing
        if mine.shape != trained.shape:
            raise DataError(
                f"{self.name}: images of {_dims(mine.shape)}; the checkpoint was trained on {_dims(trained.shape)}; "
                "give it images of that size"
            )
        if len(mine.classes) != len(trained.classes):
            raise DataError(
                f"{self.name}: {len(mine.classes)} classes; the checkpoint was trained on {len(trained.classes)}; "
                "give it data with those classes"
            )
        for label, (name, known) in enumerate(zip(mine.classes, trained.classes, strict=True)):
            if name != known:
                raise DataError(
                    f"{self.name}: class {label} is {name!r}; the checkpoint was trained with {known!r} there; "
                    "give it data with the same classes, in the same order"
                )

    def fingerprint(self) -> str:
        """SHA-256, hexadecimal: equal for equal data.

        Of all pixels and labels; of images that stay in their files, what `ImageFiles.fingerprint` looks at.
        """
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(array.fingerprint() if isinstance(array, ImageFiles) else np.ascontiguousarray(array).data)
        return digest.hexdigest()


def measured_preprocessing(
    train_images: ImageStore, classes: Sequence[str], size: tuple[int, int] | None = None
) -> Preprocessing:
    """Mean and standard deviation of every channel over all training pixels, in units of 0…1.

    Of images that stay in their files, over 4,096 that are evenly spread. `size` (height, width): that of the network,
    where it is not that of the images.
    """
    count, channels = train_images.shape[:2]
    height, width = size or train_images.shape[2:]
    if isinstance(train_images, ImageFiles):
        measured = min(count, MEASURED_FILES)
        train_images = train_images.subset(np.arange(measured) * count // max(measured, 1))
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(train_images), PORTION):  # counting takes eight bytes for each pixel
        portion = train_images[start : start + PORTION]
        counts += [np.bincount(portion[:, channel].reshape(-1), minlength=256) for channel in range(channels)]
    mean, std = [], []
    for share in counts / counts.sum(1, keepdims=True):
        value = np.arange(256) / 255
        centre = float(share @ value)
        mean.append(centre)
        std.append(max(float(np.sqrt(share @ (value - centre) ** 2)), MIN_STD))
    return Preprocessing(channels, height, width, tuple(mean), tuple(std), tuple(classes))


def stratified_split(labels: Labels, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the larger and of the smaller part, both ascending. The smaller has `share` of every class, rounded.

    At least one sample of every class stays in the larger part. The same labels, share and seed give the same split.
    """
    rng = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out.append(members[: min(round(share * len(members)), len(members) - 1)])
    small = np.sort(np.concatenate(held_out)).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), small), small


def _rows(images: ImageStore, rows: NDArray[np.int64]) -> ImageStore:
    return images.subset(rows) if isinstance(images, ImageFiles) else images[rows]


def _dims(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
