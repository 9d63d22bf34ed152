"""What latency samples say: percentiles by nearest rank, and 95 % intervals by bootstrap over fresh processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_PROCESSES = 3  # that tell how processes differ from each other
RESAMPLES = 2000


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


def interval_of_p50(processes: Sequence[Sequence[float]], seed: int = 0) -> Interval | None:
    """95 % interval of the p50 of a fresh process, in ms, from the samples of several; None with fewer than three.

    It is that of the geometric mean of the processes' p50, and is widened where the p50 of all samples together lies
    outside.
    """
    if len(processes) < FEWEST_PROCESSES:
        return None
    rng = np.random.default_rng(seed)
    centre, half = _mean_and_half_width(
        np.array([_log_p50(samples) for samples in processes]),
        np.stack([_resampled_log_p50(samples, rng) for samples in processes]),
        rng,
    )
    reported = percentile([ms for samples in processes for ms in samples], 50) or math.exp(centre)
    return Interval(min(math.exp(centre - half), reported), max(math.exp(centre + half), reported))


def ratio_of_p50(blocks: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0) -> tuple[float, Interval]:
    """Three blocks or more (samples of a process of a, samples of one of b) → ratio of p50 b : a, its 95 % interval.

    The ratio is the geometric mean of the blocks' ratios: what a block's two processes have in common (the machine
    warms up, others come and go) cancels.
    """
    rng = np.random.default_rng(seed)
    logs = np.array([_log_p50(b) - _log_p50(a) for a, b in blocks])
    resampled = np.stack([_resampled_log_p50(b, rng) - _resampled_log_p50(a, rng) for a, b in blocks])
    centre, half = _mean_and_half_width(logs, resampled, rng)
    return math.exp(centre), Interval(math.exp(centre - half), math.exp(centre + half))


def _log_p50(samples: Sequence[float]) -> float:
    return math.log(sorted(samples)[math.ceil(len(samples) / 2) - 1])


def _resampled_log_p50(samples: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """log p50 of `RESAMPLES` resamples, without drawing them: the k-th of n uniform draws is Beta(k, n−k+1)."""
    n, k = len(samples), math.ceil(len(samples) / 2)
    ranks = (rng.beta(k, n - k + 1, RESAMPLES) * n).astype(np.intp).clip(0, n - 1)
    resampled: NDArray[np.float64] = np.log(np.sort(np.asarray(samples, np.float64)))[ranks]
    return resampled


def _mean_and_half_width(
    values: NDArray[np.float64], resampled: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float]:
    """Mean of n values and half the width of its 95 % interval, by a hierarchical bootstrap.

    Each resample draws n processes, and for each of them one of its `resampled` values (n × RESAMPLES). Percentiles of
    the resamples are far too narrow for so few processes. So the bootstrap gives the standard error, freed of its bias
    by √(n/(n−1)), and Student's t how many of them there are on each side: Hesterberg, arXiv 1411.5279.
    """
    n = len(values)
    drawn = rng.integers(n, size=(RESAMPLES, n)), rng.integers(RESAMPLES, size=(RESAMPLES, n))
    error = float(resampled[drawn].mean(axis=1).std()) * math.sqrt(n / (n - 1))
    return float(values.mean()), student_t(n - 1) * error


def student_t(freedom: int, probability: float = 0.975) -> float:
    """Quantile of Student's t with whole degrees of freedom: Abramowitz & Stegun 26.7.3 and 26.7.4, bisected."""
    low, high = 0.0, 1e3
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if (1 + _between(middle, freedom)) / 2 < probability else (low, middle)
    return high


def _between(t: float, freedom: int) -> float:
    """Probability of |T| < t."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(3 if odd else 2, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
