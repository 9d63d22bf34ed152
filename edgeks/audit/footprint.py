"""Footprint: what a model file takes in flash, what it needs in RAM, and whether that fits a target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeks.audit.arena import Arena, measure_arena
from edgeks.audit.flash import Flash, measure_flash
from edgeks.audit.tflite_flash import measure_tflite_flash
from edgeks.errors import BudgetExceeded
from edgeks.onnx_file import read_model_file
from edgeks.ort_file import read_ort
from edgeks.target import Target
from edgeks.tflite_file import read_tflite

NO_TFLITE_ARENA = Arena(None, ("RAM is not predicted for .tflite files yet; edgeks bench measures it",), None)


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """One budget of a target. `needed_bytes` is None where it could not be told, `budget_bytes` where there is none."""

    resource: Literal["flash", "ram"]
    needed_bytes: int | None
    budget_bytes: int | None

    @property
    def fits(self) -> bool | None:
        """Whether the need is within the budget; None where one of them is not known."""
        if self.needed_bytes is None or self.budget_bytes is None:
            return None
        return self.needed_bytes <= self.budget_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """`ram_bytes` is an estimate: constants (copies included: a runtime loads them all), what the runtime computes from
    them at load, and peak activations.

    The runtime's own memory is not in it.

    `budgets` is empty where no target was given.
    """

    path: Path
    flash: Flash
    arena: Arena
    target: str | None
    budgets: tuple[BudgetCheck, ...]

    @property
    def ram_bytes(self) -> int | None:
        """None where the peak of the activations is not known."""
        return _ram_bytes(self.flash, self.arena)

    @property
    def fits(self) -> bool:
        """False where a budget is exceeded."""
        return all(check.fits is not False for check in self.budgets)

    def require_fit(self) -> None:
        """Nothing where every budget holds.

        Raises:
            BudgetExceeded: naming each budget that does not hold, what is needed and what there is.
        """
        over = [
            f"{check.resource} {check.needed_bytes:,} bytes of {check.budget_bytes:,}"
            for check in self.budgets
            if check.fits is False
        ]
        if over:
            raise BudgetExceeded(
                f"{self.path}: does not fit target {self.target!r}: {' and '.join(over)}; "
                "share more kernels, export int8, or raise the budget in the target's TOML"
            )


def footprint(path: Path, target: Target | None = None) -> Footprint:
    """.onnx, .ort or .tflite file → Footprint, from the file alone; nothing is run. Of .tflite only flash is known.

    Raises:
        ModelFileError: the file is missing, not what its name says, cut short, or contradicts itself.
    """
    if path.suffix.lower() == ".tflite":
        flash, arena = measure_tflite_flash(read_tflite(path), path.stat().st_size, path), NO_TFLITE_ARENA
    else:
        model = read_ort(path) if path.suffix.lower() == ".ort" else read_model_file(path)
        flash, arena = measure_flash(model), measure_arena(model)
    budgets: tuple[BudgetCheck, ...] = ()
    if target is not None:
        budgets = (
            BudgetCheck("flash", flash.file_bytes, target.flash_budget_bytes),
            BudgetCheck("ram", _ram_bytes(flash, arena), target.ram_budget_bytes),
        )
    return Footprint(path, flash, arena, target.name if target else None, budgets)


def _ram_bytes(flash: Flash, arena: Arena) -> int | None:
    if arena.peak is None or arena.folded_bytes is None:
        return None
    return flash.constant_bytes + arena.folded_bytes + arena.peak.peak_bytes
