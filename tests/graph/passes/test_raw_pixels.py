"""Raw pixels in: the same function of the same image, with the normalisation inside the graph."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph

from edgeks.graph.passes.quantize_activations import Range
from edgeks.graph.passes.raw_pixels import pixel_ranges, raw_pixels
from edgeks.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(4, 6, 6, (0.5, 0.1, 0.9, 0.4), (0.25, 0.1, 0.3, 0.5), ("a", "b"))
PIXELS = np.random.default_rng(1).integers(0, 256, (1, 4, 6, 6), dtype=np.uint8)


def same_function(text, **constants):
    """The graph before on the normalised image and after on the pixels → the graph after, and its ledger note."""
    model = graph_of(text, **constants)
    expected = run_graph(model, PREPROCESSING.normalise(PIXELS))
    note = raw_pixels(model, PREPROCESSING)
    taken = model.graph.inputs[0]
    assert (taken.name, taken.dtype, list(taken.shape)) == ("x", ir.DataType.UINT8, [1, 4, 6, 6])
    for found, wanted in zip(run_graph(model, PIXELS), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6 * max(1, np.abs(wanted).max()))
    return model, note


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("attributes", ["", ", strides=[2,2]", ", dilations=[2,2]", ', auto_pad="VALID"'])
def test_folded_into_a_stem_without_padding(groups, bias, attributes):
    constants = {"W": normal(8, 4 // groups, 2, 2)} | ({"b": normal(8, seed=1)} if bias else {})
    model, note = same_function(
        f"(float[1,4,6,6] x) => (float[n,c,h,w] y) {{ [stem] y = Conv<group={groups}{attributes}>(x, W{bias}) }}",
        **constants,
    )
    assert ops(model) == ["DequantizeLinear", "Conv"]
    assert note == "normalisation of raw pixels folded into stem"
    assert node_of(model, "stem").inputs[1].name == "W"


NOT_FOLDED = {
    "zero padding": "(float[1,4,6,6] x) => (float[1,4,6,6] y) { [stem] y = Conv<pads=[1,1,1,1]>(x, K) }",
    "auto_pad": '(float[1,4,6,6] x) => (float[1,4,6,6] y) { [stem] y = Conv<auto_pad="SAME_UPPER">(x, K) }',
    "shared kernel": "(float[1,4,6,6] x) => (float[1,4,2,2] y) { [stem] c = Conv(x, K) [conv] y = Conv(c, K) }",
    "no convolution": "(float[1,4,6,6] x) => (float[1,4,6,6] y) { [act] y = Relu(x) }",
    "another reader": "(float[1,4,6,6] x) => (float[1,4,6,6] y) { [stem] c = Conv(x, P) [add] y = Add(c, x) }",
    "also an output": "(float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z) { [s] y = Conv(x, P) z = Relu(x) }",
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_normalised_in_float_wherever_folding_is_not_exact(name):
    constants = {"K": normal(4, 4, 3, 3), "P": normal(4, 4, 1, 1)}
    used = {key: value for key, value in constants.items() if f" {key})" in NOT_FOLDED[name]}
    model, note = same_function(NOT_FOLDED[name], **used)
    assert ops(model)[:3] == ["DequantizeLinear", "Mul", "Add"]
    assert note == "normalisation of raw pixels as Mul and Add in float"
    for key, value in used.items():
        np.testing.assert_array_equal(constant(model.graph.initializers[key]), value)


def test_two_stems_that_each_own_their_kernel_are_both_folded():
    model, note = same_function(
        "(float[1,4,6,6] x) => (float[1,4,6,6] y) { [s1] a = Conv(x, K) [s2] b = Conv(x, P) [add] y = Add(a, b) }",
        K=normal(4, 4, 1, 1),
        P=normal(4, 4, 1, 1, seed=1),
    )
    assert note.endswith("s1, s2") and ops(model)[0] == "DequantizeLinear" and "Mul" not in ops(model)


def test_pixels_have_the_range_of_all_bytes_whatever_the_samples_show():
    model = graph_of("(float[1,4,6,6] x) => (float[1,4,6,6] y) { [stem] y = Conv(x, P) }", P=normal(4, 4, 1, 1))
    assert pixel_ranges(model) == {}
    raw_pixels(model, PREPROCESSING)
    ((name, seen),) = pixel_ranges(model).items()
    assert name == node_of(model, "stem").inputs[0].name
    assert seen == Range(0.0, 1.0)
    assert seen.parameters("uint8") == (np.float32(1 / 255), 0)  # the codes are the bytes
    assert seen.parameters("int8") == (np.float32(1 / 255), -128)
