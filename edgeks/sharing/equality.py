"""Equal up to a per-channel factor: finds the copies of one kernel that BN folding and separate quantisation make."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Half a code: how far rounding moves a tap of an integer kernel away from a multiple of the kernel it was made from.
ROUNDING = 0.5
# Relative error of a floating-point kernel that was multiplied by a factor: a few units in the last place.
FLOAT_UNITS = 8.0
# A fit counts when chance would give it with a probability below e^-25: two unrelated kernels never match.
EVIDENCE = 25.0
SLACK = 1.05
FINGERPRINT_CHANNELS = 16
CHUNK_ELEMENTS = 1 << 18


class Rows(Protocol):
    """A kernel with the output channels on axis 0, of which some are read at a time: an array, or one in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Output channels, then the rest."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __getitem__(self, channels: Any, /) -> Any:
        """Some output channels, as an array."""


def equal_up_to_factor(first: Rows, second: Rows) -> bool:
    """Whether every output channel of `first` is a real multiple (of either sign) of the same channel of `second`.

    Both are kernels with the output channels on axis 0 and the same shape; integer codes come with their zero point
    already subtracted. Integers may differ by what rounding each of them separately does: a channel matches when the
    angle between the two is at most the sum of the angles that rounding by half a code can turn each by. Channels
    that are all zero (γ = 0) say nothing, and there must be enough channels and taps that do: a kernel with one tap
    per channel is trivially a multiple of any other, so there (and for text, booleans and non-finite numbers) only
    exact equality counts.
    """
    if first.shape != second.shape:
        return False
    if first.dtype == second.dtype and _same_values(first, second):
        return True
    if not (_comparable(first) and _comparable(second)):
        return False
    evidence, matching, one_sided = 0.0, 0, 0
    for rows in _chunks(first):
        a, a_noise = _directions(first[rows])
        b, b_noise = _directions(second[rows])
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return False
        allowed = (a_noise + b_noise) * SLACK
        sign = np.where(np.einsum("ct,ct->c", a, b) < 0, -1.0, 1.0)
        distance = np.linalg.norm(a - sign[:, None] * b, axis=1)
        informative = np.isfinite(allowed)
        if (distance[informative] > allowed[informative]).any():
            return False
        evidence += float((a.shape[1] - 1) * -np.log(np.minimum(allowed[informative], 1.0)).sum())
        matching += int(informative.sum())
        one_sided += int((np.isfinite(a_noise) ^ np.isfinite(b_noise)).sum())
    return evidence >= EVIDENCE and one_sided <= matching


def copy_sets(kernels: Sequence[Rows]) -> list[tuple[int, ...]]:
    """Kernels → the sets (two or more indices each) that are equal up to a per-channel factor, in order of first index.

    Kernels are compared within one shape, across data types; a cheap fingerprint that no factor changes rules out
    nearly all pairs before the exact comparison. No kernel is held in memory for it.
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    exact: dict[tuple[str, tuple[int, ...], bytes], list[int]] = defaultdict(list)
    for index, kernel in enumerate(kernels):
        if _comparable(kernel):
            by_shape[kernel.shape].append(index)
        else:
            digest = hashlib.sha256(np.asarray(kernel[...]).tobytes()).digest()
            exact[kernel.dtype.str, kernel.shape, digest].append(index)
    found = [tuple(indices) for indices in exact.values() if len(indices) > 1]
    for indices in by_shape.values():
        if len(indices) > 1:
            found.extend(_sets_of_one_shape(kernels, indices))
    return sorted(found)


def _sets_of_one_shape(kernels: Sequence[Rows], indices: list[int]) -> list[tuple[int, ...]]:
    prints, noises = zip(*(_fingerprint(kernels[index]) for index in indices), strict=True)
    values, tolerances = np.stack(prints), np.stack(noises)
    sets: list[list[int]] = []  # positions in `indices`; the first of a set stands for all of it
    for position in range(len(indices)):
        heads = np.array([members[0] for members in sets], dtype=np.intp)
        tolerance = (tolerances[heads] + tolerances[position]) * SLACK + 1e-9
        near = (np.abs(values[heads] - values[position]) <= tolerance).all(axis=1)
        for candidate in np.flatnonzero(near):
            if equal_up_to_factor(kernels[indices[heads[candidate]]], kernels[indices[position]]):
                sets[candidate].append(position)
                break
        else:
            sets.append([position])
    return [tuple(indices[position] for position in members) for members in sets if len(members) > 1]


def _fingerprint(kernel: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|cosine| of some channels with one fixed random direction, and how far rounding can move each (inf: zero)."""
    channels = np.unique(np.linspace(0, kernel.shape[0] - 1, FINGERPRINT_CHANNELS).astype(np.intp))
    read = kernel[channels]
    probe = np.random.default_rng(0).standard_normal(math.prod(kernel.shape[1:]))
    probe /= np.linalg.norm(probe)
    found = [_directions(read[rows]) for rows in _chunks(read)]
    cosines = np.concatenate([np.abs(directions @ probe) for directions, _ in found])
    return np.where(np.isfinite(cosines), cosines, 0.0), np.concatenate([noise for _, noise in found])


def _chunks(kernel: Rows) -> list[slice]:
    """Slices of output channels, each of which is a few megabytes to compare."""
    channels = max(1, CHUNK_ELEMENTS // max(1, math.prod(kernel.shape[1:])))
    return [slice(start, start + channels) for start in range(0, kernel.shape[0], channels)]


def _directions(rows: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """C × … → C × T channels of length 1, and the sine of the angle that rounding can turn each by (inf: all zero)."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        flat = np.asarray(rows).reshape(len(rows), -1).astype(np.float64)
    largest = np.abs(flat).max(axis=1)
    zero = largest == 0
    with np.errstate(invalid="ignore"):  # infinities become NaN, which the caller rejects
        unit = flat / np.where(zero, 1.0, largest)[:, None]  # before the norm: squares of tiny numbers vanish
    length = np.linalg.norm(unit, axis=1)
    directions = unit / np.where(zero, 1.0, length)[:, None]
    if rows.dtype.kind in "iu":
        noise = ROUNDING * math.sqrt(flat.shape[1]) / np.where(zero, 1.0, length * largest)
    else:
        noise = np.full(len(flat), FLOAT_UNITS * _epsilon(rows.dtype))
    return directions, np.where(zero, np.inf, noise)


def _epsilon(dtype: np.dtype[Any]) -> float:
    """Distance from 1 to the next number; double is held to single precision, since kernels rarely stay in double."""
    if dtype.kind == "f":
        return max(float(np.finfo(dtype).eps), float(np.finfo(np.float32).eps))
    return 2.0**-7  # bfloat16, and the narrower types that numpy itself does not know


def _comparable(kernel: Rows) -> bool:
    """Whether factors can be told apart from chance: real numbers, and at least two taps per output channel."""
    numeric = kernel.dtype.kind in "iuf" or kernel.dtype.name == "bfloat16"
    return numeric and len(kernel.shape) >= 2 and math.prod(kernel.shape) > 0 and math.prod(kernel.shape[1:]) > 1


def _same_values(first: Rows, second: Rows) -> bool:
    """Equal as numbers everywhere (0 and −0 too), or as bytes everywhere (NaN too)."""
    if not first.shape:
        return bool(np.array_equal(first[()], second[()])) or first[()].tobytes() == second[()].tobytes()
    same_numbers = same_bytes = True
    for rows in _chunks(first):
        a, b = first[rows], second[rows]
        same_numbers = same_numbers and bool(np.array_equal(a, b))
        same_bytes = same_bytes and a.tobytes() == b.tobytes()
        if not same_numbers and not same_bytes:
            return False
    return True
