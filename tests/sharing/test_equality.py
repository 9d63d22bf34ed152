"""Copies of a kernel are found through any per-channel factor and rounding; unrelated kernels never match."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeks.sharing.equality import copy_sets, equal_up_to_factor

SHAPES = [(8, 1, 3, 3), (16, 16, 3, 3), (32, 8, 1, 1), (64, 2, 1, 1), (1, 1, 9, 9), (4, 12), (128, 1, 9, 9), (24, 5, 3)]


def quantise(kernel, limit=127):
    """Symmetric, per output channel: round(W/s), |code| ≤ limit, as every toolchain does after folding."""
    largest = np.abs(kernel).reshape(len(kernel), -1).max(axis=1)
    scale = np.where(largest == 0, 1, largest / limit).reshape(-1, *[1] * (kernel.ndim - 1))
    return np.rint(kernel / scale).astype(np.int8)


def folded(kernel, rng, signs=True):
    """conv → BN folded the usual way: a_l·W, random gammas of both signs."""
    gamma = rng.uniform(0.05, 3.0, len(kernel)) * (rng.choice([-1, 1], len(kernel)) if signs else 1)
    return (kernel * gamma.reshape(-1, *[1] * (kernel.ndim - 1))).astype(kernel.dtype)


kernels = st.tuples(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace"]))


@settings(max_examples=60, deadline=None)
@given(kernels)
def test_bn_folded_copies_match_in_fp32_and_after_int8_quantisation(case):
    shape, seed, law = case
    rng = np.random.default_rng(seed)
    kernel = getattr(rng, law)(size=shape).astype(np.float32)
    first, second = folded(kernel, rng), folded(kernel, rng)
    assert equal_up_to_factor(first, second)
    if shape[0] > 1:  # one channel with few taps, rounded to int8, may be too little to tell from chance
        assert equal_up_to_factor(quantise(first), quantise(second))
        assert equal_up_to_factor(kernel, quantise(second))
    assert copy_sets([first, second]) == [(0, 1)]


@settings(max_examples=60, deadline=None)
@given(kernels)
def test_unrelated_kernels_do_not_match(case):
    shape, seed, law = case
    rng = np.random.default_rng(seed)
    many = [getattr(rng, law)(size=shape).astype(np.float32) for _ in range(6)]
    assert copy_sets(many) == []
    assert copy_sets([quantise(kernel) for kernel in many]) == []


def test_a_thousand_random_depthwise_kernels_hold_no_pair():
    rng = np.random.default_rng(3)
    codes = [quantise(rng.standard_normal((4, 1, 3, 3)).astype(np.float32)) for _ in range(1000)]
    assert copy_sets(codes) == []


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_coarse_codes_are_no_evidence(limit):
    rng = np.random.default_rng(4)
    codes = [quantise(rng.standard_normal((2, 1, 2, 2)).astype(np.float32), limit) for _ in range(20)]
    for a in range(20):
        for b in range(a):
            assert equal_up_to_factor(codes[a], codes[b]) == np.array_equal(codes[a], codes[b])


def test_codes_that_differ_by_one_match_and_by_many_do_not():
    rng = np.random.default_rng(5)
    codes = quantise(rng.standard_normal((64, 64, 3, 3)).astype(np.float32))
    off_by_one = codes.copy()
    off_by_one.reshape(-1)[::5000] -= np.sign(off_by_one.reshape(-1)[::5000])
    assert equal_up_to_factor(codes, off_by_one)
    retrained = quantise(codes + rng.normal(0, 12, codes.shape))
    assert not equal_up_to_factor(codes, retrained)


def test_one_tap_per_channel_counts_only_when_exactly_equal():
    rng = np.random.default_rng(6)
    kernel = rng.standard_normal((32, 1, 1, 1)).astype(np.float32)
    assert not equal_up_to_factor(kernel, 2 * kernel)
    assert copy_sets([kernel, 2 * kernel, kernel.copy(), kernel.astype(np.float16)]) == [(0, 2)]


def test_zero_channels_are_no_evidence_but_do_not_hide_a_copy():
    rng = np.random.default_rng(7)
    kernel = rng.standard_normal((16, 4, 3, 3)).astype(np.float32)
    copy = folded(kernel, rng)
    copy[3] = 0  # gamma is 0 there
    assert equal_up_to_factor(kernel, copy)
    assert equal_up_to_factor(quantise(kernel), quantise(copy))
    assert not equal_up_to_factor(kernel, np.zeros_like(kernel))
    mostly_dead = kernel * (np.arange(16) < 3).reshape(-1, 1, 1, 1).astype(np.float32)
    assert not equal_up_to_factor(kernel, mostly_dead)


def test_one_changed_channel_is_another_kernel():
    rng = np.random.default_rng(8)
    kernel = rng.standard_normal((16, 4, 3, 3)).astype(np.float32)
    other = kernel.copy()
    other[15] = rng.standard_normal((4, 3, 3))
    assert not equal_up_to_factor(kernel, other)


def test_sets_span_data_types_and_keep_shapes_apart():
    rng = np.random.default_rng(9)
    first, second = (rng.standard_normal((8, 4, 3, 3)).astype(np.float32) for _ in range(2))
    arrays = [first, second, folded(first, rng), first.reshape(8, 36), quantise(folded(second, rng)), quantise(first)]
    assert copy_sets(arrays) == [(0, 2, 5), (1, 4)]
    half = folded(first, rng).astype(np.float16)
    assert equal_up_to_factor(first, half)


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), True),
        (np.full((2, 3), np.nan, np.float32), np.full((2, 3), np.nan, np.float32), True),
        (np.full((2, 3), np.inf, np.float32), np.ones((2, 3), np.float32), False),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), True),
        (np.array(1.0), np.array(1.0), True),
        (np.array(["a"]), np.array(["b"]), False),
        (np.full((8, 9), 1e-30, np.float32), np.full((8, 9), 3e-30, np.float32), True),
        (np.ones((2, 3)), np.ones((3, 2)), False),
    ],
)
def test_odd_values(first, second, equal):
    assert equal_up_to_factor(first, second) is equal
