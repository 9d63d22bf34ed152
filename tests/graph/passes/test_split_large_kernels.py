"""A large depthwise kernel becomes tiles: the function stays, every tile is one Value for all layers of its group."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx_text import constant, graph_of, node_of, normal, ops, run_graph

from edgeks.audit.onnx.proof import prove_exactly_once
from edgeks.formats.onnx import write_onnx
from edgeks.graph.float_graph import float_graph
from edgeks.graph.kernels import readers
from edgeks.graph.ledger import Ledger
from edgeks.graph.marks import MARKS, marks
from edgeks.graph.passes.split_large_kernels import split_large_kernels, tiling
from edgeks.graph.verify import verify
from edgeks.models.convmixer import ConvMixer
from edgeks.quant.options import Int8Options
from edgeks.quant.quantise import quantise
from edgeks.samples import Samples
from edgeks.sharing.plan import SharingGroup, SharingPlan
from edgeks.target import Int8Scheme


def split(model, *layers, shape, bias="none"):
    """The pass through the ledger, with one group of `layers`."""
    group = SharingGroup("dw", layers, shape, bias)
    plan = SharingPlan((group,)) if len(layers) > 1 else SharingPlan((), (group,))
    ledger = Ledger(plan)
    ledger.replan("split_large_kernels", model, lambda: split_large_kernels(model, ledger.plan))
    return ledger


def convolution(size, kernel, stride, dilation, pads, channels, bias):
    """One depthwise layer over a map (or a line)."""
    rank = len(size)
    free = ",".join(f'"o{axis}"' for axis in range(rank))
    return graph_of(
        f"""(float[1,{channels},{",".join(map(str, size))}] x) => (float[1,{channels},{free}] y) {{
            [dw] y = Conv<group={channels}, strides={list(stride)}, dilations={list(dilation)}, {pads}>
                (x, W{", b" * bias})
        }}""",
        W=normal(channels, 1, *kernel),
        **({"b": normal(channels, seed=1)} if bias else {}),
    )


@st.composite
def geometries(draw):
    """Kernels of 26 to 143 taps with any stride, dilation and padding that leaves at least one output."""
    rank = draw(st.sampled_from([1, 2, 2, 2]))
    kernel = draw(st.tuples(*[st.integers(1, 60 if rank == 1 else 12)] * rank).filter(lambda k: math.prod(k) > 25))
    stride, dilation = (draw(st.tuples(*[st.integers(1, 3)] * rank)) for _ in range(2))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    begin, end = (draw(st.tuples(*[st.integers(0, r - 1) for r in reach])) for _ in range(2))
    size = [max(1, r - b - e) + draw(st.integers(0, 6)) for r, b, e in zip(reach, begin, end, strict=True)]
    auto = draw(st.sampled_from(["NOTSET"] * 4 + ["SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "VALID":
        size = [n + r - 1 for n, r in zip(size, reach, strict=True)]
    pads = f"pads={[*begin, *end]}" if auto == "NOTSET" else f'auto_pad="{auto}"'
    if auto.startswith("SAME"):
        dilation = (1,) * rank  # ONNX Runtime refuses to dilate with it
    return size, kernel, stride, dilation, pads, draw(st.integers(2, 3)), draw(st.booleans())


@given(geometries())
def test_the_function_stays(geometry):
    model = convolution(*geometry)
    x = normal(1, geometry[5], *geometry[0], seed=2)
    before = run_graph(model, x)[0]
    ledger = split(model, "dw", shape=constant(model.graph.initializers["W"]).shape)
    if "dw (its map is smaller" in ledger.rows[-1].note:
        assert any(n < k for n, k in zip(geometry[0], geometry[1], strict=True)) and ops(model) == ["Conv"]
        return
    assert all(math.prod(constant(kernel).shape[2:]) <= 25 for kernel in readers(model))
    assert "W" not in model.graph.initializers and model.graph.outputs[0].name == "y"
    after = run_graph(model, x)[0]
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * math.sqrt(math.prod(geometry[1])))


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_every_tap_is_in_exactly_one_tile(size):
    count = np.zeros(size, int)
    for tile in tiling(size):
        assert count[tile.taps].size <= 25
        count[tile.taps] += 1
    assert (count == 1).all()


@pytest.mark.parametrize(
    ("size", "tiles"),
    [
        ((5, 5), [(5, 5)]),
        ((7, 7), [(2, 4), (2, 3)] * 3 + [(1, 4), (1, 3)]),
        ((9, 9), [(3, 3)] * 9),
        ((11, 11), [(a, b) for a in (3, 3, 3, 2) for b in (3, 3, 3, 2)]),
        ((13, 13), [(a, b) for a in (3, 3, 3, 2, 2) for b in (3, 3, 3, 2, 2)]),
    ],
)
def test_the_tiles_that_were_measured_to_be_fastest(size, tiles):
    assert [np.zeros(size)[tile.taps].shape for tile in tiling(size)] == tiles


def two_layers(more="", outputs="float[1,4,9,9] y"):
    """Two layers of one 9×9 kernel, of other stride and padding, each with a bias."""
    return graph_of(
        f"""(float[1,4,18,18] x) => ({outputs}) {{
            [a] p = Conv<group=4, strides=[2,2], pads=[4,4,4,4]>(x, W, b1)
            [b] y = Conv<group=4, pads=[3,4,5,4]>(p, W, b2)
            {more}
        }}""",
        W=normal(4, 1, 9, 9),
        b1=normal(4, seed=1),
        b2=normal(4, seed=2),
    )


def test_tiles_are_shared_as_the_kernel_was_and_proven(tmp_path):
    model = two_layers()
    x = normal(1, 4, 18, 18, seed=3)
    before = run_graph(model, x)[0]
    bytes_before = constant(model.graph.initializers["W"]).nbytes
    ledger = split(model, "a", "b", shape=(4, 1, 9, 9), bias="own")
    found = readers(model)
    assert list(found.values()) == [[f"a#tile{n}", f"b#tile{n}"] for n in range(9)]
    assert sum(constant(kernel).nbytes for kernel in found) == bytes_before
    assert [group.name for group in ledger.plan.groups] == [f"dw#tile{n}" for n in range(9)]
    assert [group.bias for group in ledger.plan.groups] == ["own"] + ["none"] * 8
    assert [len(node.inputs) for node in model.graph if node.op_type == "Conv"] == ([3] + [2] * 8) * 2
    assert ops(model).count("Add") == 16 and "Slice" not in ops(model)
    assert ledger.rows[-1].note == "1 kernel of 2 layers split into tiles of at most 25 taps"
    np.testing.assert_allclose(run_graph(model, x)[0], before, rtol=1e-5, atol=1e-4)
    write_onnx(model, tmp_path / "m.onnx", {})
    proof = prove_exactly_once(tmp_path / "m.onnx", ledger.plan)
    assert (proof.kernels_stored, len(proof.groups)) == (9, 9)


def test_pads_that_are_too_small_are_a_crop():
    model = convolution((20, 20), (9, 9), (1, 1), (1, 1), "pads=[0,1,4,4]", 2, False)
    split(model, "dw", shape=(2, 1, 9, 9))
    assert ops(model).count("Slice") == 7
    crop = node_of(model, "dw#tile2.crop")  # the third phase of columns: one column is read by none of its taps
    assert constant(crop.inputs[3]).tolist() == [2, 3] or constant(crop.inputs[3]).tolist() == [3]


def outside(text, **constants):
    model = graph_of(text, **constants)
    before = ops(model)
    plan = SharingPlan((), (SharingGroup("dw", ("dw",), (1,)),))
    after, note = split_large_kernels(model, plan)
    assert after == plan and ops(model) == before
    return note


def test_kernels_that_stay_whole():
    nothing = "0 kernels of 0 layers split into tiles of at most 25 taps"
    shape = '(float[1,4,12,12] x) => (float[1,{},"h","w"] y)'
    assert outside(f"{shape.format(4)} {{ [dw] y = Conv<group=4>(x, W) }}", W=normal(4, 1, 5, 5)) == nothing
    assert outside(f"{shape.format(4)} {{ [dw] y = Conv(x, W) }}", W=normal(4, 4, 9, 9)) == nothing
    assert outside(f"{shape.format(4)} {{ [dw] y = Conv<group=2>(x, W) }}", W=normal(4, 2, 9, 9)) == nothing
    wider = outside(f"{shape.format(8)} {{ [dw] y = Conv<group=4>(x, W) }}", W=normal(8, 1, 9, 9))
    assert wider == f"{nothing}; kept whole: dw (more outputs than inputs)"
    other = "[dw] y = Conv<group=4>(x, W) [square] z = Mul(W, W)"
    outputs = shape.format(4).replace(" y)", " y, float[4,1,9,9] z)")
    assert outside(f"{outputs} {{ {other} }}", W=normal(4, 1, 9, 9)).endswith(
        "dw (its kernel is also read by other ops)"
    )


def test_a_plan_is_verified_against_the_tiles():
    model = two_layers()
    ledger = split(model, "a", "b", shape=(4, 1, 9, 9), bias="own")
    verify(model, ledger.plan, "again")
    assert ledger.plan.layer_count == 18 and ledger.rows[-1].copies == 0


@pytest.mark.parametrize("mode", ["float", "dynamic"])
def test_the_tiles_of_a_convmixer_are_stored_as_int8_once_each(mode, tmp_path):
    torch.manual_seed(0)
    network = ConvMixer(8, 4, 9, 2, kernels=2, classes=3).eval()
    x = normal(1, 3, 16, 16)
    model, ledger = float_graph(network, x, opset=20)
    before = run_graph(model, x)[0]
    ledger.replan("split_large_kernels", model, lambda: split_large_kernels(model, ledger.plan))
    np.testing.assert_allclose(run_graph(model, x)[0], before, rtol=1e-5, atol=1e-6)
    quantise(model, ledger, Samples(x, "x", True), Int8Scheme("qdq", "int8", "int8", mode), Int8Options())
    write_onnx(model, tmp_path / "m.onnx", {})
    proof = prove_exactly_once(tmp_path / "m.onnx", ledger.plan)
    depthwise = [kernel for kernel in proof.groups if "depthwise#tile" in kernel.group]
    assert [(kernel.dtype, len(kernel.layers)) for kernel in depthwise] == [("int8", 4)] * 9
    np.testing.assert_allclose(run_graph(model, x)[0], before, atol=0.05 * np.abs(before).max())


def test_tiles_carry_the_scales_that_training_decided():
    model = two_layers()
    model.graph.initializers["W"].meta[MARKS] = [7]
    split(model, "a", "b", shape=(4, 1, 9, 9), bias="own")
    assert all(marks(kernel) == [7] for kernel in readers(model))
