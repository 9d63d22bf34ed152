"""Negative weight scales are counted by layer and channel, in every form of int8."""

import numpy as np
import pytest
from onnx_text import two_convs_with_norms

from edgeks.graph.negative_scales import negative_scales
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu
from edgeks.graph.passes.quantize_activations import Range, place_activations, quantize_activations
from edgeks.graph.passes.quantize_biases import quantize_biases
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.to_qoperator import to_qoperator


@pytest.mark.parametrize("qoperator", [False, True])
def test_counted_per_layer_of_one_kernel(qoperator):
    gammas = ([1, -1, -2, 0], [1, 1, -3, 1])
    model = two_convs_with_norms(*(np.array(gamma, np.float32) for gamma in gammas))
    assert not negative_scales(model)  # a float graph has no scales
    quantize_kernels(model, "int8")
    assert not negative_scales(model)
    absorb_batch_norm(model)
    placement = place_activations(model)
    low = {"r1": 0.0}  # the Relu is done by saturation
    ranges = {str(value.name): Range(low.get(str(value.name), -3.0), 3.0) for value in placement.ranged}
    quantize_activations(model, placement, ranges, "int8")
    drop_saturated_relu(model)
    quantize_biases(model)
    if qoperator:
        to_qoperator(model)
        assert [node.op_type for node in model.graph].count("QLinearConv") == 2
    found = negative_scales(model)
    assert found.channels == {"conv1": 2, "conv2": 1}
    assert str(found).startswith("3 channels in 2 layers (conv1, conv2) have a negative weight scale")
    assert "\n" not in str(found)
    told = found.to_dict()
    assert told["channels"] == 3 and "nothing" in told["costs"]["onnxruntime"] and "2.4" in told["costs"]["litert"]
    assert "positive_scales = true" in told["remedy"]


def test_none_is_said_as_none():
    model = two_convs_with_norms(np.ones(4, np.float32), np.ones(4, np.float32))
    quantize_kernels(model, "int8")
    absorb_batch_norm(model)
    assert negative_scales(model).to_dict() == {"channels": 0, "layers": {}, "costs": {}, "remedy": None}
