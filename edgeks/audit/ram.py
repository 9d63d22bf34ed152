"""What RAM a model file takes under a runtime profile: the parts, predicted from the file alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Machine = Literal["x86-64", "arm64"]


@dataclass(frozen=True, slots=True)
class RamParts:
    """Resident bytes above the process that has imported the runtime but not opened the file.

    mapped: pages of the file (and of its data files) that are read in place; the system can drop and reread them.
    heap: weights that the runtime copied out of the file, or computed from them. packed: weights that a kernel
    library laid out anew. arena: activations, and scratch that stays (tables of addresses too). library: what is the
    runtime's own and not the model's weights or activations: graph, kernels, pages of its code that are used, and
    what it takes and gives back within an inference.
    """

    mapped_bytes: int
    heap_bytes: int
    packed_bytes: int
    arena_bytes: int
    library_bytes: int

    @property
    def total_bytes(self) -> int:
        """All parts."""
        return self.mapped_bytes + self.heap_bytes + self.packed_bytes + self.arena_bytes + self.library_bytes


@dataclass(frozen=True, slots=True)
class HeldKernel:
    """What the runtime holds of a kernel of the file: `copies` of `copy_bytes` each, mapped pages not counted."""

    kernel: str
    layers: int
    copies: int
    copy_bytes: int


@dataclass(frozen=True, slots=True)
class RamPrediction:
    """RAM of a file under one profile. `loaded`: once it is open; `run_peak`: the most of several inferences.

    `load_peak_bytes`: the most while it is opened, above the same process; None where no rule tells.
    `baseline_bytes`: the process before the file is opened: the interpreter, numpy and the runtime.
    `notes`: what was assumed, and what the rules do not cover. `cache_bytes`: of a file that the runtime writes beside
    the model, which takes flash.
    """

    profile: str
    baseline_bytes: int
    load_peak_bytes: int | None
    loaded: RamParts
    run_peak: RamParts
    kernels: tuple[HeldKernel, ...]
    notes: tuple[str, ...]
    cache_bytes: int = 0
