"""Images on disk → uint8 N×C×H×W. numpy and Pillow only: commands that do without torch use it too."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edgeks.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MODES = {1: "L", 3: "RGB"}
MAX_BYTES = 8 << 30


def list_images(folder: Path, limit: int | None = None) -> list[Path]:
    """Image files of a folder and of its immediate sub-folders, sorted; hidden files are left out.

    With `limit`, that many of them, evenly spread over the sorted list, so that every class sub-folder is represented
    in proportion. The choice depends on the names only.

    Raises:
        DataError: the folder cannot be read, or holds no image.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{folder}: a limit of {limit} images; legal: 1 or more")
    try:
        flat = _image_files(folder)
        nested = [path for sub in sorted(folder.iterdir()) if _is_visible_folder(sub) for path in _image_files(sub)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as an image folder ({error.strerror})") from error
    paths = flat + nested
    if not paths:
        raise DataError(
            f"{folder}: holds no image, nor do its sub-folders; legal: files that end in {', '.join(sorted(SUFFIXES))}"
        )
    if limit is None or limit >= len(paths):
        return paths
    return [paths[index * len(paths) // limit] for index in range(limit)]


def read_images(paths: Sequence[Path], channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Image files → N×C×H×W bytes: turned upright (EXIF), RGB or grey, resized (bilinear, aspect ratio not kept).

    Raises:
        DataError: `channels` is neither 1 nor 3, an image cannot be decoded (it is named) or is too large, or all of
            them together take more than `MAX_BYTES`.
    """
    if channels not in MODES:
        raise DataError(f"images are read with 1 (grey) or 3 (RGB) channels, not {channels}; give the samples as .npz")
    images = _room_for(len(paths), channels, height, width)
    for index, path in enumerate(paths):
        images[index] = _read_image(path, channels, height, width)
    return images


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


def _room_for(count: int, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    if count * channels * height * width > MAX_BYTES:
        raise DataError(
            f"{count} images of {channels}×{height}×{width} take more than {MAX_BYTES >> 30} GiB; "
            "use fewer images or a smaller size"
        )
    return np.empty((count, channels, height, width), np.uint8)


def _image_files(folder: Path) -> list[Path]:
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
    return sorted(files)


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _read_image(path: Path, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Image file → C×H×W bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                image = _to_mode(ImageOps.exif_transpose(opened), MODES[channels])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to decode safely; shrink or remove it"
        ) from error
    except Exception as error:  # Pillow's decoders raise many kinds on a damaged file
        raise DataError(f"{path}: cannot be decoded as an image ({error}); repair or remove it") from error
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """RGB or grey; 16-bit grey by its high byte, which Pillow's own conversion would clip."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(mode)
