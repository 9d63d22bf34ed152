"""Constants are folded, kernels never; zero biases, no-ops and metadata go."""

import numpy as np
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph

from edgeks.graph.passes.tidy import tidy


def test_a_constant_sub_graph_is_folded():
    model = graph_of(
        """(float[1,4,2,2] x) => (float[1,16] y) {
            [shape] s = Concat<axis=0>(one, rest)
            [same] i = Identity(x)
            [reshape] y = Reshape(i, s)
        }""",
        one=np.array([1]),
        rest=np.array([-1]),
    )
    tidy(model)
    assert ops(model) == ["Reshape"]
    np.testing.assert_array_equal(constant(node_of(model, "reshape").inputs[1]), [1, -1])


def test_a_shape_that_the_exporter_left_unknown_is_folded():
    """torch.onnx.export decomposes pixel_unshuffle and group_norm into nodes without shapes, which read them back."""
    model = graph_of(
        """(float[1,4,2,2] x) => (float y) {
            [a] p = Relu(x)
            [shape] s = Shape<start=0,end=2>(p)
            [concat] t = Concat<axis=0>(s, rest)
            [reshape] y = Reshape(p, t)
        }""",
        rest=np.array([-1]),
    )
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    tidy(model)
    assert ops(model) == ["Relu", "Reshape"]
    np.testing.assert_array_equal(constant(node_of(model, "reshape").inputs[1]), [1, 4, -1])


def test_a_node_that_computes_from_a_kernel_is_not_folded():
    model = graph_of(
        """(float[1,4,2,2] x) => (float[1,4,2,2] z) {
            [a] y = Conv(x, W)
            [scaled] W2 = Mul(W, two)
            [b] z = Conv(y, W2)
        }""",
        W=normal(4, 4, 1, 1),
        two=np.float32(2),
    )
    tidy(model)
    assert ops(model) == ["Conv", "Mul", "Conv"]
    assert set(model.graph.initializers) == {"W", "two"}


def test_zero_biases_go_and_others_stay():
    model = graph_of(
        """(float[1,4,2,2] x) => (float[1,3] y) {
            [a] p = Conv(x, W, zero)
            [b] q = Conv(p, W, bias)
            [flat] f = Flatten(q)
            [head] y = Gemm<transB=1>(f, H, zero3)
        }""",
        W=normal(4, 4, 1, 1),
        zero=np.zeros(4, np.float32),
        bias=np.array([0, 0, 0, 1], np.float32),
        H=normal(3, 16),
        zero3=np.zeros(3, np.float32),
    )
    x = normal(1, 4, 2, 2, seed=1)
    before = run_graph(model, x)[0]
    assert "2 zero biases dropped" in tidy(model)
    assert [len(node_of(model, name).inputs) for name in ("a", "b", "head")] == [2, 3, 2]
    np.testing.assert_array_equal(run_graph(model, x)[0], before)


def test_a_conv_says_only_what_is_not_the_default():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,h,w] y) {
            [a] p = Conv<dilations=[1,1], strides=[1,1], pads=[0,0,0,0], group=1, auto_pad="NOTSET">(x, W)
            [b] q = Conv<dilations=[1,1], strides=[2,1], pads=[0,1,0,1], group=1>(p, W)
            [c] y = Conv<auto_pad="SAME_UPPER", group=4, strides=[1,2]>(q, D)
        }""",
        W=normal(4, 4, 3, 3),
        D=normal(4, 1, 1, 1),
    )
    x = normal(1, 4, 6, 6, seed=1)
    before = run_graph(model, x)[0]
    tidy(model)
    assert [set(node_of(model, name).attributes) for name in "abc"] == [
        set(),
        {"strides", "pads"},
        {"auto_pad", "group", "strides"},
    ]
    np.testing.assert_array_equal(run_graph(model, x)[0], before)


def test_metadata_and_doc_strings_go():
    model = graph_of("(float[4] x) => (float[4] y) { [a] y = Relu(x) }")
    node_of(model, "a").metadata_props["pkg.torch"] = "a long story"
    node_of(model, "a").doc_string = "another"
    tidy(model)
    assert not node_of(model, "a").metadata_props and not node_of(model, "a").doc_string
