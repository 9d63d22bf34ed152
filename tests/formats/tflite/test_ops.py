"""Every operator of the lowering table: fp32 as torch, int8 as ONNX Runtime computes the graph, in all kernels."""

import math

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from op_network import OpNetwork, by_onnx_runtime, by_tflite, in_codes, lowered
from op_table import NETWORKS, networks

from edgeks.formats.tflite.runtime import RESOLVERS
from edgeks.formats.tflite.supported import tflite_operators
from edgeks.formats.tflite.table import LOWERINGS

EXAMPLES = math.ceil(settings.default.max_examples / 3)
CLOSE = 1e-4  # of the largest number of an output
LAYOUT = ("TRANSPOSE", "RESHAPE")  # axes in another order, or of a 1-D operator, or those that broadcasting adds
LEAST = 0.05  # an output whose terms cancel each other is held against this


def rules(graph):
    """TFLite operators that docs/tflite_ops.md names for the operators of a graph."""
    return {name for node in graph.graph for name in tflite_operators(node.op_type)}


def test_every_operator_of_the_table_has_its_networks():
    assert sorted(NETWORKS) == sorted(LOWERINGS)


@pytest.mark.parametrize("op", LOWERINGS)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_float(op, data):
    network = data.draw(networks(op))
    nhwc = data.draw(st.booleans(), "nhwc")
    wanted = network.wanted()
    file = lowered(network.graph(), nhwc=nhwc)
    note(file.operators)
    assert set(file.operators) <= {*LAYOUT, *rules(network.graph())}, "docs/tflite_ops.md does not name them"
    for kernels in RESOLVERS:
        for found, right in zip(by_tflite(file, network.feed(), kernels, nhwc=nhwc), wanted, strict=True):
            assert found.shape == right.shape
            np.testing.assert_allclose(
                found, right, rtol=0, atol=CLOSE * max(np.abs(right).max(), LEAST), err_msg=kernels
            )


@pytest.mark.parametrize("op", LOWERINGS)
def test_int8(op):
    """Two steps at most, and one for 99 of 100 elements of all networks: most are too small to tell by themselves."""
    off_by_two = dict.fromkeys(RESOLVERS, 0)
    elements = 0

    @settings(max_examples=EXAMPLES)
    @given(data=st.data())
    def one_network(data):
        nonlocal elements
        network = data.draw(networks(op))
        graph, feed = network.graph(), network.feed()
        steps = in_codes(graph, feed, network.input_ranges(), own_scale=data.draw(st.booleans(), "own scale"))
        wanted = by_onnx_runtime(graph, feed)
        file = lowered(graph)
        note(file.operators)
        allowed = {*LAYOUT, "QUANTIZE", "DEQUANTIZE", *rules(network.graph())}
        assert set(file.operators) <= allowed, "docs/tflite_ops.md does not name them"
        elements += sum(right.size for right in wanted)
        for kernels in RESOLVERS:
            for found, right, step in zip(by_tflite(file, feed, kernels), wanted, steps.values(), strict=True):
                assert found.shape == right.shape
                off = np.abs(np.rint((found - right) / step))
                assert off.max() <= 2, kernels
                off_by_two[kernels] += int((off > 1).sum())

    one_network()
    assert max(off_by_two.values()) <= 0.01 * elements, off_by_two


@pytest.mark.parametrize("op", ["Softmax", "Sigmoid"])
def test_steps_that_int8_kernels_do_not_have_are_computed_in_float(op):
    """The int8 kernels give multiples of 1/256: nothing of probabilities of 64 classes that are 1/64 each."""
    bounds = ((-0.5, 0.5),) if op == "Softmax" else ((-9.0, -4.0),)
    network = OpNetwork(
        f"y = {op}(a)", [[8, 64]], lambda a: a.softmax(1) if op == "Softmax" else a.sigmoid(), {}, bounds
    )
    graph, feed = network.graph(), network.feed()
    (step,) = in_codes(graph, feed, network.input_ranges(), own_scale=True).values()
    (wanted,) = by_onnx_runtime(graph, feed)
    for kernels in RESOLVERS:
        (found,) = by_tflite(lowered(graph), feed, kernels)
        assert len(np.unique(found)) > 20 and np.abs(np.rint((found - wanted) / step)).max() <= 1
