"""The three kinds of int8, end to end: one stored kernel per group, real ONNX Runtime, calibration for static only."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from networks import SharedConvs, inputs_of, randomise_batch_norm, small_checkpoint
from onnx import numpy_helper
from torch import nn

from edgeks.audit.footprint import footprint
from edgeks.audit.onnx.proof import prove_exactly_once
from edgeks.checkpoint import Checkpoint
from edgeks.errors import ConfigError, GraphError, SharingBroken
from edgeks.exporter import export
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

TARGETS = {name: load_target(name) for name in ("onnx", "onnx-x64", "rpi-4")}
KINDS = ("static", "dynamic", "float")


class Bare(nn.Module):
    """No BN: grouped and dilated convolutions, one of stride 2 on the same kernel, Linear layers that share, Conv1d."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2)
        self.grouped, self.again = (nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False) for _ in "ab")
        self.wide, self.narrow = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, stride=2)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.fc, self.fc2, self.head = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 5)
        self.b.weight, self.again.weight, self.fc2.weight = self.a.weight, self.grouped.weight, self.fc.weight
        self.narrow.weight = self.wide.weight
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3 if parameter.ndim > 1 else 0.5)  # else the last bias is all that there is to see

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(torch.relu(self.stem(x))))))
        x = torch.relu(self.again(torch.relu(self.grouped(x))))
        x = torch.relu(self.narrow(torch.relu(self.wide(x))))
        x = self.line(x.flatten(2)).mean(2)
        return self.head(torch.relu(self.fc2(torch.relu(self.fc(x)))))


class Inverted(nn.Module):
    """MobileNet's block twice on shared kernels: pointwise → BN → ReLU6 → depthwise → BN → ReLU6 → pointwise → BN."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.ModuleList(nn.Conv2d(8, 16, 1, bias=False) for _ in range(2))
        self.depthwise = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(2))
        for layers in (self.wide, self.depthwise, self.narrow):
            layers[1].weight = layers[0].weight
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (16, 16, 8) * 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for i in range(2):
            first, second, third = self.norms[3 * i : 3 * i + 3]
            y = nn.functional.relu6(first(self.wide[i](x)))
            y = nn.functional.relu6(second(self.depthwise[i](y)))
            x = x + third(self.narrow[i](y))
        return self.head(x.mean((2, 3)))


def nets():
    return {
        "ConvMixer": ConvMixer(16, 4, 3, 2, 2),
        "SE-ResNet": SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4),
        "strides and dilations": SharedConvs(8, (1, 2, 1), dilations=(1, 1, 2), bias=True),
        "depthwise": SharedConvs(8, (1, 2, 1), groups=8),
        "no BN": Bare(),
        "inverted residuals": Inverted(),
    }


def exported(checkpoint, path, kind, target="onnx", **options):
    options = Int8Options(activations=kind, **options)
    return export(checkpoint, path, TARGETS[target], int8=True, options=options)


@pytest.mark.parametrize("name", nets())
def test_every_kind_holds_each_kernel_once_and_is_near_torch(name, tmp_path):
    checkpoint = small_checkpoint(nets()[name], negative=0.3)
    fp32 = export(checkpoint, tmp_path / "fp32.onnx", TARGETS["onnx"])
    sqnr = {}
    for kind in KINDS:
        path = tmp_path / f"{kind}.onnx"
        report = exported(checkpoint, path, kind)
        sqnr[kind] = report.parity.sqnr_db
        assert report.parity.sqnr_db > 20 and report.parity_here.sqnr_db > 15, kind
        assert report.proof.kernels_stored == fp32.proof.kernels_stored, kind
        assert [g.layers for g in report.proof.groups] == [g.layers for g in fp32.proof.groups], kind
        assert {g.dtype for g in report.proof.groups} <= {"int8", "uint8"}, kind
        flash = footprint(path).flash
        assert flash.kernels == fp32.proof.kernels_stored and not flash.scaled_copies
        assert sorted(len(s.layers) for s in flash.shared) == sorted(len(g.layers) for g in fp32.proof.groups)
        assert all(s.dtype in ("int8", "uint8") for s in flash.shared)
    assert sqnr["float"] > sqnr["static"] - 1 and sqnr["float"] > sqnr["dynamic"] - 1
    assert sqnr["dynamic"] > sqnr["static"] - 3


@pytest.mark.parametrize("kind", ["dynamic", "float"])
@pytest.mark.parametrize("target", ["onnx-x64", "rpi-4"])
def test_on_the_other_targets(kind, target, tmp_path):
    report = exported(small_checkpoint(Inverted()), tmp_path / "m.onnx", kind, target)
    assert report.parity.sqnr_db > 20 and report.parity_here.sqnr_db > 20
    assert report.form == {"dynamic": "dynamic", "float": "weight-only"}[kind]


@pytest.mark.parametrize("kind", ["dynamic", "float"])
def test_no_calibration_is_needed(kind, tmp_path):
    network = randomise_batch_norm(SharedConvs(), torch.randn(8, 3, 12, 12))
    options = Int8Options(activations=kind)
    report = export(
        Checkpoint(model=network),
        tmp_path / "m.onnx",
        TARGETS["onnx"],
        int8=True,
        options=options,
        input_shape=(3, 12, 12),
    )
    assert report.proof.kernels_stored == 3 and report.parity.sqnr_db > 15
    assert any("random noise" in warning for warning in report.warnings)


def test_an_activation_that_several_layers_read_is_quantised_once(tmp_path):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.a, self.b = (nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4, 4))
            self.b.weight = self.a.weight

        def forward(self, x):
            x = self.stem(x)
            return self.a(x) + self.b(x)

    exported(small_checkpoint(Fork(), 8), tmp_path / "m.onnx", "dynamic")
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node)
    assert nodes["DynamicQuantizeLinear"] == 1 and nodes["ConvInteger"] == 2


def test_a_bias_that_layers_share_stays_one_constant(tmp_path):
    exported(small_checkpoint(ConvMixer(16, 6, 3, 2, 2)), tmp_path / "m.onnx", "dynamic")
    graph = onnx.load(tmp_path / "m.onnx").graph
    products = {node.output[0] for node in graph.node if node.op_type == "Mul"}
    constants = {tensor.name for tensor in graph.initializer}
    gelus = {node.input[0] for node in graph.node if node.op_type == "Gelu"}
    biases = [n.input[1] for n in graph.node if n.op_type == "Add" and n.input[0] in products and n.output[0] in gelus]
    assert len(biases) == 6 and len(set(biases)) == 1 and set(biases) <= constants


@pytest.mark.parametrize("kind", ["dynamic", "float"])
def test_a_second_copy_is_found_by_the_proof(kind, tmp_path):
    path = tmp_path / "m.onnx"
    report = exported(small_checkpoint(SharedConvs()), path, kind)
    model = onnx.load(path)
    constant = report.proof.groups[0].constant
    kernel = next(t for t in model.graph.initializer if t.name == constant)
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(kernel), "copy"))
    onnx.save(model, path)
    with pytest.raises(SharingBroken, match="copy"):
        prove_exactly_once(path, report.ledger.plan)


def test_a_dead_activation_has_no_range(tmp_path):
    network = SharedConvs()
    checkpoint = small_checkpoint(network)
    with torch.no_grad():
        network.norms[1].bias.fill_(-100)  # all below 0: the ReLU behind it leaves zeros
    report = exported(checkpoint, tmp_path / "m.onnx", "dynamic")
    assert report.parity_here.sqnr_db > 20


def test_a_group_that_is_kept_in_float(tmp_path):
    checkpoint = small_checkpoint(ConvMixer(16, 4, 3, 2, 2))
    (first, second) = export(checkpoint, tmp_path / "f.onnx", TARGETS["onnx"]).proof.groups
    for kind in ("dynamic", "float"):
        report = exported(checkpoint, tmp_path / "m.onnx", kind, keep_float=(first.group,))
        assert [g.dtype for g in report.proof.groups] == ["float32", "int8"], kind
        assert [g.layers for g in report.proof.groups] == [first.layers, second.layers], kind


def test_a_network_without_kernels_is_refused(tmp_path):
    checkpoint = small_checkpoint(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), 8)
    for kind in ("dynamic", "float"):
        with pytest.raises(GraphError, match="no layer whose kernel can be quantised"):
            exported(checkpoint, tmp_path / "m.onnx", kind)
    assert list(tmp_path.iterdir()) == []


def test_a_form_is_about_static_activations():
    with pytest.raises(ConfigError, match="form qoperator is about static activations, not dynamic; leave it out"):
        Int8Options(form="qoperator", activations="dynamic")


def test_the_target_chooses_where_nothing_is_asked(tmp_path):
    text = (tmp_path / "mine.toml", TARGETS["onnx"])
    text[0].write_text('description = "x"\nformat = "onnx"\nruntime = "onnxruntime"\n[int8]\nmode = "dynamic"\n')
    target = load_target(str(text[0]))
    assert export(small_checkpoint(SharedConvs()), tmp_path / "m.onnx", target, int8=True).form == "dynamic"
    assert Int8Options(form="qdq").scheme(target.int8).mode == "static"
    assert Int8Options(activations="float").scheme(target.int8).mode == "float"


def test_inputs_that_are_constant_calibrate_nothing_but_are_no_obstacle(tmp_path):
    checkpoint = small_checkpoint(SharedConvs())
    checkpoint.calibration = np.full_like(checkpoint.calibration, 200)
    assert inputs_of(checkpoint).min() == inputs_of(checkpoint).max()
    assert exported(checkpoint, tmp_path / "m.onnx", "float").parity.sqnr_db > 20
