"""The arithmetic of layouts is what numpy does to memory."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeks.formats.tflite.layout import (
    after_transpose,
    channels_last,
    held_shape,
    inverse,
    plain,
    reshapable,
    same_memory,
    through_reshape,
)


@st.composite
def held(draw):
    """A Value, and the order in which a tensor holds it."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    x = np.arange(math.prod(shape)).reshape(shape)
    return x, tuple(draw(st.permutations(range(len(shape)))))


@st.composite
def reshaped(draw):
    """The same, and another shape of as many elements."""
    x, order = draw(held())
    after, left = [], x.size
    while left > 1 and len(after) < 4:
        factor = draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0]))
        after.append(factor)
        left //= factor
    return x, order, (*after, left)


@given(held())
def test_orders_are_numpy_s_transposes(case):
    x, order = case
    tensor = x.transpose(order)
    assert tensor.shape == held_shape(x.shape, order)
    assert np.array_equal(tensor.transpose(inverse(order)), x)


@given(held(), st.data())
def test_a_transpose_only_changes_the_order(case, data):
    x, order = case
    perm = data.draw(st.permutations(range(x.ndim)))
    assert np.array_equal(x.transpose(perm).transpose(after_transpose(order, perm)), x.transpose(order))


@given(held(), st.data())
def test_same_memory(case, data):
    x, order = case
    other = tuple(data.draw(st.permutations(range(x.ndim))))
    assert same_memory(x.shape, order, other) == np.array_equal(x.transpose(order).ravel(), x.transpose(other).ravel())


@given(reshaped())
def test_a_reshape_in_place_is_one_of_the_value(case):
    x, order, after = case
    found = through_reshape(order, x.shape, after)
    if found is not None:
        memory = x.transpose(order).ravel()
        assert np.array_equal(memory.reshape(held_shape(after, found)), x.reshape(after).transpose(found))
    else:
        memory = x.transpose(order).ravel()
        for candidate in (channels_last(len(after)), plain(len(after))):  # the ones that matter are not missed
            assert not np.array_equal(memory, x.reshape(after).transpose(candidate).ravel())


@given(reshaped())
def test_an_order_that_can_be_reshaped_is_found(case):
    x, order, after = case
    straight = reshapable(order, x.shape, after)
    assert sorted(straight) == list(range(x.ndim))
    assert through_reshape(straight, x.shape, after) is not None


def test_a_channel_shuffle_is_one_move():
    shape, groups = (1, 6, 4, 4), (1, 2, 3, 4, 4)
    order = through_reshape((0, 2, 3, 1), shape, groups)
    assert order == (0, 3, 4, 1, 2)  # the batch first, so that it may be resized: N×H×W×(2×3): in place
    swapped = after_transpose(order, (0, 2, 1, 3, 4))
    assert through_reshape(swapped, (1, 3, 2, 4, 4), shape) is None
    assert through_reshape(reshapable(swapped, (1, 3, 2, 4, 4), shape), (1, 3, 2, 4, 4), shape) == (0, 2, 3, 1)
