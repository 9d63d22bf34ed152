"""--io: files that take pixels or codes and give codes, used as a program on a device would use them."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from networks import SharedConvs, inputs_of, small_checkpoint
from torch import nn

from edgeks.audit.footprint import footprint
from edgeks.bench.local import bench
from edgeks.errors import ConfigError, DataError
from edgeks.exporter import export
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.parity import compare
from edgeks.pipeline import _accuracy
from edgeks.quant.options import Int8Options
from edgeks.target import load_target
from edgeks.train.dataset import Dataset

TARGETS = {name: load_target(name) for name in ("onnx", "rpi-4")}


class FirstLayerShared(nn.Module):
    """Both convolutions read one kernel, the first of them the image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 3, 2, bias=False), nn.Conv2d(3, 3, 2, bias=False)
        self.b.weight = self.a.weight
        self.norm_a, self.norm_b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))).mean((2, 3))


class Patches(nn.Module):
    """An unpadded stem in front of a ReLU, and a feature map as output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 2, 2), nn.BatchNorm2d(8)
        self.conv, self.again = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.again.weight = self.conv.weight

    def forward(self, x):
        return torch.relu(self.again(torch.relu(self.conv(torch.relu(self.norm(self.stem(x)))))))


NETWORKS = {
    "folded into a float stem": lambda: ConvMixer(8, 2, 3, 2, 2),
    "padded stem": lambda: SEResNet(1, (1,), widths=(8, 8), stem_width=8, reduction=4),
    "shared first layer": FirstLayerShared,
    "folded into an integer stem, a map as output": Patches,
}


def as_a_device_does(path, checkpoint):
    """Outputs for the calibration images, by ONNX Runtime and what the file says of itself alone."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    interface = json.loads(told["edgeks.interface"])
    (taken,), (given,) = interface["inputs"], interface["outputs"]
    feed, result = session.get_inputs()[0], session.get_outputs()[0]
    types = {"float32": "tensor(float)", "int8": "tensor(int8)", "uint8": "tensor(uint8)"}
    assert (feed.name, feed.type, feed.shape) == (taken["name"], types[taken["type"]], taken["shape"])
    assert (result.name, result.type, result.shape) == (given["name"], types[given["type"]], given["shape"])
    assert json.loads(told["edgeks.preprocessing"])["classes"] == ["a", "b"]
    rows = []
    for pixels, image in zip(checkpoint.calibration, inputs_of(checkpoint), strict=True):
        if taken["type"] == "uint8":
            assert "raw pixels" in taken["meaning"]
            image = pixels
        elif taken["type"] == "int8":
            image = np.clip(np.rint(image / taken["scale"]) + taken["zero_point"], -128, 127).astype(np.int8)
        found = session.run(None, {feed.name: image[None]})[0].astype(np.float32)
        rows.append(found if given["scale"] is None else (found - given["zero_point"]) * given["scale"])
    return np.concatenate(rows).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_io_of_every_precision(name, tmp_path):
    checkpoint = small_checkpoint(NETWORKS[name](), negative=0.3)
    with torch.inference_mode():
        reference = checkpoint.model(torch.from_numpy(inputs_of(checkpoint))).numpy()
    path = tmp_path / "m.onnx"
    report = export(checkpoint, path, TARGETS["onnx"], io="uint8")
    assert report.parity.sqnr_db >= 90 and report.parity_here.sqnr_db >= 90
    assert compare(reference, as_a_device_does(path, checkpoint)).sqnr_db >= 90
    steps = {row.step: row.note for row in report.ledger.rows}
    assert ("folded" in steps["raw_pixels"]) == ("folded" in name)
    found = []
    for io, type_, target, form in (
        ("float", "float32", "onnx", "qdq"),
        ("uint8", "uint8", "onnx", "qdq"),
        ("int8", "int8", "onnx", "qdq"),
        ("uint8", "uint8", "rpi-4", "qoperator"),
        ("int8", "int8", "rpi-4", "qoperator"),
    ):
        options = Int8Options(form=form)
        report = export(checkpoint, path, TARGETS[target], int8=True, options=options, io=io)
        found.append(report.parity.sqnr_db)
        device = compare(reference, as_a_device_does(path, checkpoint))
        assert device.sqnr_db == pytest.approx(report.parity.sqnr_db, abs=0.3)
        assert {spec.type for spec in (*report.interface.inputs, *report.interface.outputs)} == {type_}
    assert min(found) > found[0] - 3  # eight bits for the outputs cost that


def test_an_integer_stem_reads_the_bytes_as_they_are(tmp_path):
    checkpoint = small_checkpoint(Patches())
    path = tmp_path / "m.onnx"
    export(checkpoint, path, TARGETS["onnx"], int8=True, options=Int8Options(form="qoperator"), io="uint8")
    nodes = onnx.load(path).graph.node
    assert [node.op_type for node in nodes] == ["QLinearConv"] * 3
    assert nodes[0].input[0] == "input" and nodes[-1].output[0] == "output"


def test_the_ledger_says_what_the_file_says(tmp_path):
    path = tmp_path / "m.onnx"
    export(small_checkpoint(SharedConvs()), path, TARGETS["onnx"], int8=True, io="int8")
    ledger = json.loads((tmp_path / "m.onnx.ledger.json").read_text())
    told = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert ledger["interface"] == json.loads(told["edgeks.interface"])
    assert ledger["preprocessing"] == json.loads(told["edgeks.preprocessing"])
    assert ledger["io"] == "int8" and ledger["steps"][-1]["step"] == "integer_io"
    (taken,), (given,) = ledger["interface"]["inputs"], ledger["interface"]["outputs"]
    assert (taken["layout"], given["layout"]) == ("NCHW", "NC")
    assert taken["scale"] > 0 and isinstance(given["zero_point"], int)


def test_bench_footprint_and_accuracy_take_such_files(tmp_path):
    checkpoint = small_checkpoint(SharedConvs(classes=2))
    images, path = checkpoint.calibration, tmp_path / "m.onnx"
    with torch.inference_mode():
        labels = checkpoint.model(torch.from_numpy(inputs_of(checkpoint))).argmax(1).numpy()
    dataset = Dataset("made up", images, labels, images, labels, checkpoint.preprocessing)
    for io, size in (("float", 4), ("uint8", 1), ("int8", 1)):
        export(checkpoint, path, TARGETS["onnx"], int8=True, io=io)
        assert bench(path, TARGETS["onnx"], 1, 0).inputs["input"]["dtype"] == ("float32" if size == 4 else io)
        arena = footprint(path).arena
        assert arena.peak is not None and arena.peak.peak_bytes >= size * images[0].size
        assert _accuracy(path, TARGETS["onnx"], dataset)["accuracy"] >= 0.9, io


def test_negative_scales_are_told_in_one_line_and_in_the_ledger(tmp_path):
    path = tmp_path / "m.onnx"
    report = export(small_checkpoint(SharedConvs(), negative=0.4), path, TARGETS["onnx"], int8=True)
    told = [warning for warning in report.warnings if "negative weight scale" in warning]
    assert len(told) == 1 and "positive_scales = true" in told[0]
    ledger = json.loads((tmp_path / "m.onnx.ledger.json").read_text())["negative_scales"]
    assert ledger["channels"] == sum(ledger["layers"].values()) > 0
    assert set(ledger["layers"]) <= {"stem", "convs.0", "convs.1", "convs.2"}
    report = export(small_checkpoint(SharedConvs()), path, TARGETS["onnx"], int8=True)
    assert not report.negative_scales and not any("negative" in warning for warning in report.warnings)


def test_samples_that_are_no_pixels_are_told_of(tmp_path):
    checkpoint = small_checkpoint(SharedConvs())
    path, samples = tmp_path / "m.onnx", tmp_path / "calib.npz"
    np.savez(samples, inputs_of(checkpoint))
    exact = export(checkpoint, path, TARGETS["onnx"], int8=True, io="uint8", calib=samples)
    assert exact.warnings == ()
    own = export(checkpoint, path, TARGETS["onnx"], int8=True, io="uint8")
    assert exact.parity == own.parity
    np.savez(samples, 3 * inputs_of(checkpoint))
    report = export(checkpoint, path, TARGETS["onnx"], int8=True, io="uint8", calib=samples)
    assert "are no normalised pixel" in report.warnings[0]


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    checkpoint = small_checkpoint(SharedConvs())
    path = tmp_path / "m.onnx"
    with pytest.raises(ConfigError, match="--io int16: legal: float, int8, uint8"):
        export(checkpoint, path, TARGETS["onnx"], int8=True, io="int16")
    with pytest.raises(ConfigError, match="--io int8: a float artefact has no int8 codes; add --int8"):
        export(checkpoint, path, TARGETS["onnx"], io="int8")
    bare = replace(checkpoint, preprocessing=None, calibration=None)
    with pytest.raises(DataError, match="--io uint8: raw pixels need the checkpoint's preprocessing"):
        export(bare, path, TARGETS["onnx"], io="uint8", input_shape=(3, 12, 12))
    assert list(tmp_path.iterdir()) == []
