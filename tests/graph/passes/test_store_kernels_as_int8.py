"""W → Mul(Cast(W_q), s), once for all that read it."""

import numpy as np
from onnx_text import constant, graph_of, normal, ops, run_graph, two_convs_with_norms

from edgeks.graph.kernels import readers
from edgeks.graph.passes.store_kernels_as_int8 import store_kernels_as_int8


def test_one_product_for_two_layers_and_bn_stays():
    ones = np.ones(4, np.float32)
    model = two_convs_with_norms(ones, -ones, biases=True)
    x = normal(1, 4, 6, 6, seed=1)
    before = run_graph(model, x)[0]
    assert store_kernels_as_int8(model) == "1 kernel stored as int8 once each, computed with in float"
    assert ops(model) == ["Cast", "Mul", "Conv", "BatchNormalization", "Relu", "Conv", "BatchNormalization"]
    ((kernel, layers),) = readers(model).items()
    assert layers == ["conv1", "conv2"] and constant(kernel).dtype == np.int8
    assert abs(constant(kernel)).max() == 127
    error = run_graph(model, x)[0] - before
    assert 0 < np.linalg.norm(error) < 0.02 * np.linalg.norm(before)


def test_every_op_that_reads_a_kernel_and_any_axis():
    model = graph_of(
        """(float[1,4,5,5] x) => (float[1,6] y) {
            [up] u = ConvTranspose<group=2>(x, T)
            [pool] p = GlobalAveragePool(u)
            [flat] f = Flatten(p)
            [gemm] g = Gemm<transB=1>(f, G)
            [product] y = MatMul(g, M)
        }""",
        T=normal(4, 3, 2, 2),
        G=normal(5, 6, seed=1),
        M=normal(5, 6, seed=2),
    )
    x = normal(1, 4, 5, 5, seed=3)
    before = run_graph(model, x)[0]
    store_kernels_as_int8(model)
    assert list(readers(model).values()) == [["up"], ["gemm"], ["product"]]
    scales = {v.name: constant(v).shape for v in model.graph.initializers.values() if v.name.endswith("_scale")}
    assert scales == {"T_scale": (1, 3, 1, 1), "G_scale": (5, 1), "M_scale": (1, 6)}
    np.testing.assert_allclose(run_graph(model, x)[0], before, rtol=0.1, atol=0.1)


def test_what_is_skipped_or_integer_already_stays():
    model = graph_of("(float[1,4,6,6] x) => (float[1,4,4,4] y) { [conv] y = Conv(x, W) }", W=normal(4, 4, 3, 3))
    kernel = model.graph.initializers["W"]
    assert store_kernels_as_int8(model, skip={kernel}).startswith("0 kernels")
    assert ops(model) == ["Conv"]
    store_kernels_as_int8(model)
    assert store_kernels_as_int8(model).startswith("0 kernels")
    assert ops(model) == ["Cast", "Mul", "Conv"]
