"""One set of codes per kernel, whatever number of layers read it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_text import constant, graph_of, normal, ops, run_graph

from edgeks.graph.kernels import readers
from edgeks.graph.passes.quantize_kernels import quantize_kernels, symmetric_codes

W = normal(4, 4, 3, 3)
TWO_READERS = """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
    [a] p = Conv<pads=[1,1,1,1]>(x, W)
    [b] y = Conv<pads=[2,2,2,2], dilations=[2,2]>(p, W)
}"""


def test_two_readers_read_one_code_tensor_through_a_dequantize_each():
    model = graph_of(TWO_READERS, W=W)
    assert quantize_kernels(model, "int8") == "1 kernel quantised once each"
    assert ops(model) == ["DequantizeLinear", "Conv", "DequantizeLinear", "Conv"]
    ((kernel, layers),) = readers(model).items()
    assert layers == ["a", "b"] and kernel.name == "W_q" and constant(kernel).dtype == np.int8
    assert set(model.graph.initializers) == {"W_q", "W_scale"}


def test_codes_do_not_depend_on_the_number_of_readers():
    shared = graph_of(TWO_READERS, W=W)
    alone = graph_of("(float[1,4,6,6] x) => (float[1,4,4,4] y) { [a] y = Conv(x, W) }", W=W)
    for model in (shared, alone):
        quantize_kernels(model, "int8")
    for name in ("W_q", "W_scale"):
        np.testing.assert_array_equal(*(constant(m.graph.initializers[name]) for m in (shared, alone)))


def test_uint8_holds_the_same_codes_plus_128():
    signed, unsigned = graph_of(TWO_READERS, W=W), graph_of(TWO_READERS, W=W)
    quantize_kernels(signed, "int8")
    quantize_kernels(unsigned, "uint8")
    codes, stored = (constant(m.graph.initializers["W_q"]) for m in (signed, unsigned))
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored.astype(int) - 128, codes)
    x = normal(1, 4, 6, 6, seed=1)
    np.testing.assert_array_equal(run_graph(signed, x)[0], run_graph(unsigned, x)[0])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 1e-6, 1.0, 1e20]), st.sampled_from([0, 1]))
def test_codes_are_symmetric_and_within_half_a_step(seed, size, axis):
    weight = normal(3, 5, 2, seed=seed).astype(np.float64) * size
    codes, scale = symmetric_codes(weight, axis)
    assert codes.dtype == np.int8 and codes.min() >= -127
    assert scale.dtype == np.float32 and scale.shape == (weight.shape[axis],)
    along = [1, 1, 1]
    along[axis] = -1
    steps = scale.astype(np.float64).reshape(along)
    # float32 rounding of the scale itself may push the largest value half a code's 1e-7 beyond.
    assert (np.abs(codes * steps - weight) <= steps * 0.5001).all()
    largest = np.abs(codes).max(axis=tuple(i for i in range(3) if i != axis))
    np.testing.assert_array_equal(largest, 127)


def test_a_channel_of_zeros_has_zero_codes_and_a_usable_scale():
    weight = normal(3, 4).astype(np.float64)
    weight[1] = 0
    codes, scale = symmetric_codes(weight, 0)
    np.testing.assert_array_equal(codes[1], 0)
    assert scale[1] == np.float32(1 / 127) and np.isfinite(scale).all() and (scale > 0).all()


def test_gemm_and_matmul_are_quantised_per_output():
    model = graph_of(
        """(float[2,5] x) => (float[2,3] y) {
            [a] p = MatMul(x, I)
            [b] y = Gemm<transB=1>(p, O)
        }""",
        I=normal(5, 4),
        O=normal(3, 4),
    )
    x = normal(2, 5, seed=1)
    before = run_graph(model, x)[0]
    quantize_kernels(model, "int8")
    assert [constant(model.graph.initializers[n]).shape for n in ("I_scale", "O_scale")] == [(4,), (3,)]
    np.testing.assert_allclose(run_graph(model, x)[0], before, atol=0.1)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("ConvTranspose(x, W)", "ConvTranspose has no integer kernel"),
        ("Gemm<alpha=0.5>(x2, M)", "alpha, beta or transA"),
        ("Gemm<transA=1>(x2, M)", "alpha, beta or transA"),
    ],
)
def test_what_has_no_integer_form_stays_float_with_the_reason(node, reason):
    model = graph_of(
        f"(float[1,4,4,4] x, float[4,4] x2) => (float[a,b,c,d] y) {{ [layer] y = {node} }}",
        W=normal(4, 4, 2, 2),
        M=normal(4, 4),
    )
    kept = model.graph.initializers["W" if "W" in node else "M"]
    note = quantize_kernels(model, "int8")
    assert note.startswith("0 kernels") and "layer (" in note and reason in note
    assert constant(kept).dtype == np.float32 and ops(model) == [node.split("(")[0].split("<")[0]]


def test_a_kernel_that_another_op_reads_stays_float():
    model = graph_of(
        """(float[1,4,2,2] x) => (float[1,4,2,2] y, float[4,4,1,1] z) {
            [a] y = Conv(x, W)
            [b] z = Relu(W)
        }""",
        W=normal(4, 4, 1, 1),
    )
    assert "also read by other ops" in quantize_kernels(model, "int8")
    assert ops(model) == ["Conv", "Relu"]
