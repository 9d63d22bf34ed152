"""What a program feeds an artefact and gets from it: type, layout, scale and zero point of every input and output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeks.errors import ModelFileError

TYPES = ("float32", "int8", "uint8", "float16", "float64", "int16", "int32", "int64", "bool")
FEATURE_MAP_RANK = 4
LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}  # smallest and largest code


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `layout` names the axes of `shape`, "NCHW" for 1×C×H×W; `meaning` is for people.

    Where `scale` and `zero_point` are given, the tensor holds codes (int8 or uint8) that stand for
    scale·(code − zero_point). A uint8 input holds raw pixels, whose scale of 1/255 makes them the brightness 0…1.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]
    layout: str
    meaning: str
    scale: float | None = None
    zero_point: int | None = None

    def encode(self, values: NDArray[Any]) -> NDArray[Any]:
        """Real values (N×C×H×W) → what this tensor holds, in its layout. Codes of its type are taken as they are."""
        if self.layout == "NHWC" and values.ndim == FEATURE_MAP_RANK:
            values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
        if self.scale is None or self.zero_point is None:
            return values
        if values.dtype == self.type:
            return values
        limits = np.iinfo(self.type)
        codes = np.rint(np.asarray(values, np.float32) / np.float32(self.scale)) + self.zero_point
        clipped: NDArray[Any] = np.clip(codes, limits.min, limits.max).astype(self.type)
        return clipped

    def decode(self, held: NDArray[Any]) -> NDArray[np.float32]:
        """What this tensor holds → real values, float32, N×C×H×W whatever its layout."""
        if self.layout == "NHWC" and held.ndim == FEATURE_MAP_RANK:
            held = held.transpose(0, 3, 1, 2)
        if self.scale is None or self.zero_point is None:
            return np.asarray(held, np.float32)
        return (held.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)

    def channels_last(self) -> TensorSpec:
        """The same tensor with its axes as 1×H×W×C; itself where it is no feature map."""
        if self.layout != "NCHW":
            return self
        n, c, h, w = self.shape
        return replace(self, shape=(n, h, w, c), layout="NHWC")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and text, for JSON."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Inverse of `to_dict`.

        Raises:
            ModelFileError: a key is missing or has the wrong type.
        """
        try:
            scale, zero_point = data["scale"], data["zero_point"]
            if data["type"] not in (TYPES if scale is None else LIMITS):
                raise ValueError(f"type is {data['type']!r}")
            return cls(
                name=str(data["name"]),
                type=data["type"],
                shape=tuple(data["shape"]),
                layout=str(data["layout"]),
                meaning=str(data["meaning"]),
                scale=None if scale is None else float(scale),
                zero_point=None if zero_point is None else int(zero_point),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"the file's description of its inputs and outputs is malformed: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Interface:
    """All inputs and outputs of an artefact, in the order of the file."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def channels_last(self) -> Interface:
        """The same network with its feature maps as 1×H×W×C."""
        return Interface(tuple(s.channels_last() for s in self.inputs), tuple(s.channels_last() for s in self.outputs))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        return {"inputs": [s.to_dict() for s in self.inputs], "outputs": [s.to_dict() for s in self.outputs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Interface:
        """Inverse of `to_dict`.

        Raises:
            ModelFileError: a key is missing or has the wrong type.
        """
        try:
            return cls(*(tuple(TensorSpec.from_dict(spec) for spec in data[key]) for key in ("inputs", "outputs")))
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"the file's description of its inputs and outputs is malformed: {error!r}") from error
