"""Export, end to end: real files, real ONNX Runtime, every shared kernel once, outputs near torch's."""

import hashlib
import json
from collections import defaultdict

import numpy as np
import onnx
import pytest
import torch
from networks import SharedConvs, checkpoint_of, small_checkpoint
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from edgeks.errors import DataError, GraphError, ParityFailed
from edgeks.exporter import export
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.quant.options import Int8Options
from edgeks.sharing.torch import untied
from edgeks.target import load_target

TARGETS = {name: load_target(name) for name in ("onnx", "onnx-x64")}
KINDS = {
    "QDQ": ("onnx", None),
    "QOperator": ("onnx", "qoperator"),
    "x64": ("onnx-x64", None),
    "x64 QOperator": ("onnx-x64", "qoperator"),
}


def small_nets():
    return {
        "ConvMixer, unshared": (ConvMixer(8, 4, 3, 2, 0), 19 - 9),
        "ConvMixer, 2 kernels": (ConvMixer(8, 4, 3, 2, 2), 4),
        "ConvMixer, 4 kernels": (ConvMixer(8, 4, 3, 2, 4), 6),
        "SE-ResNet": (SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4), None),
        "strides and dilations": (SharedConvs(8, (1, 2, 1), dilations=(1, 1, 2), bias=True), 3),
        "grouped": (SharedConvs(8, (1, 2, 1), groups=4), 3),
        "depthwise": (SharedConvs(8, (1, 2, 1), groups=8), 3),
    }


@pytest.mark.parametrize("name", small_nets())
def test_fp32_and_every_kind_of_int8(name, tmp_path):
    network, kernels = small_nets()[name]
    checkpoint = small_checkpoint(network, negative=0.4)
    fp32 = export(checkpoint, tmp_path / "fp32.onnx", TARGETS["onnx"])
    assert fp32.parity.sqnr_db >= 90 and fp32.parity_here.sqnr_db >= 90
    assert kernels is None or fp32.proof.kernels_stored == kernels
    kinds = KINDS if name == "SE-ResNet" else {"QDQ": KINDS["QDQ"]}
    for kind, (target, form) in kinds.items():
        report = export(checkpoint, tmp_path / "int8.onnx", TARGETS[target], int8=True, options=Int8Options(form=form))
        assert report.parity.sqnr_db > 20, kind
        assert report.proof.kernels_stored == fp32.proof.kernels_stored, kind
        assert [g.layers for g in report.proof.groups] == [g.layers for g in fp32.proof.groups], kind


class Free(nn.Module):
    """Convolutions a and b of one kernel, norms of their own, and a forward of the test's own."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.b.weight = self.a.weight
        self.norm_a, self.norm_b = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.up, self.head = nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(8, 5)
        self.fc, self.norm_fc = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.line, self.drop = nn.Conv1d(8, 8, 3, padding=1), nn.Dropout(0.5)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)

    def first(self, x):
        return self.norm_a(self.a(self.stem(x)))

    def last(self, x):
        return self.head(self.norm_b(self.b(x)).mean((2, 3)))


FORWARDS = {
    "one layer with BN, one without": lambda n, x: n.head(n.b(torch.relu(n.first(x))).mean((2, 3))),
    "pre-activation BN": lambda n, x: n.head(
        n.b(torch.relu(n.norm_b(n.a(torch.relu(n.norm_a(n.stem(x))))))).mean((2, 3))
    ),
    "concat": lambda n, x: n.head(torch.cat([n.first(x), n.norm_b(n.b(n.stem(x)))], 1).mean((2, 3))[:, ::2]),
    "max pool": lambda n, x: n.last(functional.max_pool2d(torch.relu(n.first(x)), 2)),
    "average pool": lambda n, x: n.last(functional.avg_pool2d(torch.relu(n.first(x)), 2)),
    "softmax": lambda n, x: n.last(torch.relu(n.first(x))).softmax(1),
    "sigmoid": lambda n, x: n.last(torch.sigmoid(n.first(x))),
    "hard swish": lambda n, x: n.last(functional.hardswish(n.first(x))),
    "SiLU": lambda n, x: n.last(functional.silu(n.first(x))),
    "ReLU6": lambda n, x: n.last(functional.relu6(n.first(x))),
    "hard tanh": lambda n, x: n.last(functional.hardtanh(n.first(x))),
    "ConvTranspose": lambda n, x: n.last(n.up(torch.relu(n.first(x)))),
    "dropout": lambda n, x: n.last(n.drop(torch.relu(n.first(x)))),
    "residual": lambda n, x: n.last(torch.relu(n.first(x)) + n.stem(x)),
    "one BN for two layers": lambda n, x: n.head(n.norm_a(n.b(torch.relu(n.first(x)))).mean((2, 3))),
    "Linear twice, BatchNorm1d": lambda n, x: n.head(n.fc(torch.relu(n.norm_fc(n.fc(n.stem(x).mean((2, 3))))))),
    "Linear on 3-D and 2-D": lambda n, x: n.head(n.fc(torch.relu(n.fc(n.stem(x).flatten(2).transpose(1, 2))).mean(1))),
    "Conv1d twice": lambda n, x: n.head(n.line(torch.relu(n.line(n.stem(x).flatten(2)))).mean(2)),
    "functional": lambda n, x: n.head(functional.conv2d(torch.relu(n.first(x)), n.a.weight, padding=1).mean((2, 3))),
    "two outputs, one inside": lambda n, x: (lambda y: (n.last(y), y))(torch.relu(n.first(x))),
    "a float Relu that is an output": lambda n, x: (lambda y: (n.last(y), y))(torch.relu(n.first(x).tanh())),
    "a map as output": lambda n, x: torch.relu(n.norm_b(n.b(torch.relu(n.first(x))))),
}


BOTH_FORMS = {"hard tanh", "two outputs, one inside"}


@pytest.mark.parametrize("name", FORWARDS)
def test_networks_of_many_kinds(name, tmp_path):
    checkpoint = small_checkpoint(Free(FORWARDS[name]), 8, negative=0.3)
    fp32 = export(checkpoint, tmp_path / "fp32.onnx", TARGETS["onnx"])
    assert fp32.parity.sqnr_db >= 90
    assert any(len(g.layers) == 2 and g.layers != ("stem", "stem#2") for g in fp32.proof.groups)
    for form in ("qdq", "qoperator") if name in BOTH_FORMS else ("qdq",):
        int8 = export(checkpoint, tmp_path / "int8.onnx", TARGETS["onnx"], int8=True, options=Int8Options(form=form))
        assert int8.parity.sqnr_db > 25
        assert [g.layers for g in int8.proof.groups] == [g.layers for g in fp32.proof.groups]
    options = Int8Options(activations="dynamic")
    dynamic = export(checkpoint, tmp_path / "dynamic.onnx", TARGETS["onnx"], int8=True, options=options)
    assert dynamic.parity.sqnr_db > 30 and dynamic.parity_here.sqnr_db > 25
    assert [g.layers for g in dynamic.proof.groups] == [g.layers for g in fp32.proof.groups]
    assert {g.dtype for g in dynamic.proof.groups} <= {"int8", "uint8"}


def test_simplify_keeps_ties(tmp_path):
    checkpoint = small_checkpoint(SharedConvs())
    report = export(checkpoint, tmp_path / "m.onnx", TARGETS["onnx"], run_simplifier=True)
    assert "onnxsim" in [row.step for row in report.ledger.rows]
    assert report.proof.kernels_stored == 3 and report.parity.sqnr_db >= 90


def test_the_qoperator_file_opened_with_plain_onnx_shows_one_initializer_per_group(tmp_path):
    checkpoint = small_checkpoint(SharedConvs(8, (1, 1, 1, 1, 1)))
    export(checkpoint, tmp_path / "m.onnx", TARGETS["onnx"], int8=True, options=Int8Options(form="qoperator"))
    graph = onnx.load(tmp_path / "m.onnx").graph
    initializers = {t.name: t for t in graph.initializer}
    readers = defaultdict(list)
    for node in graph.node:
        if node.op_type == "QLinearConv":
            readers[node.input[3]].append(node.name)
    assert sorted(map(len, readers.values())) == [1, 5]
    kernel = max(readers, key=lambda name: len(readers[name]))
    assert readers[kernel] == [f"convs.{i}" for i in range(5)]
    assert initializers[kernel].data_type == onnx.TensorProto.INT8
    assert list(initializers[kernel].dims) == [8, 8, 3, 3]
    assert sum(list(t.dims) == [8, 8, 3, 3] for t in graph.initializer) == 1
    biases = [numpy_helper.to_array(initializers[n.input[8]]) for n in graph.node if n.op_type == "QLinearConv"]
    assert len({b.tobytes() for b in biases}) == 6


def constants_of(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_nothing_else_changed(tmp_path):
    """The export of the untied twin differs in the kernels of the group, and in nothing else."""
    checkpoint = small_checkpoint(SEResNet(2, (1,), widths=(8, 16), stem_width=8, reduction=4), negative=0.3)
    report = export(checkpoint, tmp_path / "shared.onnx", TARGETS["onnx"])
    layers = {layer for group in report.proof.groups for layer in group.layers}
    checkpoint.model = untied(checkpoint.model)
    export(checkpoint, tmp_path / "twin.onnx", TARGETS["onnx"])
    shared, twin = constants_of(tmp_path / "shared.onnx"), constants_of(tmp_path / "twin.onnx")
    (group,) = report.proof.groups
    assert {name for name in shared if name not in twin} == {group.constant}
    assert {name for name in twin if name not in shared} == {f"{layer}.weight" for layer in layers}
    for name in set(shared) & set(twin):
        np.testing.assert_array_equal(shared[name], twin[name], err_msg=name)
    for layer in layers:
        np.testing.assert_array_equal(twin[f"{layer}.weight"], shared[group.constant])
    nodes = [[(n.op_type, n.name) for n in onnx.load(tmp_path / f).graph.node] for f in ("shared.onnx", "twin.onnx")]
    assert nodes[0] == nodes[1]


def test_the_ledger_lies_beside_the_file_and_is_right(tmp_path):
    path = tmp_path / "m.onnx"
    report = export(small_checkpoint(SharedConvs()), path, TARGETS["onnx"], int8=True)
    ledger = json.loads((tmp_path / "m.onnx.ledger.json").read_text())
    assert ledger["artefact"] == "m.onnx"
    assert ledger["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert ledger["file_bytes"] == path.stat().st_size == report.file_bytes
    assert (ledger["precision"], ledger["form"], ledger["target"]) == ("int8", "qdq", "onnx")
    assert [row["step"] for row in ledger["steps"]][:3] == ["capture", "transpose_kernels", "tie_initializers"]
    assert [row["step"] for row in ledger["steps"]][-2:] == ["quantize_biases", "offset_kernel_codes"]
    assert all(row["copies"] == 0 and row["kernels"] == 3 and row["layers"] == 5 for row in ledger["steps"])
    assert [g["layers"] for g in ledger["plan"]["groups"]] == [["convs.0", "convs.1", "convs.2"]]
    assert ledger["kernels_stored"] == 3
    assert ledger["parity"]["sqnr_db"] == report.parity.sqnr_db


def test_below_the_threshold_no_file_is_left_and_an_old_one_stays(tmp_path):
    checkpoint = small_checkpoint(SharedConvs())
    path = tmp_path / "m.onnx"
    with pytest.raises(ParityFailed, match="below the 199 dB"):
        export(checkpoint, path, TARGETS["onnx"], int8=True, min_sqnr_db=199)
    assert list(tmp_path.iterdir()) == []
    export(checkpoint, path, TARGETS["onnx"])
    old = path.read_bytes()
    with pytest.raises(ParityFailed):
        export(checkpoint, path, TARGETS["onnx"], int8=True, min_sqnr_db=199)
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.ledger.json"]


def test_a_network_whose_outputs_are_nan_is_refused(tmp_path):
    network = SharedConvs()
    checkpoint = small_checkpoint(network)
    network.norms[1].running_var.fill_(-1)
    with pytest.raises(DataError, match="NaN"):
        export(checkpoint, tmp_path / "m.onnx", TARGETS["onnx"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weights_of_another_type_are_refused_in_one_line(dtype, tmp_path):
    checkpoint = small_checkpoint(SharedConvs())
    checkpoint.model.to(dtype)
    with pytest.raises((DataError, GraphError)) as caught:
        export(checkpoint, tmp_path / "m.onnx", TARGETS["onnx"])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_kernels(tmp_path):
    checkpoint = checkpoint_of(nn.ReLU(), (3, 6, 6))
    report = export(checkpoint, tmp_path / "m.onnx", TARGETS["onnx"])
    assert report.proof.kernels_stored == 0 and report.parity.sqnr_db == 200
    with pytest.raises(GraphError, match="no layer whose kernel can be quantised"):
        export(checkpoint, tmp_path / "m_int8.onnx", TARGETS["onnx"], int8=True)
    assert not (tmp_path / "m_int8.onnx").exists()


@pytest.mark.parametrize("int8", [False, True])
def test_weight_norm_is_resolved_into_plain_kernels(tmp_path, int8):
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    report = export(checkpoint_of(conv, (3, 6, 6)), tmp_path / "m.onnx", TARGETS["onnx"], int8=int8)
    assert report.proof.kernels_stored == 1
    assert nn.utils.parametrize.is_parametrized(conv)  # the network itself is left as it was


def test_what_onnxsim_breaks_is_not_used(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x) + self.conv(x)  # onnxsim computes it once

    report = export(checkpoint_of(Twice(), (3, 6, 6)), tmp_path / "m.onnx", TARGETS["onnx"], run_simplifier=True)
    assert report.ledger.rows[-1].note.startswith("not used: after onnxsim")
    assert [len(group.layers) for group in report.proof.groups] == [2]


@pytest.mark.slow
def test_convmixer_384_20_with_2_kernels_is_small(tmp_path):
    network = ConvMixer(384, 20, 9, 1, 2)
    checkpoint = small_checkpoint(network, 8)
    checkpoint.calibration = checkpoint.calibration[:4]
    fp32 = export(checkpoint, tmp_path / "fp32.onnx", TARGETS["onnx"])
    assert fp32.file_bytes < 1_000_000 and fp32.parity.sqnr_db >= 90 and fp32.parity_here.sqnr_db >= 90
    assert fp32.proof.kernels_stored == 4 and [len(g.layers) for g in fp32.proof.groups] == [20, 20]
    int8 = export(checkpoint, tmp_path / "int8.onnx", TARGETS["onnx"], int8=True, min_sqnr_db=-200)
    assert int8.file_bytes < 500_000 and int8.proof.kernels_stored == 4
    kinds = [Int8Options(activations=kind) for kind in ("dynamic", "float")]
    dynamic, weight_only = (
        export(checkpoint, tmp_path / "x.onnx", TARGETS["onnx"], int8=True, options=options, min_sqnr_db=-200)
        for options in kinds
    )
    assert dynamic.file_bytes < 350_000 and weight_only.file_bytes < 350_000
    assert int8.parity.sqnr_db + 3 < dynamic.parity.sqnr_db < weight_only.parity.sqnr_db
    checkpoint.model = untied(network)
    twin = export(checkpoint, tmp_path / "twin.onnx", TARGETS["onnx"])
    assert 14_300_000 < twin.file_bytes < 14_600_000


@pytest.mark.slow
def test_se_resnet_d4_holds_each_shared_kernel_once_although_bn_follows(tmp_path):
    checkpoint = small_checkpoint(SEResNet(4, (1, 2, 3)), 16)
    checkpoint.calibration = checkpoint.calibration[:8]
    fp32 = export(checkpoint, tmp_path / "fp32.onnx", TARGETS["onnx"])
    int8 = export(checkpoint, tmp_path / "int8.onnx", TARGETS["onnx"], int8=True, min_sqnr_db=-200)
    for report in (fp32, int8):
        assert [len(g.layers) for g in report.proof.groups] == [7, 7, 7]
        dims = [tuple(t.dims) for t in onnx.load(report.path).graph.initializer]
        assert [dims.count((w, w, 3, 3)) for w in (64, 128, 256)] == [1, 1, 1]
    assert fp32.parity.sqnr_db >= 90 and fp32.parity_here.sqnr_db >= 90
