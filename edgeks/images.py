"""Images on disk → uint8 N×C×H×W. numpy and Pillow only: commands that do without torch use it too."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeks.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MODES = {1: "L", 3: "RGB"}
MAX_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class ImageForm:
    """What an image file becomes: `channels` (1: grey, 3: RGB) × `height` × `width` bytes, upright (EXIF), bilinear.

    Stretched, or with `keep_aspect` what the longer side has beyond its middle is cut off.

    Raises:
        DataError: other channels.
    """

    channels: int
    height: int
    width: int
    keep_aspect: bool = False

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise DataError(
                f"images are read with 1 (grey) or 3 (RGB) channels, not {self.channels}; give the samples as .npz"
            )

    def read(self, path: Path) -> NDArray[np.uint8]:
        """File → C×H×W.

        Raises:
            DataError: it cannot be decoded, or is too large.
        """
        try:
            with path.open("rb") as file:
                image = self._decode(path, file)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if image.size != (self.width, self.height):
            box = self._middle(*image.size) if self.keep_aspect else None
            image = image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)

    def _decode(self, path: Path, file: BinaryIO) -> Image.Image:
        try:
            with Image.open(file) as opened:
                if Image.MAX_IMAGE_PIXELS is not None and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
                    raise Image.DecompressionBombError
                return _to_mode(ImageOps.exif_transpose(opened), MODES[self.channels])
        except Image.DecompressionBombError as error:
            raise DataError(
                f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to decode safely; shrink or remove it"
            ) from error
        except Exception as error:  # Pillow's decoders raise many kinds on a damaged file
            reason = "no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
            if os.fstat(file.fileno()).st_size == 0:
                reason = "it is empty, 0 bytes"
            raise DataError(f"{path}: cannot be decoded as an image ({reason}); repair or remove it") from error

    def _middle(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the largest rectangle in the middle that has the aspect ratio of the form."""
        scale = min(width / self.width, height / self.height)
        left, top = (width - scale * self.width) / 2, (height - scale * self.height) / 2
        return left, top, width - left, height - top


def list_images(folder: Path, limit: int | None = None) -> list[Path]:
    """Image files of a folder and of its immediate sub-folders, sorted; hidden files are left out.

    With `limit`, that many of them, evenly spread over the sorted list, so that every class sub-folder is represented
    in proportion. The choice depends on the names only.

    Raises:
        DataError: as `image_names`.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{folder}: a limit of {limit} images; legal: 1 or more")
    names = image_names(folder)
    if limit is not None and limit < len(names):
        names = [names[index * len(names) // limit] for index in range(limit)]
    return [folder / name for name in names]


def image_names(folder: Path) -> list[str]:
    """As `list_images`, relative to `folder`; a million of them takes seconds.

    Raises:
        DataError: the folder cannot be read, holds no image, or holds a link that leads nowhere or round in circles.
    """
    names, folders = _entries(folder)
    names += [f"{sub}/{name}" for sub in folders for name in _entries(folder / sub)[0]]
    if not names:
        raise DataError(
            f"{folder}: holds no image, nor do its sub-folders; legal: files that end in {', '.join(sorted(SUFFIXES))}"
        )
    return names


def folder_names(folder: Path) -> list[str]:
    """The visible sub-folders, sorted.

    Raises:
        DataError: the folder cannot be read, or holds a link that leads nowhere or round in circles.
    """
    return _entries(folder)[1]


def read_images(paths: Sequence[Path], channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Image files → N×C×H×W bytes: turned upright (EXIF), RGB or grey, resized (bilinear, aspect ratio not kept).

    Raises:
        DataError: `channels` is neither 1 nor 3, an image cannot be decoded (it is named) or is too large, or all of
            them together take more than `MAX_BYTES`.
    """
    form = ImageForm(channels, height, width)
    images = _room_for(len(paths), channels, height, width)
    with quiet_pillow():
        for row, image in enumerate(decoded(paths, form)):
            images[row] = image
    return images


def decoded(paths: Sequence[Path], form: ImageForm) -> Iterator[NDArray[np.uint8]]:
    """Each file as C×H×W bytes, in order, decoded by as many threads as there are cores.

    Pillow's warnings are the caller's to silence. A million paths are better given in portions.

    Raises:
        DataError: an image cannot be decoded (it is named), or is too large.
    """
    with ThreadPoolExecutor(min(cores(), max(1, len(paths)))) as pool:
        yield from pool.map(form.read, paths)


def read_folder(folder: Path, channels: int, height: int, width: int, limit: int | None = None) -> NDArray[np.uint8]:
    """`list_images`, then `read_images`."""
    return read_images(list_images(folder, limit), channels, height, width)


def resize(images: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """N×C×H×W bytes → the same images at `height` × `width` (bilinear, each channel for itself).

    Raises:
        DataError: the result would take more than `MAX_BYTES`.
    """
    if images.shape[2:] == (height, width):
        return images
    resized = _room_for(images.shape[0], images.shape[1], height, width)
    for index in np.ndindex(*images.shape[:2]):
        plane = Image.fromarray(images[index])
        resized[index] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return resized


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow does not warn of odd metadata or of large images: what matters of it is checked here."""
    with warnings.catch_warnings():
        silence_pillow()
        yield


def silence_pillow() -> None:
    """As `quiet_pillow`, from now on: threads cannot have warning filters of their own."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room_for(count: int, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    if count * channels * height * width > MAX_BYTES:
        raise DataError(
            f"{count} images of {channels}×{height}×{width} take more than {MAX_BYTES >> 30} GiB; "
            "use fewer images or a smaller size"
        )
    return np.empty((count, channels, height, width), np.uint8)


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the visible image files and of the visible sub-folders, each sorted."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    _check_link(folder / entry.name)
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.name[entry.name.rfind(".") :].lower() in SUFFIXES and entry.is_file():
                    files.append(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as an image folder ({error.strerror})") from error
    return sorted(files), sorted(folders)


def _check_link(link: Path) -> None:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: round in circles, before Python 3.13
        raise DataError(f"{link}: a symbolic link that leads nowhere; repair or remove it") from error
    if target in (here := link.parent.resolve(), *here.parents):
        raise DataError(f"{link}: a symbolic link to {target}, a folder that it lies in itself; remove it")


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """RGB or grey; 16-bit grey by its high byte, which Pillow's own conversion would clip."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(mode)
