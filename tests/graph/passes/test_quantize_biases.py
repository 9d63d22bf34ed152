"""int32 biases in the layer's own scale: distinct per layer, never out of int32."""

import numpy as np
import pytest
from onnx_text import constant, graph_of, node_of, normal, run_graph

from edgeks.graph.passes.quantize_biases import MAX_BIAS, quantize_biases

LAYER = """{{
    [q0] xq = QuantizeLinear(x, s0, z)
    [dq0] x0 = DequantizeLinear(xq, s0, z)
    [w1] k1 = DequantizeLinear<axis=0>(K, sw1)
    [conv1] c1 = Conv(x0, k1, bias)
    [q1] cq = QuantizeLinear(c1, s1, z)
    [dq1] x1 = DequantizeLinear(cq, s1, z)
    [w2] k2 = DequantizeLinear<axis=0>(K, sw2)
    [conv2] y = Conv(x1, k2, bias)
}}"""
KERNEL = np.random.default_rng(0).integers(-127, 128, (4, 4, 1, 1)).astype(np.int8)


def two_layers(bias, scale_1, scale_2=(0.01, 0.01, 0.01, 0.01)):
    return graph_of(
        "(float[1,4,3,3] x) => (float[1,4,3,3] y) " + LAYER.format(),
        K=KERNEL,
        s0=np.float32(0.02),
        s1=np.float32(0.05),
        z=np.array(3, np.int8),
        sw1=np.array(scale_1, np.float32),
        sw2=np.array(scale_2, np.float32),
        bias=np.array(bias, np.float32),
    )


def bias_of(model, name):
    """codes, scale, and the product of the scales that the runtime multiplies."""
    node = node_of(model, name)
    dequantize = node.inputs[2].producer()
    codes, scale = (constant(value) for value in dequantize.inputs[:2])
    input_scale = constant(node.inputs[0].producer().inputs[1])
    return codes, scale, input_scale * constant(node.inputs[1].producer().inputs[1])


def test_a_tied_float_bias_becomes_one_int32_bias_per_layer():
    model = two_layers([1, -2, 0.5, 0], [0.01, 0.02, -0.03, 0.01])
    x = normal(1, 4, 3, 3)
    before = run_graph(model, x)[0]
    assert quantize_biases(model) == "2 int32 biases"
    assert "bias" not in model.graph.initializers
    first, second = bias_of(model, "conv1"), bias_of(model, "conv2")
    assert not np.array_equal(first[0], second[0])
    for codes, scale, product in (first, second):
        assert codes.dtype == np.int32
        np.testing.assert_array_equal(scale, product)
        np.testing.assert_array_equal(codes, np.rint(np.array([1, -2, 0.5, 0]) / scale.astype(np.float64)))
    np.testing.assert_allclose(run_graph(model, x)[0], before, atol=0.06)


@pytest.mark.parametrize("gain", [0.0, -0.0, 1e-25, -1e-25, 1e-12])
def test_a_channel_without_gain_still_gives_its_bias_and_stays_in_int32(gain):
    bias = np.array([1, -2, 0.5, 0], np.float32)
    model = two_layers(bias, [gain, gain, 0.01, gain])
    raised = 2 if gain else 3  # a bias of 0 fits any scale that is not 0 itself
    assert quantize_biases(model) == f"2 int32 biases, weight scale raised in {raised} channels of near-zero gain"
    codes, scale, product = bias_of(model, "conv1")
    np.testing.assert_array_equal(scale, product)
    assert (np.abs(codes.astype(np.int64)) <= MAX_BIAS * 1.001).all()
    assert (np.sign(product) == np.sign([gain or np.copysign(1, gain)] * 2 + [1, gain or np.copysign(1, gain)])).all()
    np.testing.assert_allclose(codes * scale.astype(np.float64), bias, rtol=1e-6, atol=1e-4)
    model.graph.outputs[0] = node_of(model, "conv1").outputs[0]
    out = run_graph(model, normal(1, 4, 3, 3))[0]
    np.testing.assert_allclose(out[:, 0], 1, atol=1e-3)
    np.testing.assert_allclose(out[:, 1], -2, atol=1e-3)


def test_the_raised_scale_belongs_to_one_layer():
    model = two_layers([1, 1, 1, 1], [1e-25, 1, 1, 1])
    node_of(model, "w2").replace_input_with(1, node_of(model, "w1").inputs[1])
    quantize_biases(model)
    first, second = (node_of(model, name).inputs[1] for name in ("w1", "w2"))
    assert first is not second


def test_a_layer_with_float_input_keeps_its_float_bias():
    model = graph_of(
        """(float[1,4,3,3] x) => (float[1,4,3,3] y) {
            [w1] k1 = DequantizeLinear<axis=0>(K, s)
            [conv1] y = Conv(x, k1, bias)
        }""",
        K=KERNEL,
        s=np.full(4, 0.01, np.float32),
        bias=normal(4),
    )
    assert quantize_biases(model) == "0 int32 biases"
    assert node_of(model, "conv1").inputs[2].name == "bias"
