"""`convert_with_litert_torch`: with the real packages where they are installed (`make test-litert-torch`)."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from networks import SharedConvs, inputs_of, small_checkpoint
from rich.console import Console
from torch import nn

from edgeks import litert_converter
from edgeks.conversion_report import render
from edgeks.errors import ConfigError, GraphError, ParityFailed
from edgeks.formats.tflite.kernels import stored_kernels
from edgeks.formats.tflite.runtime import open_interpreter, run
from edgeks.litert_converter import convert_with_litert_torch
from edgeks.model_files.tflite_file import operator_code, read_tflite, schema
from edgeks.quant.qat import prepare_qat
from edgeks.target import load_target

installed = all(find_spec(package) for package in litert_converter.PACKAGES)
needs_litert_torch = pytest.mark.skipif(not installed, reason="litert-torch is an extra: make test-litert-torch")
TARGET = load_target("tflite")


def test_a_missing_extra_is_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(litert_converter, "PACKAGES", ("litert_torch_of_no_release",))
    with pytest.raises(ConfigError) as caught:
        convert_with_litert_torch(small_checkpoint(SharedConvs(4)), tmp_path / "a.tflite", TARGET)
    assert "litert_torch_of_no_release" in str(caught.value)
    assert "pip install 'edgeks[litert-torch]'" in str(caught.value)


def test_what_it_cannot_serve_is_said_before_anything_runs(tmp_path):
    checkpoint = small_checkpoint(SharedConvs(4))
    with pytest.raises(ConfigError, match="target 'onnx' is onnx"):
        convert_with_litert_torch(checkpoint, tmp_path / "a.tflite", load_target("onnx"))
    with pytest.raises(ConfigError, match="legal: static, dynamic, float"):
        convert_with_litert_torch(checkpoint, tmp_path / "a.tflite", TARGET, int8=True, activations="no")
    checkpoint.model = prepare_qat(checkpoint.model, torch.from_numpy(inputs_of(checkpoint)[:1]), TARGET.int8)
    with pytest.raises(ConfigError, match="trained with fake quantisation"):
        convert_with_litert_torch(checkpoint, tmp_path / "a.tflite", TARGET, int8=True)


@needs_litert_torch
def test_float_reports_the_copies_that_folding_makes(tmp_path):
    report = convert_with_litert_torch(small_checkpoint(SharedConvs(8)), tmp_path / "a.tflite", TARGET)
    assert report.parity.sqnr_db > 80
    assert [kernel.copies for kernel in report.kernels if len(kernel.layers) == 3] == [3]
    assert "folds BN" in report.warnings[0]
    assert report.file_bytes == report.path.stat().st_size
    assert json.loads(json.dumps(report.to_dict()))["parity"]["samples"] == report.parity.samples
    console = Console(record=True, width=200)
    render(report, console)
    printed = console.export_text()
    assert f"{report.file_bytes:,} bytes, fp32 for tflite, by litert-torch" in printed
    assert "5 stored kernels → 5" in printed and report.warnings[0] in printed


@needs_litert_torch
@pytest.mark.parametrize("negative", [0.0, 0.3])
@pytest.mark.parametrize("activations", ["dynamic", "float", "static", None])
def test_int8_holds_every_kernel_once(tmp_path, activations, negative):
    checkpoint = small_checkpoint(SharedConvs(16, (1, 2, 1)), negative=negative)
    out = tmp_path / "a.tflite"
    report = convert_with_litert_torch(
        checkpoint, out, TARGET, int8=True, activations=activations, min_sqnr_db=5 if activations == "static" else 30
    )
    assert [kernel.copies for kernel in report.kernels] == [1, 1, 1]
    assert len(stored_kernels(read_tflite(out))) == 3
    assert any("negative" in warning for warning in report.warnings) == bool(negative)
    interpreter = open_interpreter(out, TARGET.session)
    assert interpreter.get_input_details()[0]["dtype"] == np.float32
    feeds = np.ascontiguousarray(inputs_of(checkpoint).transpose(0, 2, 3, 1))
    with torch.no_grad():
        expected = checkpoint.model(torch.from_numpy(inputs_of(checkpoint))).numpy()
    error = run(interpreter, feeds)[0] - expected
    assert 10 * np.log10(np.sum(expected**2) / np.sum(error**2)) == pytest.approx(report.parity.sqnr_db, abs=0.01)


@needs_litert_torch
def test_an_operator_that_edgeks_does_not_lower(tmp_path):
    class WithCumsum(SharedConvs):
        def forward(self, x):
            return super().forward(x).cumsum(1)

    checkpoint = small_checkpoint(WithCumsum(8))
    report = convert_with_litert_torch(checkpoint, tmp_path / "a.tflite", TARGET, int8=True)
    assert [kernel.copies for kernel in report.kernels] == [1, 1, 1]
    model = read_tflite(report.path)
    codes = {operator_code(model, operator) for operator in model.subgraphs[0].operators}
    assert schema.BuiltinOperator.CUMSUM in codes


@needs_litert_torch
def test_a_network_that_it_refuses(tmp_path):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).flatten(1) if x.sum() > 0 else self.conv(-x).flatten(1)

    checkpoint = small_checkpoint(SharedConvs(4))
    checkpoint.model = Branching().eval()
    with pytest.raises(GraphError, match="litert-torch refuses the network"):
        convert_with_litert_torch(checkpoint, tmp_path / "a.tflite", TARGET)
    assert not list(tmp_path.iterdir())


@needs_litert_torch
def test_below_the_threshold_no_file_is_left(tmp_path):
    checkpoint = small_checkpoint(SharedConvs(8))
    with pytest.raises(ParityFailed, match="no file was written"):
        convert_with_litert_torch(checkpoint, tmp_path / "a.tflite", TARGET, int8=True, min_sqnr_db=150)
    assert not list(tmp_path.iterdir())
