"""BN(γ, β, μ, σ²) → BN(a, b, 0, 1), the same function."""

import numpy as np
import pytest
from onnx_text import constant, graph_of, node_of, normal, run_graph, two_convs_with_norms

from edgeks.graph.passes.normalise_batch_norm import normalise_batch_norm


def one_norm(variance, epsilon=1e-5):
    return graph_of(
        f"""(float[1,4,3,3] x) => (float[1,4,3,3] y) {{
            [norm] y = BatchNormalization<epsilon={epsilon:f}, momentum=0.5>(x, g, b, m, v)
        }}""",
        g=np.array([1, -2, 0, 3], np.float32),
        b=normal(4, seed=1),
        m=normal(4, seed=2),
        v=np.asarray(variance, np.float32),
    )


@pytest.mark.parametrize("epsilon", [1e-5, 0.25])
@pytest.mark.parametrize("variance", [[1, 2, 3, 4], [1e-12, 0, 1e-6, 1e6]], ids=["plain", "tiny and huge"])
def test_the_function_stays(variance, epsilon):
    model = one_norm(variance, epsilon)
    x = normal(1, 4, 3, 3)
    before = run_graph(model, x)[0]
    assert normalise_batch_norm(model) == "1 BatchNormalization nodes kept, two vectors each"
    np.testing.assert_allclose(run_graph(model, x)[0], before, rtol=2e-6, atol=1e-5 * np.abs(before).max())


def test_the_vectors_are_a_b_0_1():
    model = one_norm([3, 3, 3, 3], 1.0)
    gamma, beta, mean = (constant(node_of(model, "norm").inputs[i]).astype(np.float64) for i in (1, 2, 3))
    normalise_batch_norm(model)
    node = node_of(model, "norm")
    a, b, zeros, ones = (constant(value) for value in node.inputs[1:])
    np.testing.assert_array_equal(a, (gamma / 2).astype(np.float32))
    np.testing.assert_array_equal(b, (beta - gamma / 2 * mean).astype(np.float32))
    np.testing.assert_array_equal(zeros, np.zeros(4))
    np.testing.assert_array_equal(ones, np.ones(4))
    assert node.attributes.get_float("epsilon") == 0.0
    assert "momentum" not in node.attributes


def test_nodes_of_one_width_share_zeros_and_ones_and_the_old_vectors_go():
    model = two_convs_with_norms(np.ones(4, np.float32), np.full(4, 2, np.float32))
    normalise_batch_norm(model)
    first, second = node_of(model, "norm1"), node_of(model, "norm2")
    assert first.inputs[3] is second.inputs[3] and first.inputs[4] is second.inputs[4]
    assert first.inputs[1] is not second.inputs[1]
    assert len(model.graph.initializers) == 1 + 2 + 2 + 2


def test_a_norm_whose_vectors_are_computed_is_left():
    model = graph_of(
        """(float[1,4,3,3] x, float[4] g) => (float[1,4,3,3] y) {
            [norm] y = BatchNormalization(x, g, b, b, v)
        }""",
        b=np.zeros(4, np.float32),
        v=np.ones(4, np.float32),
    )
    assert normalise_batch_norm(model).startswith("0 ")
