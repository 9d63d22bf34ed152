"""W_q with zero point 0 → W_q − 1 with zero point −1 where convolutions share it, and nothing computes otherwise."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import constant, graph_of, node_of, normal, run_graph, two_convs_with_norms

from edgeks.formats.onnx import open_session
from edgeks.graph.kernels import readers
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu
from edgeks.graph.passes.offset_kernel_codes import offset_kernel_codes
from edgeks.graph.passes.quantize_activations import Range, place_activations, quantize_activations
from edgeks.graph.passes.quantize_biases import quantize_biases
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.to_qoperator import to_qoperator
from edgeks.target import load_target

NOTHING = "nothing to do: no two convolutions share an int8 kernel with zero point 0"


def int8_graph(weights="int8", activations="uint8", form="qdq"):
    """Two layers of one kernel; of its scales one is negative and one 0."""
    gamma = np.array([1, -0.5, 0, 2], np.float32)
    model = two_convs_with_norms(gamma, gamma[::-1], biases=True)
    quantize_kernels(model, weights)
    absorb_batch_norm(model)
    placement = place_activations(model)
    ranges = {str(v.name): Range(0.0 if str(v.name).startswith("r") else -6.0, 6.0) for v in placement.ranged}
    quantize_activations(model, placement, ranges, activations)
    drop_saturated_relu(model)
    quantize_biases(model)
    if form == "qoperator":
        to_qoperator(model)
    return model


def run_by_default(model, x):
    """As the portable target's session computes it."""
    return open_session(ir.to_proto(model).SerializeToString(), load_target("onnx").session).run(None, {"x": x})


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("run", [run_graph, run_by_default])
def test_outputs_are_bit_equal(form, activations, run):
    x = normal(1, 4, 6, 6, seed=1)
    model = int8_graph(activations=activations, form=form)
    ((kernel, layers),) = readers(model).items()
    before, expected = constant(kernel).astype(int), run(model, x)
    assert np.abs(before).max() == 127
    assert offset_kernel_codes(model, -1) == "1 kernel of 2 layers with zero point -1"
    assert readers(model) == {kernel: layers} and layers == ["conv1", "conv2"]
    stored = constant(kernel)
    assert stored.dtype == np.int8 and np.array_equal(stored.astype(int), before - 1)
    for found, wanted in zip(run(model, x), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_all_layers_of_a_width_are_told_by_one_initializer():
    model = int8_graph()
    offset_kernel_codes(model, -1)
    points = {node_of(model, name).inputs[1].producer().inputs[2] for name in ("conv1", "conv2")}
    (point,) = points
    np.testing.assert_array_equal(constant(point), np.full(4, -1, np.int8))


def test_uint8_kernels_keep_their_zero_point():
    assert offset_kernel_codes(int8_graph("uint8"), -1) == NOTHING


def pair(op, weight, attributes="", second="W", shape="1,4,6,6"):
    """x → op(W) → op(W), float activations and int8 kernels."""
    constants = {"W": weight, "V": weight.copy(), "s": np.float32(0.01)}
    if second == "W":
        del constants["V"]
    shape = shape if op == "Conv" else "4,4"
    return graph_of(
        f"""(float[{shape}] x) => (float[{shape}] y) {{
            w1 = DequantizeLinear(W, s) [one] a = {op}{attributes}(x, w1)
            w2 = DequantizeLinear({second}, s) [two] y = {op}{attributes}(a, w2)
        }}""",
        **constants,
    )


CODES = np.arange(-64, 80, dtype=np.int8).reshape(4, 4, 3, 3)


@pytest.mark.parametrize(
    "model",
    [
        lambda: pair("Conv", CODES[:, :1].copy(), "<group=4,pads=[1,1,1,1]>"),
        lambda: pair("Conv", CODES, "<pads=[1,1,1,1]>", second="V"),
        lambda: pair("MatMul", CODES[:, :, 0, 0].copy()),
        lambda: pair("Conv", np.full_like(CODES, -128), "<pads=[1,1,1,1]>"),
    ],
    ids=["depthwise", "of one layer each", "MatMul", "no room below -128"],
)
def test_kernels_that_have_nothing_to_gain_stay(model):
    model = model()
    before = {name: constant(value) for name, value in model.graph.initializers.items()}
    assert offset_kernel_codes(model, -1) == NOTHING
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(constant(value), before[name])


def test_a_grouped_kernel_and_a_scale_of_one_element():
    model, x = pair("Conv", CODES[:, :2].copy(), "<group=2,pads=[1,1,1,1]>"), normal(1, 4, 6, 6)
    expected = run_graph(model, x)[0]
    assert offset_kernel_codes(model, -1) == "1 kernel of 2 layers with zero point -1"
    assert node_of(model, "one").inputs[1].producer().inputs[2].shape == ()
    np.testing.assert_array_equal(run_graph(model, x)[0], expected)


def test_no_two_products_that_an_arm_core_adds_in_16_bits_can_overflow():
    """A core without dotprod adds products k and k + 8 of a block of 16, taps outside and input channels inside."""
    codes = np.full((4, 32, 3, 3), -127, np.int8)
    codes[1] = CODES[0, 0, 0, 0]
    codes[2, ::16] = 127
    model = pair("Conv", np.concatenate([codes] * 8), "<pads=[1,1,1,1]>", shape="1,32,6,6")
    assert offset_kernel_codes(model, -1).startswith("1 kernel of 2 layers with zero point -1; ")
    ((kernel, _),) = readers(model).items()
    stored = constant(kernel).transpose(0, 2, 3, 1).reshape(32, -1, 16)
    assert np.abs(stored.astype(int) + 1 - constant_rows(codes)).max() == 1
    assert ((stored == -128).sum(axis=2) <= 1).all() and (stored == -128).any()


def constant_rows(codes):
    return np.concatenate([codes] * 8).astype(int).transpose(0, 2, 3, 1).reshape(32, -1, 16)
