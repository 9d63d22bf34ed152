"""The samples that an export calibrates on and compares with: real ones wherever there are any."""

from __future__ import annotations

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeks.errors import DataError
from edgeks.images import read_folder
from edgeks.preprocessing import Preprocessing

MAX_SAMPLES = 256
MAX_ARRAY_BYTES = 4 << 30
RANDOM_SAMPLES = 16
RANK = 4


@dataclass(frozen=True, slots=True)
class Samples:
    """float32 N×C×H×W as the network takes them, or uint8 for a graph that takes raw pixels.

    `origin` is for reports; `real` is False for random noise.
    """

    inputs: NDArray[Any]
    origin: str
    real: bool


def load_samples(
    calib: Path | None,
    calibration: NDArray[np.uint8] | None,
    preprocessing: Preprocessing | None,
    input_shape: tuple[int, int, int] | None,
) -> Samples:
    """`calib` (.npz or image folder), else the checkpoint's own sample, else noise of `input_shape` (C, H, W).

    Raises:
        DataError: the samples cannot be read or do not fit, or neither samples nor an input shape are known.
    """
    shape = input_shape
    if preprocessing is not None:
        shape = preprocessing.shape
        if input_shape is not None and input_shape != shape:
            raise DataError(f"--input {_dims(input_shape)} contradicts the checkpoint, which takes {_dims(shape)}")
    if calib is not None and calib.is_dir():
        if preprocessing is None:
            raise DataError(
                f"--calib {calib}: an image folder needs the checkpoint's preprocessing (size, mean, std), and this "
                "checkpoint has none; give an .npz with one array N×C×H×W that is fed as it is"
            )
        images = read_folder(calib, *preprocessing.shape, limit=MAX_SAMPLES)
        return Samples(preprocessing.normalise(images), f"{len(images)} images of {calib}", real=True)
    if calib is not None:
        inputs = _read_array(calib)
        if shape is not None and inputs.shape[1:] != shape:
            raise DataError(f"--calib {calib}: shape {_dims(inputs.shape)}; the network takes N×{_dims(shape)}")
        return Samples(inputs[:MAX_SAMPLES], f"{min(len(inputs), MAX_SAMPLES)} samples of {calib.name}", real=True)
    if calibration is not None and preprocessing is not None and len(calibration):
        inputs = preprocessing.normalise(calibration[:MAX_SAMPLES])
        return Samples(inputs, f"{len(inputs)} training samples of the checkpoint", real=True)
    if shape is None:
        raise DataError(
            "the network's input size is unknown: pass --input CxHxW (such as 3x32x32), or --calib with real samples"
        )
    if RANDOM_SAMPLES * 4 * math.prod(shape) > MAX_ARRAY_BYTES:
        raise DataError(
            f"inputs of {_dims(shape)} are too large to make up: pass --calib with real samples, or a smaller --input"
        )
    noise = np.random.default_rng(0).standard_normal((RANDOM_SAMPLES, *shape)).astype(np.float32)
    return Samples(noise, f"{RANDOM_SAMPLES} samples of random noise", real=False)


def parse_input_shape(text: str) -> tuple[int, int, int]:
    """`3x32x32` → (3, 32, 32).

    Raises:
        DataError: it is not three sizes.
    """
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,9}", p) and 0 < int(p) <= 1 << 16 for p in parts):
        raise DataError(f"--input {text}: legal: channels x height x width, such as 3x32x32")
    channels, height, width = (int(p) for p in parts)
    return channels, height, width


def _read_array(path: Path) -> NDArray[np.float32]:
    if not path.exists():
        raise DataError(f"--calib {path}: no such file or folder")
    if path.suffix != ".npz":
        raise DataError(f"--calib {path}: legal: an .npz with one array N×C×H×W, or a folder of images")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_ARRAY_BYTES:
            raise DataError(f"--calib {path}: unpacks to {unpacked:,} bytes; legal: up to {MAX_ARRAY_BYTES:,}")
        with np.load(path, allow_pickle=False) as stored:
            if len(stored.files) != 1:
                raise DataError(f"--calib {path}: holds {len(stored.files)} arrays; legal: exactly one, N×C×H×W")
            array = stored[stored.files[0]]
    except DataError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise DataError(f"--calib {path}: not a readable .npz of plain numbers ({error})") from error
    if not isinstance(array, np.ndarray):  # an entry that is no .npy comes as bytes
        raise DataError(f"--calib {path}: not a readable .npz of plain numbers: {stored.files[0]!r} is no array")
    if array.ndim != RANK or array.dtype.kind not in "fiu" or not len(array):
        raise DataError(f"--calib {path}: {array.dtype} array of shape {_dims(array.shape)}; legal: numbers, N×C×H×W")
    with np.errstate(over="ignore", invalid="ignore"):  # becomes infinity, which is refused next
        inputs: NDArray[np.float32] = array.astype(np.float32)
    if not np.isfinite(inputs).all():
        raise DataError(f"--calib {path}: holds NaN, infinity or numbers beyond float32")
    return inputs


def _dims(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"
