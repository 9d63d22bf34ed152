"""SAME where TFLite's SAME is the window's own padding, and only there."""

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from edgeks.formats.tflite.ops.windows import Window, is_same, window

PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))
PADS = st.tuples(st.integers(0, 3), st.integers(0, 3))


def starts(size, low, high, reach, stride):
    """Where windows begin, by the padding as it is written."""
    return np.arange(0, size + low + high - reach + 1, stride) - low


def same_starts(size, reach, stride):
    """Where TFLite's SAME lets them begin: ⌈size/stride⌉ windows, the smaller half of the padding before."""
    count = -(-size // stride)
    total = max((count - 1) * stride + reach - size, 0)
    return np.arange(count) * stride - total // 2


@given(PAIRS, PAIRS, PAIRS, st.tuples(PADS, PADS), st.tuples(st.integers(4, 12), st.integers(4, 12)))
def test_same_is_said_where_all_windows_begin_there(kernel, strides, dilations, pads, sizes):
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    by_axis = [
        (starts(size, *pad, r, s), same_starts(size, r, s))
        for size, pad, r, s in zip(sizes, pads, reach, strides, strict=True)
    ]
    wanted = all(np.array_equal(own, same) for own, same in by_axis)
    assert is_same(Window(kernel, strides, dilations, pads), sizes) == wanted


@given(PAIRS, PAIRS, PAIRS, st.tuples(st.integers(4, 12), st.integers(4, 12)), st.booleans())
def test_automatic_padding_is_tflite_s_or_its_mirror(kernel, strides, dilations, sizes, upper):
    node = ir.node("Conv", [], attributes={
        "strides": strides, "dilations": dilations, "auto_pad": "SAME_UPPER" if upper else "SAME_LOWER",
    })  # fmt: skip
    found = window(node, kernel, sizes)
    assert all((low <= high) if upper else (low >= high) for low, high in found.pads)
    assert is_same(found, sizes) == (upper or all(low == high for low, high in found.pads))
