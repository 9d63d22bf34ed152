"""Measure a job on a machine: fresh processes one after the other, disturbed ones repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from edgeks.bench.local import MAX_RUNS, checked_session, result_of
from edgeks.bench.machine import Machine
from edgeks.bench.measurement import DeviceParity, Effort, Job, Measurement
from edgeks.bench.stream import BenchResult, OpTime
from edgeks.errors import DataError

MAX_PROCESSES = 1000
MAX_SECONDS = 24 * 3600
PROFILED_RUNS = 20
NOT_COMPARED = DeviceParity(None, "outputs were not compared")


@dataclass(frozen=True, slots=True)
class Progress:
    """`process` of `processes` (from 1) has done `runs` counted runs. `fraction` of the whole, 0 to 1."""

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

    `on_progress` is called about twice a second while inferences are timed. `on_repetition` gets the measurement so far
    after each process: what it keeps outlives an interruption, a lost link or a process that dies.

    Raises:
        ModelFileError, DataError, ConfigError: the file, inputs, options or counts are wrong.
        EdgeksError: a process was killed or crashed, or lacks the runtime.
        BoardError: the board cannot be reached, the link was lost, or something there is in the way.
    """
    series = Series(job, machine, effort)
    on_progress = forward(on_progress)
    while series.wants_more:
        series.run(len(series.repetitions) + 1, series.total, on_progress)
        if on_repetition:
            on_repetition(series.measurement())
    if effort.profile:
        series.profile()
        if on_repetition:
            on_repetition(series.measurement())
    return series.measurement()


def forward(on_progress: Callable[[Progress], None] | None) -> Callable[[Progress], None] | None:
    """The same, but its fraction never goes back: a disturbed process makes the whole longer."""
    if on_progress is None:
        return None
    told, most = on_progress, 0.0

    def tell(progress: Progress) -> None:
        nonlocal most
        most = max(most, progress.fraction)
        told(replace(progress, fraction=most))

    return tell


class Series:
    """The processes of one job on one machine so far."""

    def __init__(self, job: Job, machine: Machine, effort: Effort) -> None:
        """Check the job and the effort. Raises as `measure`."""
        for name, value, minimum, maximum in (
            ("processes", effort.processes, 1, MAX_PROCESSES),
            ("runs", effort.runs, 1, MAX_RUNS),
            ("seconds", effort.seconds, 0, MAX_SECONDS),
            ("warmup", effort.warmup or 0, 0, MAX_RUNS),
            ("repeats", effort.repeats, 0, MAX_PROCESSES),
        ):
            if not minimum <= value <= maximum:
                raise DataError(f"{name} is {value}; legal: {minimum} to {maximum}")
        self._job, self._machine, self._effort = job, machine, effort
        runtime, self._session = checked_session(job.path, job.target, job.runtime, job.threads)
        self._config: dict[str, Any] = {**self._session, "model": str(job.path.resolve()), "runtime": runtime}
        self._config.update(warmup=effort.warmup, runs=effort.runs, min_seconds=effort.seconds, pin=list(job.pin))
        if job.inputs is not None:
            self._config["inputs"] = str(job.inputs.resolve())
        self._machine_facts = machine.facts()
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._ops: tuple[OpTime, ...] | None = None
        self._ops_reason = "not asked for"
        self.repetitions: list[BenchResult] = []

    @property
    def total(self) -> int:
        """How many processes there will be if no more of them are disturbed."""
        disturbed = sum(bool(repetition.taints) for repetition in self.repetitions)
        return self._effort.processes + min(disturbed, self._effort.repeats)

    @property
    def wants_more(self) -> bool:
        """Whether processes are missing, or disturbed ones may be repeated."""
        return len(self.repetitions) < self.total

    def run(self, process: int, processes: int, on_progress: Callable[[Progress], None] | None = None) -> BenchResult:
        """One more process, called `process` of `processes` where progress is told. Raises as `measure`."""
        told = None
        if on_progress:
            on_progress(Progress(process, processes, 0, (process - 1) / processes))
            told = _fractions(process, processes, self._effort, on_progress)
        stream = self._machine.run(self._job.path, self._config, told)
        result = result_of(stream, self._job.path, self._job.target, self._session, self._job.pin)
        self.repetitions.append(result)
        if on_progress:
            on_progress(Progress(process, processes, len(result.samples_ms), process / processes))
        return result

    def profile(self) -> None:
        """One process that tells the time of each operator; asking slows it down, so it does not count."""
        runs = min(self._effort.runs, PROFILED_RUNS)
        config = {**self._config, "runs": runs, "min_seconds": 0, "profile": True}
        stream = self._machine.run(self._job.path, config)
        self._ops, self._ops_reason = stream.ops, stream.ops_reason

    def measurement(self) -> Measurement:
        """What there is so far."""
        return Measurement(
            job=self._job,
            effort=self._effort,
            machine=self._machine.name,
            is_emulated=self._machine.is_emulated,
            machine_facts=self._machine_facts,
            started=self._started,
            repetitions=tuple(self.repetitions),
            parity=NOT_COMPARED,
            ops=self._ops,
            ops_reason=self._ops_reason,
        )


def _fractions(
    process: int, processes: int, effort: Effort, on_progress: Callable[[Progress], None]
) -> Callable[[int], None]:
    """Counted runs so far → progress: of the slower of the asked runs and the asked seconds."""
    first: float | None = None

    def told(runs: int) -> None:
        nonlocal first
        if not runs:
            return
        now = time.monotonic()
        first = now if first is None else first
        of_seconds = (now - first) / effort.seconds if effort.seconds else 1.0
        done = min(1.0, runs / effort.runs, of_seconds)
        on_progress(Progress(process, processes, runs, (process - 1 + done) / processes))

    return told
