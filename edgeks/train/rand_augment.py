"""RandAugment (arXiv 1909.13719) as the image-model library timm has it: `rand-m9-mstd0.5-inc1`.

Fifteen operations, the strength of each rising with the magnitude. The ranges are those of timm's "increasing" set
(timm/data/auto_augment.py in huggingface/pytorch-image-models); the operations themselves are Pillow's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS_PER_IMAGE = 2
CHANCE = 0.5  # of each of them
MAGNITUDE_STD = 0.5
MAX_MAGNITUDE = 10.0
BITS = 8
MODES = ("L", "RGB")

Picture = Image.Image


@dataclass(frozen=True, slots=True)
class Strength:
    """How strongly an operation acts: `share` 0…1 of its range, `signed` the same with a sign; `fill` is the colour of
    what a geometric operation uncovers.
    """

    share: float
    signed: float
    fill: int | tuple[int, ...]


Operation = Callable[[Picture, Strength], Picture]


def rand_augment(image: Picture, magnitude: float, fill: int | tuple[int, ...], rng: np.random.Generator) -> Picture:
    """Two operations drawn from `OPERATIONS` (the same may come twice), each applied by half a chance.

    Each has its own magnitude, normally distributed around `magnitude` (0…10) with `MAGNITUDE_STD`. The image is grey
    or RGB, and keeps its size.
    """
    for operation in rng.integers(0, len(OPERATIONS), OPERATIONS_PER_IMAGE):
        applied, negative, deviation = rng.random(), rng.random(), rng.standard_normal()
        if applied < CHANCE:
            share = min(max(magnitude + MAGNITUDE_STD * deviation, 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE
            image = _IN_ORDER[operation](image, Strength(share, -share if negative < CHANCE else share, fill))
    return image


def _autocontrast(image: Picture, _: Strength) -> Picture:
    return ImageOps.autocontrast(image)


def _equalize(image: Picture, _: Strength) -> Picture:
    return ImageOps.equalize(image)


def _invert(image: Picture, _: Strength) -> Picture:
    return ImageOps.invert(image)


def _posterize(image: Picture, strength: Strength) -> Picture:
    """4 down to 0 bits are kept."""
    return image.point(_table(lambda value: value & ~((1 << (BITS - 4 + int(strength.share * 4))) - 1), image))


def _solarize(image: Picture, strength: Strength) -> Picture:
    """Inverted from a threshold of 256 down to 0 on."""
    return ImageOps.solarize(image, 256 - int(strength.share * 256))


def _solarize_add(image: Picture, strength: Strength) -> Picture:
    """The dark half is made lighter by 0 up to 110."""
    added = int(strength.share * 110)
    return image.point(_table(lambda value: min(255, value + added) if value < 128 else value, image))


def _color(image: Picture, strength: Strength) -> Picture:
    return ImageEnhance.Color(image).enhance(_factor(strength))


def _contrast(image: Picture, strength: Strength) -> Picture:
    return ImageEnhance.Contrast(image).enhance(_factor(strength))


def _brightness(image: Picture, strength: Strength) -> Picture:
    return ImageEnhance.Brightness(image).enhance(_factor(strength))


def _sharpness(image: Picture, strength: Strength) -> Picture:
    return ImageEnhance.Sharpness(image).enhance(_factor(strength))


def _rotate(image: Picture, strength: Strength) -> Picture:
    """By up to 30°."""
    return image.rotate(30 * strength.signed, Image.Resampling.BICUBIC, fillcolor=strength.fill)


def _shear_x(image: Picture, strength: Strength) -> Picture:
    return _affine(image, (1, 0.3 * strength.signed, 0, 0, 1, 0), strength)


def _shear_y(image: Picture, strength: Strength) -> Picture:
    return _affine(image, (1, 0, 0, 0.3 * strength.signed, 1, 0), strength)


def _translate_x(image: Picture, strength: Strength) -> Picture:
    """By up to 45 % of the width."""
    return _affine(image, (1, 0, 0.45 * strength.signed * image.width, 0, 1, 0), strength)


def _translate_y(image: Picture, strength: Strength) -> Picture:
    return _affine(image, (1, 0, 0, 0, 1, 0.45 * strength.signed * image.height), strength)


def _factor(strength: Strength) -> float:
    """1 leaves the image as it is; 0.1 to 1.9."""
    return 1.0 + 0.9 * strength.signed


def _affine(image: Picture, matrix: tuple[float, ...], strength: Strength) -> Picture:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=strength.fill
    )


def _table(value_of: Callable[[int], int], image: Picture) -> list[int]:
    return [value_of(value) for value in range(256)] * len(image.getbands())


OPERATIONS: Mapping[str, Operation] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear x": _shear_x,
    "shear y": _shear_y,
    "translate x": _translate_x,
    "translate y": _translate_y,
}
_IN_ORDER = tuple(OPERATIONS.values())
