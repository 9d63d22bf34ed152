"""A network trained on real images: what each kind of int8 costs it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeks.artefact import run_artefact
from edgeks.checkpoint import load_checkpoint
from edgeks.exporter import export
from edgeks.formats.onnx import open_session, run
from edgeks.parity import compare
from edgeks.quant.options import Int8Options
from edgeks.target import LiteRtSession, load_target

DATA = Path(__file__).parent / "data"
TARGET = load_target("onnx")
TFLITE = load_target("tflite")


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(DATA / "convmixer_2k_cifar10.pt")


@pytest.fixture(scope="module")
def labelled():
    stored = np.load(DATA / "cifar10_200.npz")
    return stored["images"], stored["labels"]


def logits_of(path, checkpoint, images):
    return run(open_session(path, TARGET.session), checkpoint.preprocessing.normalise(images))[0]


def test_the_network_is_trained(checkpoint, labelled, tmp_path):
    images, labels = labelled
    report = export(checkpoint, tmp_path / "m.onnx", TARGET)
    assert report.proof.kernels_stored == 4 and report.ledger.rows[-1].layers == 10
    assert np.mean(logits_of(tmp_path / "m.onnx", checkpoint, images).argmax(1) == labels) > 0.7
    assert not report.negative_scales


@pytest.mark.parametrize(
    ("options", "floor"),
    [
        (Int8Options(), 24),
        (Int8Options(form="qoperator"), 24),
        (Int8Options(calibration="percentile", bias_correction=True), 29),
        (Int8Options(activations="dynamic"), 31),
        (Int8Options(activations="float"), 33),
    ],
    ids=str,
)
def test_int8_keeps_the_classes(options, floor, checkpoint, labelled, tmp_path):
    images, labels = labelled
    export(checkpoint, tmp_path / "fp32.onnx", TARGET)
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, options=options)
    assert report.proof.kernels_stored == 4
    assert report.parity.sqnr_db > floor
    expected, found = (logits_of(tmp_path / name, checkpoint, images) for name in ("fp32.onnx", "m.onnx"))
    assert np.mean(expected.argmax(1) == found.argmax(1)) >= 0.95
    assert np.mean(found.argmax(1) == labels) > np.mean(expected.argmax(1) == labels) - 0.025


def test_raw_pixels_give_the_same_classes(checkpoint, labelled, tmp_path):
    images, _ = labelled
    export(checkpoint, tmp_path / "float.onnx", TARGET, int8=True)
    report = export(checkpoint, tmp_path / "pixels.onnx", TARGET, int8=True, io="uint8")
    assert report.proof.kernels_stored == 4
    expected = logits_of(tmp_path / "float.onnx", checkpoint, images)
    found = run(open_session(tmp_path / "pixels.onnx", TARGET.session), images)[0]
    assert np.mean(expected.argmax(1) == found.argmax(1)) >= 0.95


def test_the_parity_report_finds_nothing_wrong(checkpoint, tmp_path):
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, parity_report=True)
    assert report.layers is not None and report.layers.first_over_one is None
    assert len(report.layers.tensors) > 10


@pytest.fixture(scope="module")
def expected(checkpoint, labelled):
    """Logits of the network in torch."""
    with torch.no_grad():
        return checkpoint.model(torch.from_numpy(checkpoint.preprocessing.normalise(labelled[0]))).numpy()


TFLITE_KINDS = {
    "fp32": ({}, 100),
    "fp16": ({"float16": True}, 50),
    "static": ({"int8": True, "options": Int8Options(activations="static")}, 24),
    "dynamic": ({"int8": True, "options": Int8Options(activations="dynamic")}, 31),
    "float": ({"int8": True, "options": Int8Options(activations="float")}, 33),
}


@pytest.mark.parametrize("kind", TFLITE_KINDS)
def test_tflite_keeps_the_classes(kind, checkpoint, labelled, expected, tmp_path):
    """By XNNPACK and by the built-in kernels. One image is half a point; docs/results/cifar10.md has 5,000."""
    images, labels = labelled
    arguments, floor_db = TFLITE_KINDS[kind]
    report = export(checkpoint, tmp_path / "m.tflite", TFLITE, **arguments)
    assert report.proof.kernels_stored == 4
    for kernels in ("xnnpack", "builtin"):
        session = LiteRtSession(1, kernels)
        (found,) = run_artefact(tmp_path / "m.tflite", session, checkpoint.preprocessing.normalise(images))
        assert compare(expected, found).sqnr_db > floor_db, kernels
        assert np.mean(expected.argmax(1) == found.argmax(1)) >= 0.96, kernels
        assert abs(np.mean(found.argmax(1) == labels) - np.mean(expected.argmax(1) == labels)) < 0.011, kernels
