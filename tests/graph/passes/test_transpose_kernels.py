"""The kernel of a Linear layer on 3-D input is stored once, transposed, however many layers read it."""

import numpy as np
import pytest
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph

from edgeks.graph.kernels import readers
from edgeks.graph.passes.transpose_kernels import transpose_kernels

W = normal(5, 5)


def test_two_transposes_of_one_kernel_become_one_stored_transpose():
    model = graph_of(
        """(float[1,3,5] x) => (float[1,3,5] y) {
            [t1] w1 = Transpose<perm=[1,0]>(W)
            [a] p = MatMul(x, w1)
            [t2] w2 = Transpose<perm=[1,0]>(W)
            [b] y = MatMul(p, w2)
        }""",
        W=W,
    )
    x = normal(1, 3, 5, seed=1)
    before = run_graph(model, x)[0]
    assert transpose_kernels(model) == "1 kernel stored transposed"
    assert ops(model) == ["MatMul", "MatMul"]
    assert list(readers(model).values()) == [["a", "b"]]
    assert list(model.graph.initializers) == ["W_t"]
    np.testing.assert_array_equal(constant(node_of(model, "a").inputs[1]), W.T)
    np.testing.assert_array_equal(run_graph(model, x)[0], before)


def test_a_gemm_of_the_same_group_reads_the_transposed_kernel():
    model = graph_of(
        """(float[3,5] x) => (float[3,5] y) {
            [t1] w1 = Transpose<perm=[1,0]>(W)
            [a] p = MatMul(x, w1)
            [b] y = Gemm<transB=1>(p, W)
        }""",
        W=W,
    )
    x = normal(3, 5, seed=1)
    before = run_graph(model, x)[0]
    transpose_kernels(model)
    assert ops(model) == ["MatMul", "Gemm"]
    assert list(readers(model).values()) == [["a", "b"]]
    np.testing.assert_allclose(run_graph(model, x)[0], before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("other", ["[o] z = Mul(p, W)", "[o] z = Gemm(p, W)"], ids=["mul", "gemm"])
def test_a_kernel_that_others_read_as_it_is_stays(other):
    model = graph_of(
        f"""(float[5,5] x) => (float[5,5] z) {{
            [t1] w1 = Transpose<perm=[1,0]>(W)
            [a] p = MatMul(x, w1)
            {other}
        }}""",
        W=W,
    )
    transpose_kernels(model)
    assert ops(model)[0] == "Transpose"
    assert list(model.graph.initializers) == ["W"]
