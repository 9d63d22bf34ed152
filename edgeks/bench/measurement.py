"""What a benchmark is asked for, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeks.bench.stats import FEWEST_PROCESSES, Interval, Latency, interval_of_p50, summarise
from edgeks.bench.stream import BenchResult, OpTime
from edgeks.bench.validity import summarised
from edgeks.parity import Parity
from edgeks.target import Target
from edgeks.wording import counted

Verdict = Literal["faster", "slower", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Job:
    """One way to run one file. `target` carries the session options; `pin` are the cores to stay on (none: any)."""

    path: Path
    target: Target
    runtime: str
    threads: int
    pin: tuple[int, ...] = ()
    inputs: Path | None = None

    @property
    def name(self) -> str:
        """For people: what differs between two jobs is in it."""
        many = counted(self.threads, "thread")
        return f"{self.path.name}, {self.runtime}, {many}"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: per process at least `runs` and `seconds`; `processes` fresh ones.

    `warmup` None: until latency is stable. `repeats`: how many more processes may be run in place of disturbed ones.
    `profile`: one process more, which tells the time of each operator and does not count.
    """

    processes: int = 5
    runs: int = 50
    seconds: float = 1.0
    warmup: int | None = None
    repeats: int = 0
    profile: bool = False


QUICK = Effort(processes=3, runs=10, seconds=0.2)
MLPERF = Effort(processes=3, runs=1024, seconds=60.0)  # the single-stream scenario's least samples and seconds
PRESETS = {"default": Effort(), "quick": QUICK, "mlperf": MLPERF}


@dataclass(frozen=True, slots=True)
class DeviceParity:
    """Outputs on the device against this machine's reference arithmetic, or why they were not compared."""

    parity: Parity | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A job on one machine. `repetitions` are the fresh processes in the order they ran, disturbed ones included.

    `machine` is "local" or the host's name, `machine_facts` what doctor knows of it. `started` is ISO 8601, UTC.
    """

    job: Job
    effort: Effort
    machine: str
    is_emulated: bool
    machine_facts: dict[str, Any]
    started: str
    repetitions: tuple[BenchResult, ...]
    parity: DeviceParity
    ops: tuple[OpTime, ...] | None = None
    ops_reason: str = ""

    @property
    def valid(self) -> tuple[BenchResult, ...]:
        """Repetitions that nothing disturbed."""
        return tuple(repetition for repetition in self.repetitions if not repetition.taints)

    @property
    def taints(self) -> tuple[str, ...]:
        """Why the measurement is invalid: each reason, and in how many processes. Empty: enough undisturbed ones.

        Enough are as many as were asked for, at most three of them: so many give an interval.
        """
        if len(self.valid) >= min(self.effort.processes, FEWEST_PROCESSES):
            return ()
        return summarised([repetition.taints for repetition in self.repetitions])

    @property
    def latency(self) -> Latency:
        """Of all samples of the undisturbed processes; of all processes where none was undisturbed."""
        counted = self.valid or self.repetitions
        return summarise([ms for repetition in counted for ms in repetition.samples_ms])

    @property
    def p50_interval(self) -> Interval | None:
        """95 % confidence interval of p50, by bootstrap over processes; None with fewer than three."""
        return interval_of_p50([repetition.samples_ms for repetition in self.valid or self.repetitions])


@dataclass(frozen=True, slots=True)
class Comparison:
    """`b` against `a`, in blocks of one process of each in random order.

    `ratio` is the geometric mean of the blocks' ratios of p50, b : a, with its 95 % interval. `order` says which was
    first in each block, "ab" or "ba", as drawn with `seed`; the processes of block i are `a.repetitions[i]` and
    `b.repetitions[i]`. A block with a disturbed process does not count where three undisturbed ones are left; else all
    count, and `taints` say why the comparison is invalid.
    """

    a: Measurement
    b: Measurement
    ratio: float
    interval: Interval
    verdict: Verdict
    order: tuple[Literal["ab", "ba"], ...] = ()
    seed: int = 0
    taints: tuple[str, ...] = ()
