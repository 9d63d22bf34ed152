"""Live activation bytes over the operators of a graph, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Activation:
    """One tensor that is made at run time, with the shape and type that the graph gives it.

    `made_by` names the node that computes it; empty for a graph input, and until the liveness tells.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    made_by: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """One operator, by the name of what it computes, and the bytes of all activations alive while it runs.

    `in_place_bytes`: how many of them would go if an element by element operator wrote over an input of its output's
    size that nothing reads after it; 0 where there is none, or where the plan has it do so. Inputs and outputs of the
    graph are never written over.
    """

    node: str
    op_type: str
    live_bytes: int
    in_place_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """`peak`: index of the moment with the most live bytes. `alive`: the activations at the peak, the largest first.

    No memory plan takes less than the live bytes at the peak; what a plan takes above them is fragmentation.
    """

    moments: tuple[Moment, ...]
    peak: int
    alive: tuple[Activation, ...]

    @property
    def peak_bytes(self) -> int:
        """Live bytes at the peak; 0 for a graph without operators."""
        return self.moments[self.peak].live_bytes if self.moments else 0


@dataclass(frozen=True, slots=True)
class Peak:
    """The op at the peak, and the activations alive there, the largest first."""

    peak_bytes: int
    node: str
    op_type: str
    alive: tuple[Activation, ...]


@dataclass(frozen=True, slots=True)
class Arena:
    """`peak` is None where a size is unknown; `notes` say why, and what was assumed.

    `timeline`: the live bytes at every op of the main graph, with the peak of a body at the op that holds it; None as
    `peak`.
    """

    peak: Peak | None
    notes: tuple[str, ...]
    timeline: Timeline | None = None
