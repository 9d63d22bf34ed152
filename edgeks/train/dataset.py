"""Dataset: labelled images in memory, split into training and test, with the preprocessing that belongs to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeks.errors import DataError
from edgeks.preprocessing import Preprocessing

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

SPLIT_SEED = 0
TEST_SHARE = 0.2
MIN_STD = 1 / 255


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images are uint8 N×C×H×W, labels int64 N with values 0 to classes − 1.

    Raises:
        DataError: a split is empty, shapes or types do not fit together, or a label is out of range.
    """

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        p = self.preprocessing
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if len(images) == 0:
                raise DataError(f"{self.name}: the {split} split has no images")
            if images.dtype != np.uint8 or images.shape[1:] != (p.channels, p.height, p.width):
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

    def fingerprint(self) -> str:
        """SHA-256 of all pixels and labels, hexadecimal: equal for equal data."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def measured_preprocessing(train_images: Images, classes: Sequence[str]) -> Preprocessing:
    """Mean and standard deviation of every channel over all training pixels, in units of 0…1."""
    _, channels, height, width = train_images.shape
    mean, std = [], []
    for channel in range(channels):
        counts = np.bincount(train_images[:, channel].reshape(-1), minlength=256)
        share, value = counts / counts.sum(), np.arange(256) / 255
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
