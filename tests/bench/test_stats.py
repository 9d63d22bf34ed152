"""Percentiles are nearest ranks, and absent where the samples are too few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeks.bench.stats import percentile, summarise

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
