"""Files of other tools → float graphs whose equal kernels are one Value, of nodes that only depend on the input."""

import numpy as np
import onnx
import pytest
import torch
from networks import SharedConvs, small_checkpoint
from onnx_files import by_text, by_torch, groups
from onnx_text import normal, ops, run_graph
from torch import nn

from edgeks.errors import DataError, GraphError, ModelFileError
from edgeks.export_source import onnx_outputs
from edgeks.graph.from_onnx import float_graph_from_onnx
from edgeks.graph.kernels import readers
from edgeks.graph.onnx_network import load_onnx
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet

NETS = {
    "plain": lambda: SharedConvs(bias=True),
    "ConvMixer": lambda: ConvMixer(8, 4, 3, 2, 2),
    "SE-ResNet": lambda: SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4),
}
FILES = {
    "legacy 11": (11, {"do_constant_folding": False}),
    "legacy 13": (13, {"do_constant_folding": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}),
    "legacy 17": (17, {"do_constant_folding": False, "keep_initializers_as_inputs": True}),
    "legacy 20": (20, {"do_constant_folding": False}),
    "dynamo 18": (18, {"dynamo": True}),
    "dynamo 20": (20, {"dynamo": True, "dynamic": True, "dynamic_shapes": ({0: torch.export.Dim("n")},)}),
    "dynamo 22": (22, {"dynamo": True}),
}


def graph_of_file(path, shape=None, opset=20):
    network = load_onnx(path)
    return network, *float_graph_from_onnx(network, network.input_shape(shape), opset)


def require_same_outputs(network, graph, samples):
    for index in range(len(samples)):
        expected = onnx_outputs(network, samples[index : index + 1])
        for found, wanted in zip(run_graph(graph, samples[index : index + 1]), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", NETS)
def test_torch_s_exporters(name, kind, tmp_path):
    model = small_checkpoint(NETS[name](), negative=0.3).model
    opset, options = FILES[kind]
    network, graph, ledger, warnings = graph_of_file(by_torch(model, tmp_path / "net.onnx", opset, **options))
    expected = {
        "plain": {("convs.0", "convs.1", "convs.2")},
        "ConvMixer": {
            tuple(f"blocks.{i}.depthwise" for i in range(4)),
            tuple(f"blocks.{i}.pointwise" for i in range(4)),
        },
        "SE-ResNet": {(f"stages.{i}.0.conv2", f"stages.{i}.1.conv1", f"stages.{i}.1.conv2") for i in (1, 2)},
    }[name]
    assert groups(ledger.plan) == expected
    assert ledger.rows[-1].copies == 0 and not warnings
    assert not {"Shape", "Gather", "Constant", "Cast", "Identity", "Erf", "Dropout"} & set(ops(graph))
    assert all(value.shape.is_static() for node in graph.graph for value in node.outputs)
    assert len({node.name for node in graph.graph}) == len(graph.graph)
    require_same_outputs(network, graph, normal(3, 3, 12, 12))


@pytest.mark.parametrize("opset", [11, 17])
def test_bn_that_another_tool_folded_is_reported(opset, tmp_path):
    model = small_checkpoint(SharedConvs(), negative=0.3).model
    _, _, ledger, warnings = graph_of_file(by_torch(model, tmp_path / "net.onnx", opset, do_constant_folding=True))
    assert not ledger.plan.groups and len(ledger.plan.unshared) == 5
    assert len(warnings) == 1
    assert "3 kernels are equal up to a factor per channel (convs.0, convs.1, convs.2)" in warnings[0]
    assert "4,608 bytes" in warnings[0] and "do_constant_folding=False" in warnings[0]


def test_onnxsim(tmp_path):
    import onnxsim

    model = small_checkpoint(SharedConvs()).model
    path = by_torch(model, tmp_path / "net.onnx", 17, do_constant_folding=False)
    for skip in (True, False):
        proto, _ = onnxsim.simplify(onnx.load(path), skip_fuse_bn=skip)
        simplified = tmp_path / "simplified.onnx"
        onnx.save(proto, simplified)
        network, graph, ledger, warnings = graph_of_file(simplified)
        assert groups(ledger.plan) == ({("convs.0", "convs.1", "convs.2")} if skip else set())
        assert bool(warnings) == (not skip)
        require_same_outputs(network, graph, normal(2, 3, 12, 12))


def test_every_disguise_of_one_kernel(tmp_path):
    """Through Identity, equal bytes, a cast from float16, a Reshape, a Transpose: one Value in the end."""
    kernel = (normal(4, 4, 3, 3) * 0.2).astype(np.float16)
    path = by_text(
        tmp_path / "net.onnx",
        """(float[N,4,6,6] x) => (float[N,4,6,6] y) {
            same = Identity(W)
            from16 = Cast<to=1>(W16)
            [reshape] reshaped = Reshape(flat, shape)
            turned = Transpose<perm=[1,0,2,3]>(other_way)
            a = Conv<pads=[1,1,1,1]>(x, W)
            b = Conv<pads=[1,1,1,1]>(a, same)
            c = Conv<pads=[1,1,1,1]>(b, copy)
            d = Conv<pads=[1,1,1,1]>(c, from16)
            e = Conv<pads=[1,1,1,1]>(d, reshaped)
            y = Conv<pads=[1,1,1,1]>(e, turned)
        }""",
        W=kernel.astype(np.float32),
        copy=kernel.astype(np.float32),
        W16=kernel,
        flat=kernel.astype(np.float32).reshape(-1),
        shape=np.array([4, 4, 3, 3]),
        other_way=np.ascontiguousarray(kernel.astype(np.float32).transpose(1, 0, 2, 3)),
    )
    network, graph, ledger, _ = graph_of_file(path)
    assert [group.layers for group in ledger.plan.groups] == [tuple(f"Conv.{name}" for name in "abcdey")]
    assert ops(graph) == ["Conv"] * 6 and len(readers(graph)) == 1
    require_same_outputs(network, graph, normal(2, 4, 6, 6))


def test_shape_arithmetic_of_a_dynamic_file_becomes_constants(tmp_path):
    path = by_text(
        tmp_path / "net.onnx",
        """(float[N,4,H,W] x) => (float[N,K] y) {
            c = Conv<pads=[1,1,1,1]>(x, K)
            s = Shape(x)
            n = Gather<axis=0>(s, zero)
            n1 = Unsqueeze(n, axis)
            shape = Concat<axis=0>(n1, minus)
            y = Reshape(c, shape)
        }""",
        17,
        K=normal(4, 4, 3, 3),
        zero=np.array(0),
        axis=np.array([0]),
        minus=np.array([-1]),
    )
    network, graph, _, _ = graph_of_file(path, (4, 6, 8))
    assert ops(graph) == ["Conv", "Reshape"]
    assert tuple(graph.graph.outputs[0].shape) == (1, 4 * 6 * 8)
    require_same_outputs(network, graph, normal(2, 4, 6, 8))


def test_an_if_that_the_shapes_decide_is_no_control_flow(tmp_path):
    path = by_text(
        tmp_path / "net.onnx",
        """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
            s = Size(x)
            large = Greater(s, ten)
            y = If(large) <
                then_branch = then () => (float[1,4,6,6] t) { t = Conv<pads=[1,1,1,1]>(x, K) },
                else_branch = other () => (float[1,4,6,6] e) { e = Relu(x) }
            >
        }""",
        K=normal(4, 4, 3, 3),
        ten=np.array(10),
    )
    network, graph, _, _ = graph_of_file(path)
    assert ops(graph) == ["Conv"]
    require_same_outputs(network, graph, normal(1, 4, 6, 6))


def test_control_flow_that_the_input_decides(tmp_path):
    path = by_text(
        tmp_path / "net.onnx",
        """(float[1,4,6,6] x) => (float[1,4,6,6] y) {
            m = ReduceMax<keepdims=0>(x)
            large = Greater(m, ten)
            [switch] y = If(large) <
                then_branch = then () => (float[1,4,6,6] t) { t = Relu(x) },
                else_branch = other () => (float[1,4,6,6] e) { e = Neg(x) }
            >
        }""",
        ten=np.array(10, np.float32),
    )
    with pytest.raises(GraphError, match=r"depends on the input \(If 'switch'\); .* trace the network"):
        graph_of_file(path)


def test_volumes(tmp_path):
    path = by_text(
        tmp_path / "net.onnx",
        """(float[1,4,6,6] x) => (float[1,2,3,6,6] y) {
            v = Unsqueeze(x, axis)
            [conv3d] y = Conv(v, K)
        }""",
        K=normal(2, 1, 2, 1, 1),
        axis=np.array([1]),
    )
    with pytest.raises(GraphError, match=r"computes on volumes, 5-D tensors \(Conv 'conv3d'\)"):
        graph_of_file(path)


def test_a_channel_shuffle_goes_through_five_dimensions(tmp_path):
    class Shuffle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            n, c, h, w = y.shape
            return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    network, graph, _, _ = graph_of_file(by_torch(Shuffle(), tmp_path / "net.onnx", 17))
    require_same_outputs(network, graph, normal(2, 3, 12, 12))


def test_a_graph_of_constants(tmp_path):
    text = "(float[1,4,6,6] x) => (float[1,4,6,6] y) { z = Relu(x) y = Neg(K) }"
    with pytest.raises(GraphError, match="computes nothing from its input"):
        graph_of_file(by_text(tmp_path / "net.onnx", text, K=normal(1, 4, 6, 6)))


def test_a_graph_that_hands_its_input_on(tmp_path):
    text = "(float[1,4,6,6] x) => (float[1,4,6,6] y) { z = Identity(x) y = Identity(z) }"
    with pytest.raises(GraphError, match="computes nothing from its input"):
        graph_of_file(by_text(tmp_path / "net.onnx", text))


def test_a_constant_that_would_fill_the_memory_is_not_computed(tmp_path):
    path = by_text(
        tmp_path / "net.onnx",
        """(float[1,4,6,6] x) => (float[1,4,6,6] y, float[N] z) {
            y = Conv<pads=[1,1,1,1]>(x, K)
            z = ConstantOfShape(huge)
        }""",
        K=normal(4, 4, 3, 3),
        huge=np.array([1 << 40]),
    )
    _, graph, _, _ = graph_of_file(path)
    assert "ConstantOfShape" in ops(graph)


def test_shapes_that_contradict_each_other(tmp_path):
    path = by_text(
        tmp_path / "net.onnx",
        "(float[1,4,6,6] x) => (float[1,4,6,6] y) { c = Conv(x, K) y = Add(c, b) }",
        K=normal(4, 3, 3, 3),
        b=normal(1, 4, 5, 5),
    )
    with pytest.raises((DataError, ModelFileError), match=r"net\.onnx"):
        onnx_outputs(load_onnx(path), normal(1, 4, 6, 6))


def test_an_operator_that_the_target_s_opset_does_not_have(tmp_path):
    path = by_text(
        tmp_path / "net.onnx",
        "(float[1,4,6,6] x) => (float[1,4,6,6] y) { c = Conv<pads=[1,1,1,1]>(x, K) y = RMSNormalization(c, s) }",
        23,
        K=normal(4, 4, 3, 3),
        s=normal(6),
    )
    with pytest.raises(GraphError, match="cannot be converted from opset 23 to the target's 20"):
        graph_of_file(path)
    _, graph, _, _ = graph_of_file(path, opset=23)
    assert ops(graph) == ["Conv", "RMSNormalization"]


def test_a_kernel_with_nan(tmp_path):
    kernel = normal(4, 4, 3, 3)
    kernel[0, 0, 0, 0] = np.nan
    path = by_text(tmp_path / "net.onnx", "(float[1,4,6,6] x) => (float[1,4,4,4] y) { [c] y = Conv(x, K) }", K=kernel)
    with pytest.raises(GraphError, match="kernel of 'c' holds NaN or infinity"):
        graph_of_file(path)
