"""Measure a job on a machine: fresh processes one after the other, disturbed ones repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeks.bench.machine import Machine
from edgeks.bench.measurement import Effort, Job, Measurement


@dataclass(frozen=True, slots=True)
class Progress:
    """`process` of `processes` is running (from 1), and has done `runs` counted runs. `fraction` of the whole, 0 to 1."""

    process: int
    processes: int
    runs: int
    fraction: float


def measure(
    job: Job,
    machine: Machine,
    effort: Effort,
    on_progress: Callable[[Progress], None] | None = None,
    on_repetition: Callable[[Measurement], None] | None = None,
) -> Measurement:
    """Run `job` in `effort.processes` fresh processes on `machine`, and more in place of disturbed ones.

    `on_repetition` gets the measurement so far after each process, so that what was measured outlives an interruption.
    """
    raise NotImplementedError
