"""Integer layers on activations quantised on the fly: which ones, what becomes of their BN, one kernel for all."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph, two_convs_with_norms

from edgeks.graph.kernels import readers
from edgeks.graph.passes.quantize_dynamically import quantize_dynamically


def behind_relu(model):
    """The same network behind a Relu, since a layer that reads the input itself stays in float."""
    first = model.graph[0]
    relu = ir.node("Relu", [first.inputs[0]], name="first")
    model.graph.insert_before(first, relu)
    first.replace_input_with(0, relu.outputs[0])
    return model


def quantised(model, weights="int8", tolerance=0.03):
    x = normal(1, 4, 6, 6, seed=1)
    before = run_graph(model, x)[0]
    note = quantize_dynamically(model, weights)
    error = run_graph(model, x)[0] - before
    assert np.linalg.norm(error) < tolerance * np.linalg.norm(before)
    return note


@pytest.mark.parametrize("biases", [False, True])
def test_bn_merges_with_the_scale_of_its_layer(biases):
    gamma = np.array([1, -0.5, 0, 2], np.float32)
    model = behind_relu(two_convs_with_norms(gamma, gamma[::-1], biases))
    assert quantised(model) == "2 layers in integers on 2 activations quantised on the fly"
    layer = ["DynamicQuantizeLinear", "ConvInteger", "Cast", "Mul", "BatchNormalization"]
    assert ops(model) == ["Relu", *layer, "Relu", *layer]
    ((kernel, layers),) = readers(model).items()
    assert layers == ["conv1", "conv2"]
    assert constant(kernel).dtype == np.uint8 and constant(node_of(model, "conv1").inputs[3]) == 128
    factors = [constant(node.inputs[1]) for node in model.graph if node.op_type == "BatchNormalization"]
    assert not np.array_equal(*factors) and factors[0][2] == 0 and factors[0][1] < 0
    assert model.graph.outputs[0].name == "y"


def test_a_kernel_is_integer_in_the_layer_that_reads_the_input_where_other_layers_share_it():
    assert quantised(two_convs_with_norms(np.ones(4, np.float32), np.ones(4, np.float32))).startswith("2 layers")


LINEAR = """(float[1,4,6,6] x) => (float[1,3] y) {
    [pool] p = GlobalAveragePool(x)
    [flat] f = Flatten(p)
    [one] a = Gemm<transB=1>(f, W, b)
    [norm] n = BatchNormalization(a, g, b, m, v)
    [two] c = Gemm<transB=1>(n, W)
    [three] d = MatMul(c, M)
    [add] y = Add(d, e)
}"""


@pytest.mark.parametrize("weights", ["int8", "uint8"])
def test_linear_layers_are_products_with_one_matrix_input_by_output(weights):
    vectors = {"g": normal(4, seed=2), "b": normal(4, seed=3), "m": normal(4, seed=4), "v": np.ones(4, np.float32)}
    model = graph_of(LINEAR, W=normal(4, 4, seed=5), M=normal(4, 3, seed=6), e=normal(3, seed=7), **vectors)
    codes = normal(4, 4, seed=5).T
    assert quantised(model, weights, 0.1).startswith("3 layers in integers")
    shared, last = readers(model)
    assert readers(model)[shared] == ["one", "two"] and constant(shared).dtype == weights
    offset = 128 if weights == "uint8" else 0
    scale = np.abs(codes).max(0) / 127
    np.testing.assert_allclose((constant(shared).astype(int) - offset) * scale, codes, atol=scale.max() / 2 + 1e-6)
    assert ops(model).count("Add") == 2 and "BatchNormalization" not in ops(model) and "Gemm" not in ops(model)
    assert constant(last).shape == (4, 3)


def test_a_value_that_two_layers_read_is_quantised_once_also_when_it_is_itself_a_layer_s_output():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,2,2] y) {
            [relu] r = Relu(x)
            [late] u = Conv(r, A)
            [b1] s = Conv(u, B)
            [b2] t = Conv(u, B)
            [add] y = Add(s, t)
        }""",
        A=normal(4, 4, 3, 3),
        B=normal(4, 4, 3, 3, seed=1),
    )
    note = quantised(model)
    assert note == "3 layers in integers on 2 activations quantised on the fly"
    assert ops(model).count("DynamicQuantizeLinear") == 2


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("[r] r = Relu(x) [c] y = Conv<group=2>(r, W)", (4, 2, 3, 3), "grouped"),
        ("[c] y = Conv(x, W)", (4, 4, 3, 3), "reads the network's input"),
        ("[r] r = Relu(x) [c] y = ConvTranspose(r, W)", (4, 4, 3, 3), "ConvTranspose has no integer kernel"),
        ("[r] r = Relu(x) [c] y = MatMul(r, W)", (1, 4, 6, 6), "not a matrix"),
        ("[r] r = Relu(x) [c] y = Conv(r, W) [d] z = Mul(W, W)", (4, 4, 3, 3), "not a float32 kernel that only layers"),
        ("[r] r = Relu(x) [c] m = Conv(r, W) [d] y = ConvTranspose(m, W)", (4, 4, 3, 3), "read in different ways"),
    ],
)
def test_layers_that_stay_in_float_and_why(text, shape, reason):
    model = graph_of(f"(float[1,4,6,6] x) => (float[?,?,?,?] y) {{ {text} }}", W=normal(*shape))
    before = ops(model)
    assert f"c ({reason}" in quantize_dynamically(model, "int8")
    assert ops(model) == before
