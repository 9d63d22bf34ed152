"""Percentiles are nearest ranks, absent where samples are too few; intervals hold the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeks.bench.stats import Interval, interval_of_p50, percentile, ratio_of_p50, student_t, summarise

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300)


def test_known_values():
    samples = [float(value) for value in range(1, 101)]
    assert [percentile(samples, p) for p in (50, 90, 99)] == [50.0, 90.0, 99.0]
    assert percentile([3.0, 1.0], 50) == 1.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


@pytest.mark.parametrize(("percent", "needed"), [(50, 2), (90, 10), (99, 100)])
def test_too_few_samples(percent, needed):
    assert percentile([1.0] * (needed - 1), percent) is None
    assert percentile([1.0] * needed, percent) == 1.0


@given(SAMPLES, st.sampled_from([50, 90, 99]))
def test_definition(samples, percent):
    value = percentile(samples, percent)
    if value is None:
        assert len(samples) * (100 - percent) < 100
        return
    reaches = [v for v in samples if 100 * sum(s <= v for s in samples) >= percent * len(samples)]
    assert value == min(reaches)


@given(SAMPLES)
def test_summary_is_in_order(samples):
    latency = summarise(samples)
    known = [v for v in (latency.min_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms) if v]
    assert known == sorted(known)
    assert latency.count == len(samples)
    assert latency.min_ms <= latency.mean_ms * (1 + 1e-12)
    assert latency.mean_ms <= latency.max_ms * (1 + 1e-12)


def streams(rng, processes=5, between=0.03, within=0.05, samples=50, p50=10.0):
    """Samples of processes that differ from each other as well as within, all around one p50."""
    return [p50 * np.exp(rng.normal(0, between) + rng.normal(0, within, samples)) for _ in range(processes)]


@pytest.mark.parametrize(
    ("freedom", "known"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (100, 1.9840)]
)
def test_students_t(freedom, known):
    assert student_t(freedom) == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize("processes", [3, 5])
@pytest.mark.parametrize(("between", "within"), [(0.05, 0.01), (0.02, 0.05)])
def test_95_of_100_intervals_hold_the_truth(processes, between, within):
    rng = np.random.default_rng(7)
    intervals = [interval_of_p50(streams(rng, processes, between, within)) for _ in range(150)]
    assert sum(interval.low <= 10.0 <= interval.high for interval in intervals) >= 0.92 * len(intervals)


def test_fewer_than_three_processes_have_no_interval():
    assert interval_of_p50([[1.0, 2.0], [1.0, 3.0]]) is None
    assert interval_of_p50([[1.0], [1.0], [1.0]]) == Interval(1.0, 1.0)


PROCESSES = st.lists(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30), min_size=3, max_size=8)


@given(PROCESSES, st.floats(1e-3, 1e3))
@settings(max_examples=40)
def test_an_interval_holds_p50_repeats_itself_and_scales(processes, factor):
    interval = interval_of_p50(processes)
    together = percentile([ms for samples in processes for ms in samples], 50)
    assert interval.low <= together <= interval.high
    assert interval == interval_of_p50(processes)
    scaled = interval_of_p50([[ms * factor for ms in samples] for samples in processes])
    assert (scaled.low, scaled.high) == pytest.approx((interval.low * factor, interval.high * factor), rel=1e-6)


def test_processes_that_differ_more_have_a_wider_interval():
    rng = np.random.default_rng(3)
    widths = []
    for between in (0.0, 0.02, 0.1):
        interval = interval_of_p50(streams(rng, between=between, within=0.01))
        widths.append(interval.high / interval.low)
    assert widths == sorted(widths)
    assert widths[2] > 2 * (widths[0] - 1) + 1


@given(PROCESSES, st.floats(0.1, 10.0))
@settings(max_examples=40)
def test_a_ratio_is_that_of_what_was_scaled(processes, factor):
    blocks = [(samples, [ms * factor for ms in samples]) for samples in processes]
    ratio, interval = ratio_of_p50(blocks)
    assert ratio == pytest.approx(factor)
    assert interval.low <= ratio <= interval.high
    back, reversed_interval = ratio_of_p50([(b, a) for a, b in blocks])
    assert back == pytest.approx(1 / factor)
    assert reversed_interval.low == pytest.approx(1 / interval.high, rel=1e-6)


def test_what_the_processes_of_a_block_have_in_common_cancels():
    """The machine is up to twice as slow in some blocks as in others; b is 5 % slower than a in each."""
    rng = np.random.default_rng(5)
    blocks = []
    for pace in (1.0, 2.0, 1.2, 1.7, 1.4):
        (a,), (b,) = (streams(rng, 1, 0.002, 0.02, p50=p50 * pace) for p50 in (10.0, 10.5))
        blocks.append((a, b))
    ratio, interval = ratio_of_p50(blocks)
    assert ratio == pytest.approx(1.05, rel=0.02)
    assert interval.low > 1
