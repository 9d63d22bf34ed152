"""Parity: how far an artefact's outputs are from torch's, on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SQNR_DB = 200.0


@dataclass(frozen=True, slots=True)
class Parity:
    """SQNR in dB (power of the reference over power of the error), cosine, and share of samples of equal top-1 class.

    `top1_agreement` is None where the output is not one row of class scores per sample.
    """

    samples: int
    sqnr_db: float
    cosine: float
    top1_agreement: float | None

    def __str__(self) -> str:
        top1 = "" if self.top1_agreement is None else f", top-1 agreement {100 * self.top1_agreement:.1f} %"
        return f"SQNR {self.sqnr_db:.1f} dB, cosine {self.cosine:.6f}{top1}, {self.samples} samples"


def compare_all(references: Sequence[NDArray[np.float32]], outputs: Sequence[NDArray[np.float32]]) -> Parity:
    """All outputs of a network → the Parity of the one that is furthest off."""
    if len(references) != len(outputs):
        raise ValueError(f"{len(outputs)} outputs, the reference has {len(references)}")
    found = [compare(reference, output) for reference, output in zip(references, outputs, strict=True)]
    return min(found, key=lambda parity: parity.sqnr_db)


def compare(reference: NDArray[np.float32], output: NDArray[np.float32]) -> Parity:
    """Two arrays of one shape, samples first → Parity. Outputs that are not finite give −200 dB."""
    if reference.shape != output.shape:
        raise ValueError(f"outputs have shape {output.shape}, the reference has {reference.shape}")
    expected, found = reference.astype(np.float64).ravel(), output.astype(np.float64).ravel()
    top1 = None
    if reference.ndim == 2 and reference.shape[1] > 1:
        top1 = float(np.mean(reference.argmax(1) == output.argmax(1)))
    if not np.isfinite(found).all():
        return Parity(len(reference), -MAX_SQNR_DB, 0.0, top1)
    signal, noise = float(np.sum(expected**2)), float(np.sum((expected - found) ** 2))
    if noise == 0:
        sqnr = MAX_SQNR_DB
    elif signal == 0:
        sqnr = -MAX_SQNR_DB
    else:
        sqnr = float(np.clip(10 * np.log10(signal / noise), -MAX_SQNR_DB, MAX_SQNR_DB))
    norms = float(np.linalg.norm(expected) * np.linalg.norm(found))
    cosine = float(np.dot(expected, found) / norms) if norms > 0 else float(noise == 0)
    return Parity(len(reference), sqnr, cosine, top1)
