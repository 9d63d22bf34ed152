"""Compare two jobs: blocks of one process of each in random order, and the ratio of their p50 with its interval."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from edgeks.bench.machine import Machine
from edgeks.bench.measure import Progress, Series, forward
from edgeks.bench.measurement import Comparison, Effort, Job, Measurement, Verdict
from edgeks.bench.stats import FEWEST_PROCESSES, Interval, ratio_of_p50
from edgeks.bench.stream import BenchResult
from edgeks.bench.validity import summarised
from edgeks.errors import DataError

Order = Literal["ab", "ba"]


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
    """`b` against `a` in `effort.processes` blocks, at least three, and more in place of disturbed ones.

    Who is first is drawn with `seed`, each of the two about as often. `on_repetition` gets both measurements so far
    after each process: what it keeps outlives an interruption.

    Raises:
        DataError: fewer than three processes were asked for; as `measure`.
        ModelFileError, ConfigError, EdgeksError, BoardError: as `measure`.
    """
    if effort.processes < FEWEST_PROCESSES:
        raise DataError(f"processes is {effort.processes}; a comparison needs {FEWEST_PROCESSES} or more")
    rng = random.Random(seed)  # noqa: S311
    series = {"a": Series(a, machine_a, effort), "b": Series(b, machine_b, effort)}
    on_progress = forward(on_progress)
    turns: list[Order] = []
    upcoming: list[Order] = []
    while len(turns) < (total := effort.processes + min(_disturbed(_blocks(series)), effort.repeats)):
        upcoming = upcoming or _drawn(total - len(turns), rng)
        turns.append(upcoming.pop())
        for place, name in enumerate(turns[-1]):
            series[name].run(2 * len(turns) - 1 + place, 2 * total, on_progress)
            if on_repetition:
                on_repetition(series["a"].measurement(), series["b"].measurement())
    if effort.profile:
        for each in series.values():
            each.profile()
    return compared(series["a"].measurement(), series["b"].measurement(), turns, seed)


def compared(a: Measurement, b: Measurement, order: Sequence[Order] = (), seed: int = 0) -> Comparison:
    """Measurements whose processes ran in blocks → ratio, interval and verdict.

    Raises:
        DataError: fewer than three blocks, or blocks that are not whole.
    """
    if not FEWEST_PROCESSES <= len(a.repetitions) == len(b.repetitions):
        counts = f"{len(a.repetitions)} and {len(b.repetitions)} processes"
        raise DataError(f"{counts} cannot be compared; legal: {FEWEST_PROCESSES} or more of each, and equally many")
    blocks = list(zip(a.repetitions, b.repetitions, strict=True))
    undisturbed = [block for block in blocks if not _taints(block)]
    enough = len(undisturbed) >= FEWEST_PROCESSES
    counted = undisturbed if enough else blocks
    ratio, interval = ratio_of_p50([(one.samples_ms, other.samples_ms) for one, other in counted])
    reasons = () if enough else summarised([each.taints for each in (*a.repetitions, *b.repetitions)])
    return Comparison(a, b, ratio, interval, verdict(interval), tuple(order), seed, reasons)


def verdict(interval: Interval) -> Verdict:
    """Interval of the ratio b : a → what b is, beside a: 1 inside of it shows nothing."""
    if interval.high < 1:
        return "faster"
    return "slower" if interval.low > 1 else "no difference shown"


def _blocks(series: dict[str, Series]) -> list[tuple[BenchResult, BenchResult]]:
    return list(zip(series["a"].repetitions, series["b"].repetitions, strict=True))


def _disturbed(blocks: Sequence[tuple[BenchResult, BenchResult]]) -> int:
    return sum(bool(_taints(block)) for block in blocks)


def _taints(block: tuple[BenchResult, BenchResult]) -> tuple[str, ...]:
    a, b = block
    return (*a.taints, *b.taints)


def _drawn(count: int, rng: random.Random) -> list[Order]:
    """`count` turns in random order, half of them each way; an odd one as drawn."""
    both: list[Order] = ["ab", "ba"]
    turns = both * (count // 2) + [rng.choice(both)] * (count % 2)
    rng.shuffle(turns)
    return turns
