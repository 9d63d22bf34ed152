"""`edgeks.export` of ONNX files, end to end: proven, and compared with what the file itself gives."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from networks import SharedConvs, inputs_of, small_checkpoint
from onnx_files import by_text, by_torch, groups
from onnx_text import normal

from edgeks.errors import ConfigError, DataError
from edgeks.exporter import export
from edgeks.graph.onnx_network import load_onnx
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

TARGET = load_target("onnx")
SIZE = (3, 12, 12)


@pytest.fixture
def foreign(tmp_path):
    """A file of the legacy exporter, opset 11, dynamic batch; real samples; and the checkpoint they come from."""
    checkpoint = small_checkpoint(SharedConvs(bias=True), negative=0.3)
    options = {"do_constant_folding": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    path = by_torch(checkpoint.model, tmp_path / "net.onnx", 11, **options)
    np.savez(tmp_path / "calib.npz", inputs_of(checkpoint))
    return path, tmp_path / "calib.npz", checkpoint


@pytest.mark.parametrize("mode", ["fp32", "static", "dynamic", "float"])
def test_a_file_exports_as_its_checkpoint_does(mode, foreign, tmp_path):
    path, calib, checkpoint = foreign
    int8 = mode != "fp32"
    options = Int8Options(activations=None if mode == "fp32" else mode)
    report = export(load_onnx(path), tmp_path / "out.onnx", TARGET, int8=int8, options=options, calib=calib)
    twin = export(checkpoint, tmp_path / "twin.onnx", TARGET, int8=int8, options=options, calib=calib)
    assert report.reference == "net.onnx" and twin.reference == "torch"
    assert report.proof.kernels_stored == twin.proof.kernels_stored == 3
    assert groups(report.ledger.plan) == groups(twin.ledger.plan) == {("convs.0", "convs.1", "convs.2")}
    assert report.parity.sqnr_db > (30 if int8 else 100)
    assert abs(report.parity.sqnr_db - twin.parity.sqnr_db) < (2 if int8 else 40)
    assert report.file_bytes < twin.file_bytes  # which holds the preprocessing too
    feed = inputs_of(checkpoint)[:1]
    found, wanted = (
        ort.InferenceSession(str(p)).run(None, {name: feed})[0]
        for p, name in ((report.path, "x"), (twin.path, "input"))
    )
    np.testing.assert_allclose(found, wanted, atol=0.05 if int8 else 1e-5)
    assert json.loads(report.ledger_path.read_text())["reference"] == "net.onnx"


@pytest.mark.parametrize(
    "network", [ConvMixer(8, 4, 3, 2, 2), SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4)]
)
def test_zoo_networks_by_torch_s_exporters(network, tmp_path):
    checkpoint = small_checkpoint(network)
    np.savez(tmp_path / "calib.npz", inputs_of(checkpoint))
    twin = export(checkpoint, tmp_path / "twin.onnx", TARGET, int8=True, calib=tmp_path / "calib.npz")
    for opset, options in ((13, {"do_constant_folding": False}), (18, {"dynamo": True})):
        path = by_torch(checkpoint.model, tmp_path / "net.onnx", opset, **options)
        report = export(load_onnx(path), tmp_path / "o.onnx", TARGET, int8=True, calib=tmp_path / "calib.npz")
        assert groups(report.ledger.plan) == groups(twin.ledger.plan)
        assert report.proof.kernels_stored == twin.proof.kernels_stored
        assert report.parity.sqnr_db > twin.parity.sqnr_db - 2


def test_a_file_that_edgeks_wrote_exports_again(tmp_path):
    checkpoint = small_checkpoint(SharedConvs(), negative=0.3)
    first = export(checkpoint, tmp_path / "net.onnx", TARGET)
    network = load_onnx(first.path)
    assert network.preprocessing == checkpoint.preprocessing
    again = export(network, tmp_path / "again.onnx", TARGET)
    assert groups(again.ledger.plan) == groups(first.ledger.plan) and again.proof.kernels_stored == 3
    assert again.preprocessing == checkpoint.preprocessing
    keys = [entry.key for entry in onnx.load(again.path).metadata_props]
    assert sorted(keys) == sorted(set(keys)) and "edgeks.preprocessing" in keys
    np.savez(tmp_path / "calib.npz", inputs_of(checkpoint))
    pixels = export(network, tmp_path / "p.onnx", TARGET, int8=True, io="uint8", calib=tmp_path / "calib.npz")
    assert pixels.interface.inputs[0].type == "uint8" and pixels.parity.sqnr_db > 25


def test_bn_folded_copies_are_said(tmp_path):
    model = small_checkpoint(SharedConvs()).model
    path = by_torch(model, tmp_path / "net.onnx", 13, do_constant_folding=True)
    report = export(load_onnx(path), tmp_path / "out.onnx", TARGET)
    assert report.proof.kernels_stored == 5
    assert any("equal up to a factor per channel" in warning for warning in report.warnings)


@pytest.mark.parametrize(("target", "activations"), [("onnx", "static"), ("tflite", "static"), ("tflite", "dynamic")])
def test_folded_copies_whose_codes_are_equal_become_one_kernel(target, activations, tmp_path):
    """γ of powers of two: a·W is exact, so that no code falls otherwise."""
    checkpoint = small_checkpoint(SharedConvs())
    for norm in checkpoint.model.norms:
        norm.running_var.fill_(1.0 - norm.eps)
        norm.weight.data.copy_(2.0 ** torch.randint(-1, 2, norm.weight.shape))
    path = by_torch(checkpoint.model, tmp_path / "net.onnx", 13, do_constant_folding=True)
    np.savez(tmp_path / "calib.npz", inputs_of(checkpoint))
    options = Int8Options(activations=activations)
    chosen = load_target(target)
    out = tmp_path / f"out.{chosen.format}"
    report = export(load_onnx(path), out, chosen, int8=True, options=options, calib=tmp_path / "calib.npz")
    assert report.proof.kernels_stored == 3 and len(report.proof.groups[0].layers) == 3
    assert report.parity.sqnr_db > 25


@pytest.mark.parametrize("name", ["float16", "double"])
def test_other_floats(name, tmp_path):
    kernel = normal(4, 4, 3, 3).astype(np.float16 if name == "float16" else np.float64)
    text = f"""({name}[N,4,6,6] x) => ({name}[N,4,6,6] y) {{
        a = Conv<pads=[1,1,1,1]>(x, K) r = Relu(a) y = Conv<pads=[1,1,1,1]>(r, K)
    }}"""
    report = export(load_onnx(by_text(tmp_path / "net.onnx", text, 13, K=kernel)), tmp_path / "out.onnx", TARGET)
    assert report.parity.sqnr_db > 100 and report.proof.kernels_stored == 1
    assert any("became float32" in warning for warning in report.warnings)
    assert onnx.load(report.path).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_an_open_image_size(tmp_path):
    text = "(float[N,4,H,W] x) => (float[N,4,H,W] y) { y = Conv<pads=[1,1,1,1]>(x, K) }"
    network = load_onnx(by_text(tmp_path / "net.onnx", text, K=normal(4, 4, 3, 3)))
    with pytest.raises(DataError, match="input size is unknown: pass --input CxHxW"):
        export(network, tmp_path / "out.onnx", TARGET)
    report = export(network, tmp_path / "out.onnx", TARGET, input_shape=(4, 6, 8))
    assert report.interface.inputs[0].shape == (1, 4, 6, 8) == report.interface.outputs[0].shape
    with pytest.raises(DataError, match="contradicts net"):
        export(network, tmp_path / "out.onnx", TARGET, input_shape=(3, 6, 8))
    np.savez(tmp_path / "calib.npz", normal(2, 3, 6, 8))
    with pytest.raises(DataError, match="does not take inputs of 3×6×8"):
        export(network, tmp_path / "out.onnx", TARGET, calib=tmp_path / "calib.npz")


def test_what_needs_torch_or_samples(foreign, tmp_path):
    network = load_onnx(foreign[0])
    with pytest.raises(ConfigError, match="leave --parity-report out, or export the checkpoint"):
        export(network, tmp_path / "out.onnx", TARGET, int8=True, calib=foreign[1], parity_report=True)
    with pytest.raises(DataError, match="int8 needs calibration data and net"):
        export(network, tmp_path / "out.onnx", TARGET, int8=True)
    assert not (tmp_path / "out.onnx").exists()


def test_the_input_and_its_weights_are_not_overwritten(edgeks_files, tmp_path):
    path, run = edgeks_files
    before = {name.name: name.read_bytes() for name in tmp_path.iterdir()}
    for output in (path, tmp_path / "weights.bin"):
        assert run("export", path, "-o", output) == 2
    for option in (["--arch", "convmixer_48_6_2k"], ["--trust"]):
        assert run("export", path, *option) == 2
    assert {name.name: name.read_bytes() for name in tmp_path.iterdir()} == before
    assert run("export", path) == 0 and run("export", path, "--int8", "--activations", "float") == 0
    assert {name.name for name in tmp_path.iterdir()} - set(before) == {
        f"net_{kind}.onnx{ending}" for kind in ("fp32", "int8") for ending in ("", ".ledger.json")
    }
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


@pytest.fixture
def edgeks_files(tmp_path, monkeypatch):
    import small_graphs

    from edgeks.cli import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["edgeks", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code

    return small_graphs.external(small_graphs.fp32_shared(), tmp_path / "net.onnx"), run


def test_an_input_with_the_name_of_a_layer(tmp_path):
    network = load_onnx(by_text(
        tmp_path / "net.onnx",
        "(float[1,3,8,8] stem) => (float[1,4,8,8] y) { [stem] a = Conv<pads=[1,1,1,1]>(stem, w) y = Relu(a) }",
        w=normal(4, 3, 3, 3),
    ))  # fmt: skip
    report = export(network, tmp_path / "net.tflite", load_target("tflite"))
    assert report.proof.unshared[0].layers == ("stem",) and report.interface.inputs[0].name == "stem"
