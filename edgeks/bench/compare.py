"""Compare two jobs: blocks of one process of each in random order, and the ratio of their p50 with its interval."""

from __future__ import annotations

from collections.abc import Callable

from edgeks.bench.machine import Machine
from edgeks.bench.measure import Progress
from edgeks.bench.measurement import Comparison, Effort, Job, Measurement


def compare(
    a: Job,
    b: Job,
    machine_a: Machine,
    machine_b: Machine,
    effort: Effort,
    on_progress: Callable[[Progress], None] | None = None,
    on_repetition: Callable[[Measurement, Measurement], None] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """`b` against `a` in `effort.processes` blocks, at least three; who is first in each is drawn with `seed`.

    `on_repetition` gets both measurements so far after each whole block.
    """
    raise NotImplementedError
