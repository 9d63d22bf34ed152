"""Preprocessing: what happens to pixels before they reach the network. Plain numpy, travels in every artefact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeks.errors import DataError

MAX_SIZE = 1 << 16
MIN_STD = 1e-6  # of pixels in 0…1


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize to `height` × `width`, scale bytes to 0…1, subtract `mean` and divide by `std` per channel."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_SIZE:
                raise DataError(f"preprocessing: {name} is {size!r}; legal: a whole number, 1 to {MAX_SIZE}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not all(np.isfinite(v) for v in values):
                raise DataError(f"preprocessing: {name} is {values!r}; it needs {self.channels} finite numbers")
        if min(self.std) < MIN_STD:
            raise DataError(f"preprocessing: std is {self.std!r}; every value must be {MIN_STD:g} or more")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one input."""
        return self.channels, self.height, self.width

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """N×C×H×W bytes → float32 of the same shape, as the network takes them."""
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise DataError(
                f"images have shape {images.shape} and type {images.dtype}; the preprocessing takes uint8 "
                f"N×{self.channels}×{self.height}×{self.width}"
            )
        mean = np.asarray(self.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(1, -1, 1, 1)
        return ((images.astype(np.float32) / np.float32(255)) - mean) / std

    def denormalise(self, inputs: NDArray[np.float32]) -> NDArray[np.uint8]:
        """N×C×H×W as the network takes them → the nearest bytes: `normalise` is undone exactly."""
        mean = np.asarray(self.mean, np.float64).reshape(1, -1, 1, 1)
        std = np.asarray(self.std, np.float64).reshape(1, -1, 1, 1)
        return np.clip(np.rint((inputs * std + mean) * 255), 0, 255).astype(np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and text, for JSON and checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`.

        Raises:
            DataError: a key is missing or has the wrong type.
        """
        try:
            return cls(
                channels=data["channels"],
                height=data["height"],
                width=data["width"],
                mean=tuple(float(v) for v in data["mean"]),
                std=tuple(float(v) for v in data["std"]),
                classes=tuple(str(v) for v in data["classes"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: a tensor's
            raise DataError(f"preprocessing is malformed: {error!r}") from error
