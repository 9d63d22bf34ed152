"""What latency samples say: percentiles by nearest rank, and none where there are too few samples for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per inference. A percentile is None where the samples are too few to tell it (see `percentile`)."""

    count: int
    mean_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """Nearest rank: the smallest sample that at least `percent` % of the samples do not exceed.

    None with fewer than 100 / (100 − percent) samples (p50: 2, p90: 10, p99: 100): the rank would be the maximum
    whatever the distribution.
    """
    if len(samples) * (100 - percent) < 100:
        return None
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


def summarise(samples: Sequence[float]) -> Latency:
    """At least one sample in milliseconds → Latency."""
    return Latency(
        count=len(samples),
        mean_ms=math.fsum(samples) / len(samples),
        min_ms=min(samples),
        max_ms=max(samples),
        p50_ms=percentile(samples, 50),
        p90_ms=percentile(samples, 90),
        p99_ms=percentile(samples, 99),
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def interval_of_p50(processes: Sequence[Sequence[float]]) -> Interval | None:
    """95 % interval of the p50 of a fresh process, in ms, from the samples of several; None with fewer than three."""
    raise NotImplementedError
