"""What a checkpoint's exports will take: each is made in a temporary folder, audited, and thrown away."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeks.audit.footprint import Footprint, footprint
from edgeks.checkpoint import Checkpoint
from edgeks.exporter import export
from edgeks.target import Target

NOISE_SAMPLES = 16


def checkpoint_footprint(
    checkpoint: Checkpoint,
    target: Target,
    input_shape: tuple[int, int, int] | None = None,
    *,
    flash_budget: int | None = None,
    ram_budget: int | None = None,
    profile: str | None = None,
) -> dict[str, Footprint]:
    """Checkpoint → footprint of the fp32 and the int8 file that `edgeks export` would write for `target`.

    Sizes depend neither on accuracy nor on what int8 is calibrated with: an export that is less right than the target
    asks counts here, and noise stands in for calibration images that the checkpoint does not carry.

    Raises:
        InputError: as `edgeks.export`, and `edgeks.footprint`.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
        noise = None
        if checkpoint.calibration is None and input_shape is not None:
            noise = Path(folder, "noise.npz")
            np.savez(noise, np.random.default_rng(0).standard_normal((NOISE_SAMPLES, *input_shape), np.float32))
        for name in ("fp32", "int8"):
            out, int8 = Path(folder, f"{name}.{target.format}"), name == "int8"
            calib = noise if int8 else None
            export(checkpoint, out, target, int8=int8, calib=calib, input_shape=input_shape, min_sqnr_db=-math.inf)
            result = footprint(out, target, flash_budget=flash_budget, ram_budget=ram_budget, profile=profile)
            found[name] = replace(result, path=Path(name))
    return found
