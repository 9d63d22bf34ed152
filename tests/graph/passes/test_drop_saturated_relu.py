"""Relu and Clip go where the QuantizeLinear behind them saturates at the same bounds, and only there."""

import numpy as np
import pytest
from onnx_text import graph_of, normal, ops, run_graph

from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu


def activation(op, scale, zero_point, dtype=np.int8, more="", outputs="float[1,64] y"):
    return graph_of(
        f"""(float[1,64] x) => ({outputs}) {{
            [act] a = {op}
            [quantise] q = QuantizeLinear(a, s, z)
            [dequantise] y = DequantizeLinear(q, s, z)
            {more}
        }}""",
        s=np.float32(scale),
        z=np.array(zero_point, dtype),
        zero=np.float32(0),
        six=np.float32(6),
        minus_one=np.float32(-1),
        one=np.float32(1),
    )


@pytest.mark.parametrize(
    ("op", "scale", "zero_point", "dtype"),
    [
        ("Relu(x)", 0.02, -128, np.int8),
        ("Relu(x)", 0.02, 0, np.uint8),
        ("Clip(x, zero, six)", 6 / 255, -128, np.int8),
        ("Clip(x, zero, six)", 4 / 255, 0, np.uint8),
        ("Clip(x, zero)", 1.0, -128, np.int8),
        ("Clip(x)", 1.0, 3, np.int8),
    ],
)
def test_dropped_and_the_function_stays(op, scale, zero_point, dtype):
    model = activation(op, scale, zero_point, dtype)
    x = 4 * normal(1, 64)
    before = run_graph(model, x)[0]
    assert drop_saturated_relu(model) == "1 Relu/Clip done by saturation"
    assert ops(model) == ["QuantizeLinear", "DequantizeLinear"]
    np.testing.assert_array_equal(run_graph(model, x)[0], before)


@pytest.mark.parametrize(
    ("op", "scale", "zero_point"),
    [
        ("Relu(x)", 0.02, -127),
        ("Relu(x)", 0.02, 0),
        ("Clip(x, zero, six)", 6.1 / 255, -128),
        ("Clip(x, zero, six)", 3 / 255, -120),
        ("Clip(x, minus_one, one)", 2.1 / 255, 0),
        ("Sigmoid(x)", 1 / 255, -128),
    ],
)
def test_kept_where_the_integers_reach_further(op, scale, zero_point):
    model = activation(op, scale, zero_point)
    assert drop_saturated_relu(model).startswith("0 ")
    assert len(ops(model)) == 3


@pytest.mark.parametrize("zero_point", [-1, 0])
def test_a_bound_between_two_codes_is_as_good_as_either(zero_point):
    """hardtanh: neither −1 nor 1 is a code, and a Clip that stays keeps the convolution before it in float."""
    model = activation("Clip(x, minus_one, one)", 2 / 255, zero_point)
    x = 4 * normal(1, 64)
    assert drop_saturated_relu(model).startswith("1 ")
    assert np.abs(run_graph(model, x)[0] - x.clip(-1, 1)).max() <= 0.501 * 2 / 255


@pytest.mark.parametrize(
    ("more", "outputs"),
    [("", "float[1,64] y, float[1,64] a"), ("[other] t = Tanh(a)", "float[1,64] y, float[1,64] t")],
    ids=["a graph output", "a second reader"],
)
def test_kept_where_something_else_reads_it(more, outputs):
    model = activation("Relu(x)", 0.02, -128, more=more, outputs=outputs)
    x = normal(1, 64)
    before = run_graph(model, x)[1]
    assert drop_saturated_relu(model).startswith("0 ")
    np.testing.assert_array_equal(run_graph(model, x)[1], before)


def test_a_bound_that_is_computed_is_kept():
    model = graph_of(
        """(float[1,64] x, float top) => (float[1,64] y) {
            [act] a = Clip(x, zero, top)
            [quantise] q = QuantizeLinear(a, s, z)
            [dequantise] y = DequantizeLinear(q, s, z)
        }""",
        s=np.float32(0.02),
        z=np.array(-128, np.int8),
        zero=np.float32(0),
    )
    assert drop_saturated_relu(model).startswith("0 ")
