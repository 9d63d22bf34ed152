"""Integer inputs and outputs: the same codes inside, no requantisation that does nothing."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import graph_of, normal, ops, run_graph

from edgeks.graph.passes.integer_io import Codes, chosen_codes, integer_io, known_codes
from edgeks.graph.passes.quantize_activations import Range

DTYPE = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}


def int8_layer(kind):
    """x → Q → DQ → Conv → Q → DQ → y, activations of `kind`."""
    zero = np.array({"uint8": 100, "int8": -28}[kind], kind)
    return graph_of(
        """(float[1,4,4,4] x) => (float[1,4,4,4] y) {
            xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) w = DequantizeLinear<axis=0>(W, sw)
            [conv] c = Conv(xd, w)
            yq = QuantizeLinear(c, t, z) y = DequantizeLinear(yq, t, z)
        }""",
        W=np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1)).astype(np.int8),
        sw=np.full(4, 0.01, np.float32),
        s=np.float32(0.05),
        t=np.float32(0.1),
        z=zero,
    )


@pytest.mark.parametrize("inside", ["int8", "uint8"])
@pytest.mark.parametrize("outside", ["int8", "uint8"])
def test_codes_that_the_graph_has_are_handed_out_unchanged(inside, outside):
    model = int8_layer(inside)
    x = 2 * normal(1, 4, 4, 4)
    expected = run_graph(model, x)[0]
    codes = known_codes(model, outside)
    zero_point = {"int8": -28, "uint8": 100}[outside]
    assert codes == {
        "x": Codes(outside, np.float32(0.05), zero_point),
        "y": Codes(outside, np.float32(0.1), zero_point),
    }
    note = integer_io(model, {"x": codes["x"]}, {"y": codes["y"]})
    assert "2 idle" in note if inside == outside else "0 idle" in note
    assert len(ops(model)) == (4 if inside == outside else 8)
    (taken,), (given,) = model.graph.inputs, model.graph.outputs
    assert (taken.name, taken.dtype, given.name, given.dtype) == ("x", DTYPE[outside], "y", DTYPE[outside])
    low, high = np.iinfo(outside).min, np.iinfo(outside).max
    fed = np.clip(np.rint(x / np.float32(0.05)) + zero_point, low, high).astype(outside)
    found = run_graph(model, fed)[0]
    assert found.dtype == outside
    np.testing.assert_array_equal((found.astype(np.float32) - zero_point) * np.float32(0.1), expected)


def test_what_the_graph_has_no_scale_for_takes_a_calibrated_one():
    model = graph_of("(float[1,4] x) => (float[1,3] y) { [head] y = Gemm<transB=1>(x, H) }", H=normal(3, 4))
    x = normal(1, 4)
    expected = run_graph(model, x)[0]
    assert known_codes(model, "int8") == {"x": None, "y": None}
    codes = chosen_codes(Range(-4, 4), "int8"), chosen_codes(Range(-9, 9), "int8")
    integer_io(model, {"x": codes[0]}, {"y": codes[1]})
    assert ops(model) == ["DequantizeLinear", "Gemm", "QuantizeLinear"]
    fed = np.rint(x / codes[0].scale + codes[0].zero_point).astype(np.int8)
    found = (run_graph(model, fed)[0].astype(np.float32) - codes[1].zero_point) * codes[1].scale
    np.testing.assert_allclose(found, expected, atol=0.2)


def test_outputs_that_are_no_floats_stay_as_they_are():
    model = graph_of(
        "(float[1,4] x) => (float[1,3] y, int64[1,1] k) { y = Gemm<transB=1>(x, H) k = ArgMax<axis=1>(y) }",
        H=normal(3, 4),
    )
    assert known_codes(model, "uint8") == {"x": None, "y": None}


def test_an_input_that_is_also_an_output():
    model = graph_of("(float[1,4] x) => (float[1,4] y) { y = Identity(x) }")
    codes = chosen_codes(Range(-1, 1), "int8")
    integer_io(model, {"x": codes}, {"y": codes})
    fed = np.array([[1, -2, 3, 127]], np.int8)
    np.testing.assert_array_equal(run_graph(model, fed)[0], fed)
