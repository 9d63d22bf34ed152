"""RAM with XNNPACK's weight cache: predicted, measured, and where there is none."""

import pytest
import torch
from networks import SharedConvs, small_checkpoint

from edgeks.audit.footprint import footprint
from edgeks.exporter import export
from edgeks.measured_footprint import with_measurements
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

MB = 1_000_000
LAYERS = 6
KINDS = {
    "fp32": {},
    **{mode: {"int8": True, "options": Int8Options(activations=mode)} for mode in ("dynamic", "float", "static")},
}


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    return small_checkpoint(SharedConvs(256, (1,) * LAYERS), size=8)


def row(path, target=None, *, measured=False):
    found = footprint(path, target)
    found = with_measurements(found) if measured else found
    return next(each for each in found.ram if each.profile.name == "litert-cached")


def written(checkpoint, path, kind, layers="cached"):
    export(checkpoint, path, load_target("tflite"), layers=layers, min_sqnr_db=0, **KINDS[kind])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_cached_form_is_as_measured(kind, checkpoint, tmp_path):
    found = row(written(checkpoint, tmp_path / "net.tflite", kind), measured=True)
    predicted, measured = found.predicted.run_peak, found.measured
    assert abs(predicted.total_bytes - measured.run_peak_bytes) <= max(0.1 * measured.run_peak_bytes, MB)
    in_files = predicted.mapped_bytes + predicted.packed_bytes
    assert abs(in_files - measured.run_mapped_bytes) <= 0.15 * MB
    data = predicted.heap_bytes + predicted.arena_bytes
    assert 1.0 * MB <= measured.run_anonymous_bytes - data <= 2.2 * MB
    kernel = max(found.predicted.kernels, key=lambda kernel: kernel.layers)
    # Weight-only kernels are dequantised on the heap before they are packed.
    assert (kernel.layers, kernel.copies) == (LAYERS, 2 if kind == "float" else 1)
    assert any("more of flash" in note for note in found.predicted.notes)


def test_biases_of_their_own_are_copies_of_their_own(checkpoint, tmp_path):
    found = row(written(checkpoint, tmp_path / "net.tflite", "static", "unrolled"))
    assert max(kernel.copies for kernel in found.predicted.kernels) == LAYERS


def test_it_says_where_it_is_not_for_a_file_or_a_board(checkpoint, tmp_path):
    path = written(checkpoint, tmp_path / "plain.tflite", "dynamic", "unrolled")
    found = row(path, measured=True)
    assert "wrong numbers" in found.unusable and "--form cached" in found.unusable
    assert (found.predicted, found.measured, found.failed) == (None, None, None)
    path = written(checkpoint, tmp_path / "net.tflite", "dynamic")
    for name in ("rpi-4-tflite", "rpi-zero-2w-tflite"):
        assert "needs ARMv8.1" in row(path, load_target(name)).unusable
    assert row(path, load_target("rpi-5-tflite")).unusable is None
