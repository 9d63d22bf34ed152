"""ImageFiles: images that stay in their files and are decoded when they are asked for."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeks.errors import DataError
from edgeks.images import ImageForm, decoded, silence_pillow

Images = NDArray[np.uint8]

FINGERPRINTED_FILES = 1024
FINGERPRINTED_BYTES = 1 << 16
PORTION = 1024


@dataclass(frozen=True, slots=True, eq=False)
class ImageFiles:
    """N image files, indexed like an array of bytes N×C×H×W: each indexing decodes anew, and takes the memory of its
    result only.

    `names` are relative to `folder`, as the file system spells them (a byte string each: a million take 30 MB). Of each
    file, brought into `form`, the middle `height` × `width` is kept.
    """

    folder: Path
    names: NDArray[np.bytes_]
    form: ImageForm
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, H, W."""
        return len(self.names), self.form.channels, self.height, self.width

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Bytes."""
        return np.dtype(np.uint8)

    @property
    def decoded_bytes(self) -> int:
        """What all of them would take in memory."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        """N."""
        return len(self.names)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> Images:
        """Some of the images, decoded by as many threads as there are cores.

        Raises:
            DataError: an image cannot be decoded; it is named.
        """
        return self.subset(index).decode()

    def decode(self, progress: Callable[[int], None] | None = None) -> Images:
        """All of the images; `progress` is told now and then how many there are.

        Raises:
            DataError: an image cannot be decoded (it is named), or there is not enough memory.
        """
        silence_pillow()
        try:
            images = np.empty(self.shape, np.uint8)
        except MemoryError as error:
            raise DataError(
                f"{self.folder}: {len(self):,} images take {self.decoded_bytes >> 30} GiB decoded, more than there is; "
                "leave out --in-memory"
            ) from error
        top, left = (self.form.height - self.height) // 2, (self.form.width - self.width) // 2
        for start in range(0, len(self), PORTION):
            paths = [self.folder / os.fsdecode(name) for name in self.names[start : start + PORTION]]
            for row, image in enumerate(decoded(paths, self.form), start):
                images[row] = image[:, top : top + self.height, left : left + self.width]
            if progress:
                progress(min(start + PORTION, len(self)))
        return images

    def subset(self, index: slice | NDArray[np.int64]) -> ImageFiles:
        """Some of the images, still in their files."""
        return replace(self, names=self.names[index])

    def centred(self, height: int, width: int) -> ImageFiles:
        """The middle of each image."""
        return replace(self, height=height, width=width)

    def fingerprint(self) -> bytes:
        """SHA-256 of all names and of the form, and of size and first bytes of 1,024 files evenly spread over them.

        Raises:
            DataError: a file cannot be read.
        """
        digest = hashlib.sha256(repr((self.form, self.shape)).encode())
        digest.update(b"\n".join(self.names.tolist()))
        count = min(len(self), FINGERPRINTED_FILES)
        for name in self.names[np.arange(count) * len(self) // max(count, 1)]:
            path = self.folder / os.fsdecode(name)
            try:
                with path.open("rb") as file:
                    digest.update(f"{os.fstat(file.fileno()).st_size}\n".encode())
                    digest.update(file.read(FINGERPRINTED_BYTES))
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        return digest.digest()


def file_names(names: list[str]) -> NDArray[np.bytes_]:
    """Relative paths as `ImageFiles` keeps them."""
    return np.array([os.fsencode(name) for name in names], np.bytes_)
