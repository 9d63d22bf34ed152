"""Real samples as a model file takes them, for a runner that knows nothing of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeks.interface import FEATURE_MAP_RANK, Interface
from edgeks.samples import load_samples
from edgeks.target import Format

KEPT_SAMPLES = 16


def samples_beside(path: Path) -> Path:
    """Where the samples of a model file are kept: `model.onnx` → `model.samples.npz`."""
    return path.with_suffix(".samples.npz")


def keep(samples: NDArray[Any], interface: Interface, path: Path) -> None:
    """Some of the samples, N×C×H×W, as real values from which `encode` makes what the file was exported with."""
    spec = interface.inputs[0]
    with path.open("wb") as file:
        np.savez_compressed(file, samples=spec.decode(spec.encode(samples[:KEPT_SAMPLES])))


def encode_samples(calib: Path, file_format: Format, interface: Interface | None) -> NDArray[Any]:
    """Samples of an .npz (one array N×C×H×W) → N×… in the type and layout of the file's only input.

    Of a file that edgeks did not write (`interface` None) the layout is the format's: TFLite N×H×W×C.

    Raises:
        DataError: the samples cannot be read.
    """
    return encode(load_samples(calib, None, None, None).inputs, file_format, interface)


def encode(samples: NDArray[Any], file_format: Format, interface: Interface | None) -> NDArray[Any]:
    """Real values or pixels, N×C×H×W → what the file's only input holds."""
    if interface is not None:
        samples = interface.inputs[0].encode(samples)
    elif file_format == "tflite" and samples.ndim == FEATURE_MAP_RANK:
        samples = samples.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(samples)
