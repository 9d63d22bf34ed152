"""BN moves into the weight scale and the bias of its layer; the codes stay one tensor, the function stays the same."""

import numpy as np
import pytest
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph, two_convs_with_norms

from edgeks.graph.kernels import readers
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.quantize_kernels import quantize_kernels

GAMMAS = {
    "positive": [1, 0.5, 2, 1],
    "negative": [-1, 0.5, -2, 1],
    "zero": [0, 1, 0, -1],
    "tiny": [1e-20, 1, -1e-12, 1],
    "huge": [1e6, 1, -1e5, 1],
}


@pytest.mark.parametrize("weights", ["int8", "uint8"])
@pytest.mark.parametrize("biases", [False, True], ids=["no bias", "one shared bias"])
@pytest.mark.parametrize("gamma", GAMMAS.values(), ids=GAMMAS)
def test_the_function_stays_and_the_codes_stay_shared(gamma, biases, weights):
    model = two_convs_with_norms(np.array(gamma, np.float32), np.array(gamma[::-1], np.float32), biases)
    quantize_kernels(model, weights)
    codes = constant(model.graph.initializers["W_q"]).copy()
    x = normal(1, 4, 6, 6, seed=9)
    before = run_graph(model, x)[0]
    note = absorb_batch_norm(model)
    assert note.startswith("2 BN absorbed into weight scales")
    assert ("2 channels" if gamma == GAMMAS["zero"] else "") in note
    assert ops(model) == ["DequantizeLinear", "Conv", "Relu", "DequantizeLinear", "Conv"]
    ((kernel, layers),) = readers(model).items()
    assert layers == ["conv1", "conv2"]
    np.testing.assert_array_equal(constant(kernel), codes)
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(run_graph(model, x)[0], before, rtol=1e-4, atol=2e-6 * np.abs(before).max())


def test_each_layer_has_its_own_scale_and_bias():
    model = two_convs_with_norms(np.array([1, -1, 2, 0], np.float32), np.ones(4, np.float32), biases=True)
    quantize_kernels(model, "int8")
    scale = constant(model.graph.initializers["W_scale"]).astype(np.float64)
    gain = np.array([1, -1, 2, 0]) / np.sqrt(constant(model.graph.initializers["v1"]).astype(np.float64) + 1e-5)
    assert "negative scale" in absorb_batch_norm(model)
    first, second = (node_of(model, name) for name in ("conv1", "conv2"))
    np.testing.assert_array_equal(constant(first.inputs[1].producer().inputs[1]), (scale * gain).astype(np.float32))
    assert first.inputs[2] is not second.inputs[2]
    assert "b" not in model.graph.initializers


@pytest.mark.parametrize(
    ("between", "outputs"),
    [
        ("[norm] n = BatchNormalization(c, g, b, m, v) [o] y = Add(n, c)", "y"),
        ("[norm] n = BatchNormalization(c, g, b, m, v)", "n, float[1,4,4,4] c"),
        ("[gelu] e = Gelu(c) [norm] n = BatchNormalization(e, g, b, m, v)", "n"),
    ],
    ids=["another reader", "the layer's output is a graph output", "GELU between"],
)
def test_left_alone(between, outputs):
    model = graph_of(
        f"(float[1,4,6,6] x) => (float[1,4,4,4] {outputs}) {{ [conv] c = Conv(x, W) {between} }}",
        W=normal(4, 4, 3, 3),
        g=normal(4),
        b=normal(4),
        m=normal(4),
        v=np.ones(4, np.float32),
    )
    quantize_kernels(model, "int8")
    before = ops(model)
    assert absorb_batch_norm(model).startswith("0 BN absorbed")
    assert ops(model) == before


def test_a_float_kernel_keeps_its_norm():
    model = two_convs_with_norms(np.ones(4, np.float32), np.ones(4, np.float32))
    assert absorb_batch_norm(model).startswith("0 BN absorbed")
    assert ops(model).count("BatchNormalization") == 2


@pytest.mark.parametrize("layer", ["Gemm<transB=1>(x, W, c)", "MatMul(x, W)"])
def test_batch_norm_after_a_linear_layer(layer):
    model = graph_of(
        f"(float[3,4] x) => (float[3,4] y) {{ [fc] p = {layer} [norm] y = BatchNormalization(p, g, b, m, v) }}",
        W=normal(4, 4),
        c=normal(4, seed=1),
        g=normal(4, seed=2),
        b=normal(4, seed=3),
        m=normal(4, seed=4),
        v=np.ones(4, np.float32),
    )
    quantize_kernels(model, "int8")
    x = normal(3, 4, seed=5)
    before = run_graph(model, x)[0]
    note = absorb_batch_norm(model)
    if layer.startswith("MatMul"):  # has no bias input to take b_l
        assert note == "0 BN absorbed into weight scales; kept: norm"
    else:
        assert note.startswith("1 BN absorbed") and ops(model) == ["DequantizeLinear", "Gemm"]
    np.testing.assert_allclose(run_graph(model, x)[0], before, rtol=1e-4, atol=1e-5)
