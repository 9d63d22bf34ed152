"""Live activation bytes over the operators of a graph, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass

from edgeks.audit.onnx.shapes import Activation


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
