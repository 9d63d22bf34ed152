"""Quantize(Conv(DQ x, DQ W, DQ b)) → QLinearConv, which reads the one int8 kernel directly."""

import numpy as np
import pytest
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph, two_convs_with_norms

from edgeks.graph.kernels import readers
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu
from edgeks.graph.passes.quantize_activations import Range, place_activations, quantize_activations
from edgeks.graph.passes.quantize_biases import quantize_biases
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.to_qoperator import to_qoperator


def int8_graph(model, weights="int8", activations="int8"):
    quantize_kernels(model, weights)
    absorb_batch_norm(model)
    placement = place_activations(model)
    ranges = {str(v.name): Range(0.0 if str(v.name).startswith("r") else -6.0, 6.0) for v in placement.ranged}
    quantize_activations(model, placement, ranges, activations)
    drop_saturated_relu(model)
    quantize_biases(model)
    return model


@pytest.mark.parametrize("scheme", [("int8", "int8"), ("uint8", "uint8"), ("int8", "uint8")])
def test_two_layers_read_one_initializer(scheme):
    gamma = np.array([1, -0.5, 0, 2], np.float32)
    model = int8_graph(two_convs_with_norms(gamma, gamma[::-1]), *scheme)
    x = normal(1, 4, 6, 6, seed=1)
    before = run_graph(model, x)[0]
    assert to_qoperator(model) == "2 QLinearConv"
    assert ops(model) == ["QuantizeLinear", "QLinearConv", "QLinearConv", "DequantizeLinear"]
    ((kernel, layers),) = readers(model).items()
    assert layers == ["conv1", "conv2"] and constant(kernel).dtype == scheme[0]
    assert model.graph.outputs[0].name == "y"
    steps = np.abs(run_graph(model, x)[0] - before) / constant(model.graph.outputs[0].producer().inputs[1])
    assert steps.max() < 1.5  # float QDQ and integer arithmetic may round a tie differently


def test_an_activation_that_is_also_a_graph_output_keeps_its_dequantize():
    model = two_convs_with_norms(np.ones(4, np.float32), np.ones(4, np.float32))
    model.graph.outputs.append(node_of(model, "relu").outputs[0])
    int8_graph(model)
    x = normal(1, 4, 6, 6, seed=1)
    before = run_graph(model, x)
    assert to_qoperator(model) == "2 QLinearConv"
    assert [value.name for value in model.graph.outputs] == ["y", "r1"]
    np.testing.assert_allclose(run_graph(model, x)[1], before[1], atol=0.03)


def test_a_conv_without_bias_and_its_attributes():
    model = graph_of(
        "(float[1,4,9,9] x) => (float[1,4,3,3] y) {[conv] y = Conv<strides=[2,2], dilations=[2,2], group=2>(x, W) }",
        W=normal(4, 2, 3, 3),
    )
    int8_graph(model)
    to_qoperator(model)
    node = node_of(model, "conv")
    assert node.op_type == "QLinearConv" and len(node.inputs) == 8
    assert run_graph(model, normal(1, 4, 9, 9))[0].shape == (1, 4, 3, 3)


def test_a_conv_with_float_input_stays():
    model = graph_of(
        "(float[1,4,4,4] x) => (float[1,4,4,4] y) { [conv] c = Conv(x, W) [g] y = Gelu(c) }", W=normal(4, 4, 1, 1)
    )
    int8_graph(model)
    assert to_qoperator(model) == "0 QLinearConv"
    assert ops(model) == ["DequantizeLinear", "Conv", "Gelu"]
