"""Where activations become integers, with which scales, and under which names."""

import numpy as np
import pytest
from networks import SharedConvs, inputs_of, small_checkpoint
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph

from edgeks.graph.float_graph import float_graph
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.quantize_activations import Range, place_activations, quantize_activations
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.raw_pixels import raw_pixels
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.models.shard_resnet import ShardResNet
from edgeks.preprocessing import Preprocessing


@pytest.mark.parametrize("integer_type", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 6), (-1, 1), (-3, 0.5), (2, 5), (-5, -2), (0, 0), (0, 1e-35), (-1e30, 1e30)]
)
def test_range_to_scale_and_zero_point(low, high, integer_type):
    scale, zero_point = Range(low, high).parameters(integer_type)
    q_min, q_max = {"int8": (-128, 127), "uint8": (0, 255)}[integer_type]
    assert scale.dtype == np.float32 and scale > 0 and np.isfinite(scale)
    assert q_min <= zero_point <= q_max
    lowest, highest = ((q - zero_point) * float(scale) for q in (q_min, q_max))
    assert lowest <= min(low, 0) + 0.51 * scale and highest >= max(high, 0) - 0.51 * scale
    if low >= 0:
        assert zero_point == q_min  # so that a Relu in front is done by saturation


def quantised(model, integer_type="int8"):
    quantize_kernels(model, "int8")
    absorb_batch_norm(model)
    placement = place_activations(model)
    ranges = {str(value.name): Range(-2.0, 3.0 + index) for index, value in enumerate(placement.ranged)}
    quantize_activations(model, placement, ranges, integer_type)
    return placement


def scale_of(value):
    """The scale that `value`, the output of a DequantizeLinear, was quantised with."""
    return value.producer().inputs[1]


def test_tied_scales_through_max_pool_and_reshape():
    model = graph_of(
        """(float[1,4,4,4] x) => (float[1,3] y) {
            [conv] c = Conv(x, W)
            [relu] r = Relu(c)
            [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            [flat] f = Flatten(p)
            [head] y = Gemm<transB=1>(f, H)
        }""",
        W=normal(4, 4, 1, 1),
        H=normal(3, 16),
    )
    placement = quantised(model)
    assert [value.name for value in placement.ranged] == ["x", "r"]
    assert {k.name: v.name for k, v in placement.tied.items()} == {"p": "r", "f": "p"}
    relu_scale = scale_of(node_of(model, "pool").inputs[0])
    assert scale_of(node_of(model, "flat").inputs[0]) is relu_scale
    assert scale_of(node_of(model, "head").inputs[0]) is relu_scale
    assert model.graph.outputs[0].producer().op_type == "Gemm"  # logits are not requantised
    assert run_graph(model, normal(1, 4, 4, 4))[0].shape == (1, 3)


def test_an_output_made_by_an_integer_op_keeps_its_name_and_is_dequantised():
    model = graph_of("(float[1,4,4,4] x) => (float[1,4,4,4] y) { [conv] y = Conv(x, W) }", W=normal(4, 4, 1, 1))
    quantised(model, "uint8")
    output = model.graph.outputs[0]
    assert output.name == "y" and output.producer().op_type == "DequantizeLinear"
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert ops(model) == [*pair, "DequantizeLinear", "Conv", *pair]


def test_float_readers_of_a_float_value_keep_the_float():
    model = graph_of(
        """(float[1,4,4,4] x) => (float[1,4,4,4] y) {
            [float] t = Tanh(x)
            [conv] c = Conv(t, W)
            [add] y = Add(c, t)
        }""",
        W=normal(4, 4, 1, 1),
    )
    quantised(model)
    assert node_of(model, "add").inputs[1].name == "t"
    assert node_of(model, "conv").inputs[0].producer().op_type == "DequantizeLinear"
    assert node_of(model, "add").inputs[0].producer().op_type == "DequantizeLinear"


STEM = "(float[1,4,4,4] x) => (float[1,4,4,4] y) {{ [stem] c = Conv(x, W) {} [conv] y = Conv(g, {}) }}"


@pytest.mark.parametrize(
    ("activation", "kernel", "stem_is_float"),
    [("g = Gelu(c)", "V", True), ("g = Relu(c)", "V", False), ("g = Gelu(c)", "W", True)],
    ids=["float op behind", "Relu behind", "float op behind, shared"],
)
def test_only_a_stem_in_front_of_float_ops_stays_float(activation, kernel, stem_is_float):
    model = graph_of(STEM.format(activation, kernel), W=normal(4, 4, 1, 1), V=normal(4, 4, 1, 1, seed=1))
    quantised(model)
    stem = node_of(model, "stem")
    assert (stem.inputs[0].name == "x") == stem_is_float
    assert stem.inputs[1].producer().op_type == "DequantizeLinear"  # an int8 kernel in any case
    assert node_of(model, "conv").inputs[0].producer().op_type == "DequantizeLinear"


@pytest.mark.parametrize(
    ("attributes", "made_by"),
    [("", "DequantizeLinear"), ("<pads=[0,0,0,0]>", "DequantizeLinear"), ('<auto_pad="SAME_UPPER">', "Add")],
)
def test_a_float_stem_behind_raw_pixels_stays_float(attributes, made_by):
    model = graph_of(
        STEM.format("g = Gelu(c)", "V").replace("Conv(x", f"Conv{attributes}(x"),
        W=normal(4, 4, 1, 1),
        V=normal(4, 4, 1, 1, seed=1),
    )
    raw_pixels(model, Preprocessing(4, 4, 4, (0.5,) * 4, (0.25,) * 4, ()))
    quantised(model)
    stem = node_of(model, "stem")
    source = stem.inputs[0].producer()
    assert source.op_type == made_by
    assert made_by == "Add" or source.inputs[0] is model.graph.inputs[0]
    assert node_of(model, "conv").inputs[0].producer().inputs[0].producer().op_type == "QuantizeLinear"


MOVING = """(float[1,4,4,4] x) => (float[1,4,"h","w"] y) {{
    [conv] c = Conv(x, W)
    [move] {}
    [conv2] y = Conv(m, {})
}}"""


@pytest.mark.parametrize(
    ("op", "tied"),
    [
        ("m = Pad(c, amounts)", True),
        ("m = Pad(c, amounts, zero)", True),
        ('m = Pad<mode="reflect">(c, amounts)', True),
        ("m = Pad(c, amounts, half)", False),
        ('m = Resize<mode="nearest">(c, , scales)', True),
        ('m = Resize<mode="linear">(c, , scales)', False),
        ("m, n = Split<axis=1, num_outputs=2>(c)", True),
        ("m = Gather<axis=1>(c, order)", True),
    ],
)
def test_ops_that_move_values_keep_the_scale(op, tied):
    model = graph_of(
        MOVING.format(op, "V" if "Split" in op else "W"),
        W=normal(4, 4, 1, 1),
        V=normal(4, 2, 1, 1),
        amounts=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        scales=np.array([1, 1, 2, 2], np.float32),
        order=np.array([2, 0, 3, 1]),
        zero=np.float32(0),
        half=np.float32(0.5),
    )
    placement = quantised(model)
    assert {value.name: source.name for value, source in placement.tied.items()}.get("m") == ("c" if tied else None)
    assert scale_of(node_of(model, "conv2").inputs[0]) is not None
    if "Split" in op:
        assert len(placement.tied) == 2


def float_model(network, size):
    checkpoint = small_checkpoint(network, size)
    return float_graph(checkpoint.model, inputs_of(checkpoint)[:1], 20)[0]


def integer_inputs(model, op):
    """For every `op`: whether all its inputs but constants are integers in disguise."""
    return [
        all(v.is_initializer() or getattr(v.producer(), "op_type", "") == "DequantizeLinear" for v in node.inputs)
        for node in model.graph
        if node.op_type == op
    ]


def test_a_convmixer_adds_in_float():
    model = float_model(ConvMixer(8, 3, 3, 2, 2), 12)
    quantised(model)
    assert integer_inputs(model, "Add") == [False] * 3
    assert integer_inputs(model, "Conv") == [False] + [True] * 6  # the stem keeps float activations
    assert integer_inputs(model, "Gelu") == [False] + [True] * 6


def test_an_se_resnet_adds_multiplies_pools_and_gates_in_integers():
    model = float_model(SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4), 12)
    quantised(model)
    for op in ("Add", "Mul", "Sigmoid", "GlobalAveragePool"):
        found = integer_inputs(model, op)
        assert found and all(found), op


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_an_image_that_is_padded_to_n_channels_is_moved_as_codes_to_layers_and_residual(file_format):
    model = float_model(ShardResNet(8, (2,)), 12)
    quantize_kernels(model, "int8")
    absorb_batch_norm(model)
    placement = place_activations(model, file_format)
    pad, first_add = (next(node for node in model.graph if node.op_type == op) for op in ("Pad", "Add"))
    image = model.graph.inputs[0]
    assert (pad, 0) in placement.reads and placement.source(pad.outputs[0]) is image
    assert {(first_add, 0), (first_add, 1)} <= set(placement.reads)


def test_an_image_that_is_padded_for_float_ops_alone_stays_float():
    model = graph_of(
        """(float[1,3,4,4] x) => (float[1,4,4,4] y) {
            [pad] p = Pad(x, amounts)
            [gelu] y = Gelu(p)
        }""",
        amounts=np.array([0, 0, 0, 0, 0, 1, 0, 0]),
    )
    assert quantised(model).reads == []


def test_a_chain_of_convolutions_is_integer_from_input_to_head():
    model = float_model(SharedConvs(), 12)
    quantised(model)
    assert integer_inputs(model, "Conv") == [True] * 4
    assert integer_inputs(model, "GlobalAveragePool") == [True]
    zero_points = {constant(n.inputs[2]).item() for n in model.graph if n.op_type == "QuantizeLinear"}
    named = [v for v in model.graph.initializers if v.startswith("zero_point_")]
    assert len(named) == len(zero_points)  # one constant per value, not per activation
