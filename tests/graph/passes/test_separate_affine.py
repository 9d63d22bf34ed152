"""What layers of one kernel do not share leaves them; the function stays the same."""

import numpy as np
import pytest
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph, two_convs_with_norms

from edgeks.graph.kernels import readers
from edgeks.graph.passes.affine_as_depthwise import affine_as_depthwise
from edgeks.graph.passes.separate_affine import separate_affine
from edgeks.sharing.plan import SharingGroup, SharingPlan

ONES = np.ones(4, np.float32)


def same_function(model, *inputs):
    before = run_graph(model, *inputs)[0]
    note = separate_affine(model)
    np.testing.assert_allclose(run_graph(model, *inputs)[0], before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
    return note


@pytest.mark.parametrize("gain", [1, -1, 0, 1e-20])
def test_batch_norm_becomes_mul_and_add_behind_a_layer_that_is_the_same_in_all(gain):
    model = two_convs_with_norms(np.array([1, gain, 2, 1], np.float32), ONES, False)
    assert same_function(model, normal(1, 4, 6, 6)) == "2 BN as Mul and Add, 0 biases moved behind shared kernels"
    assert ops(model) == ["Conv", "Mul", "Add", "Relu", "Conv", "Mul", "Add"]
    assert [constant(node_of(model, name).inputs[1]).shape for name in ("norm1", "norm1.gain")] == [(4, 1, 1)] * 2
    assert [*readers(model).values()] == [["conv1", "conv2"]]
    assert model.graph.outputs[0].name == "y"


def test_a_bias_that_all_layers_hold_stays_in_them():
    model = two_convs_with_norms(ONES, ONES, True)
    assert "0 biases" in same_function(model, normal(1, 4, 6, 6))
    assert node_of(model, "conv1").inputs[2] is node_of(model, "conv2").inputs[2] is not None


def test_biases_of_their_own_go_into_the_batch_norm_or_an_add():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [conv1] p = Conv<pads=[1,1,1,1]>(x, W, b1)
            [norm] n = BatchNormalization(p, g, o, m, v)
            [conv2] y = Conv<pads=[1,1,1,1]>(n, W, b2)
        }""",
        W=normal(4, 4, 3, 3),
        b1=normal(4, seed=1),
        b2=normal(4, seed=2),
        g=normal(4, seed=3),
        o=normal(4, seed=4),
        m=normal(4, seed=5),
        v=ONES,
    )
    assert same_function(model, normal(1, 4, 6, 6)) == "1 BN as Mul and Add, 2 biases moved behind shared kernels"
    assert ops(model) == ["Conv", "Mul", "Add", "Conv", "Add"]
    assert all(len(node_of(model, name).inputs) == 2 for name in ("conv1", "conv2"))
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize("transposed", [0, 1])
def test_linear_layers(transposed):
    model = graph_of(
        f"""(float[3,4] x) => (float[3,4] y) {{
            [fc1] h = Gemm<transB={transposed}>(x, W, b1)
            [fc2] y = Gemm<transB={transposed}>(h, W, b2)
        }}""",
        W=normal(4, 4),
        b1=normal(4, seed=1),
        b2=normal(1, 4, seed=2),
    )
    assert "2 biases" in same_function(model, normal(3, 4))
    assert ops(model) == ["Gemm", "Add", "Gemm", "Add"]


def test_transposed_convolutions_of_several_groups():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [up1] h = ConvTranspose<group=2,pads=[1,1,1,1]>(x, W, b1)
            [up2] y = ConvTranspose<group=2,pads=[1,1,1,1]>(h, W, b2)
        }""",
        W=normal(4, 2, 3, 3),
        b1=normal(4, seed=1),
        b2=normal(4, seed=2),
    )
    assert "2 biases" in same_function(model, normal(1, 4, 6, 6))
    assert ops(model) == ["ConvTranspose", "Add", "ConvTranspose", "Add"]


def test_an_affine_of_the_channels_becomes_a_depthwise_convolution_and_one_of_the_whole_map_stays():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [conv1] p = Conv<pads=[1,1,1,1]>(x, W)
            m = Mul(p, a)
            q = Add(m, b)
            [conv2] r = Conv<pads=[1,1,1,1]>(q, W)
            y = Add(r, one)
        }""",
        W=normal(4, 4, 3, 3),
        a=normal(4, 1, 1, seed=1),
        b=normal(4, 1, 1, seed=2),
        one=normal(1, 1, 1, seed=3),
    )
    feed = normal(1, 4, 6, 6)
    before = run_graph(model, feed)[0]
    plan, note = affine_as_depthwise(model, SharingPlan((SharingGroup("W", ("conv1", "conv2"), (4, 4, 3, 3)),)))
    assert note.startswith("1 affines")
    assert [each.layers for each in plan.unshared] == [("conv1.affine",)]
    assert ops(model) == ["Conv", "Conv", "Conv", "Add"]
    np.testing.assert_allclose(run_graph(model, feed)[0], before, rtol=1e-4, atol=1e-5)


def test_a_layer_alone_with_its_kernel_keeps_bias_and_batch_norm_and_others_behind_gelu_do_not():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [conv] p = Conv<pads=[1,1,1,1]>(x, W, b)
            [norm1] n = BatchNormalization(p, g, b, m, v)
            [gelu] e = Gelu(n)
            [norm2] y = BatchNormalization(e, g, b, m, v)
        }""",
        W=normal(4, 4, 3, 3),
        g=normal(4, seed=3),
        b=normal(4, seed=4),
        m=normal(4, seed=5),
        v=ONES,
    )
    assert "1 BN" in same_function(model, normal(1, 4, 6, 6))
    assert ops(model) == ["Conv", "BatchNormalization", "Gelu", "Mul", "Add"]
