"""What a checkpoint's exports will take: each is made in a temporary folder, audited, and thrown away."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgeks.audit.footprint import Footprint, footprint
from edgeks.checkpoint import Checkpoint
from edgeks.exporter import export
from edgeks.target import Target


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

    Sizes do not depend on accuracy, so an export that is less right than the target asks counts here.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
        for name in ("fp32", "int8"):
            out = Path(folder, f"{name}.{target.format}")
            export(checkpoint, out, target, int8=name == "int8", input_shape=input_shape, min_sqnr_db=0.0)
            result = footprint(out, target, flash_budget=flash_budget, ram_budget=ram_budget, profile=profile)
            found[name] = replace(result, path=Path(name))
    return found
