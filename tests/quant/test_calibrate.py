"""Ranges are what the float graph gives on the samples."""

import numpy as np
import pytest
from onnx_text import graph_of, normal

from edgeks.errors import DataError
from edgeks.quant.calibrate import calibrate

TEXT = "(float[1,3,4,4] x) => (float[1,3,4,4] y) { [a] h = Exp(x) [b] y = Neg(h) }"


def test_ranges_of_input_inner_value_and_output():
    samples = normal(7, 3, 4, 4)
    ranges = calibrate(graph_of(TEXT), ["x", "h", "y"], samples)
    assert list(ranges) == ["x", "h", "y"]
    expected = {"x": samples, "h": np.exp(samples), "y": -np.exp(samples)}
    for name, values in expected.items():
        assert (ranges[name].low, ranges[name].high) == pytest.approx((values.min(), values.max()), rel=1e-6)


def test_every_sample_counts():
    samples = np.zeros((5, 3, 4, 4), np.float32)
    samples[4, 2, 3, 3] = 9
    assert calibrate(graph_of(TEXT), ["x"], samples)["x"].high == 9


@pytest.mark.parametrize("position", [0, 2, 4], ids=["first", "middle", "last"])
@pytest.mark.parametrize("value", [np.nan, 1000.0], ids=["NaN", "overflow"])
def test_a_value_that_is_not_finite_in_any_sample_is_named(position, value):
    samples = normal(5, 3, 4, 4)
    samples[position, 0, 0, 0] = value
    with pytest.raises(DataError, match="'h' is not finite"):
        calibrate(graph_of(TEXT), ["h"], samples)


def test_no_names_no_ranges():
    assert calibrate(graph_of(TEXT), [], normal(2, 3, 4, 4)) == {}
