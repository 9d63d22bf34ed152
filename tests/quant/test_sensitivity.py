"""Sensitivity names the kernel that costs most, and its suggestions hold when they are followed."""

import json

import pytest
import torch
from networks import SharedConvs, small_checkpoint

from edgeks.exporter import export
from edgeks.quant.options import Int8Options
from edgeks.target import load_target


@torch.no_grad()
def with_a_bad_head():
    """The head's weights for a feature that is always 0 are huge: its step is then coarse for all others."""
    network = SharedConvs(8, (1, 2, 1))
    checkpoint = small_checkpoint(network)
    network.norms[-1].weight[3], network.norms[-1].bias[3] = 0, 0
    network.head.weight[:, 3] = 40.0
    return checkpoint


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("sensitivity") / "m.onnx"
    target = load_target("onnx")
    return export(with_a_bad_head(), path, target, int8=True, min_sqnr_db=-200, run_sensitivity=True)


def test_the_bad_kernel_is_named(report):
    found = report.sensitivity
    assert [group.name for group in found.groups] == ["convs.0-2", "stem", "head"]
    worst = max(found.groups, key=lambda group: group.gain_db)
    assert worst.name == "head" and worst.gain_db > 10
    assert worst.alone_db < min(group.alone_db for group in found.groups if group is not worst)
    assert found.suggestions[0].startswith("--keep-float head: ")
    assert found.suggestions[0].endswith(" 120 bytes more")
    (convs, *_) = found.groups
    assert (convs.layers, convs.int8_bytes, convs.float_bytes) == (3, 576, 2304)
    assert found.samples == 32


def test_following_the_suggestion_gives_what_it_promises(report, tmp_path):
    (head,) = (group for group in report.sensitivity.groups if group.name == "head")
    options = Int8Options(keep_float=("head",))
    kept = export(with_a_bad_head(), tmp_path / "m.onnx", load_target("onnx"), int8=True, options=options)
    assert kept.parity.sqnr_db == pytest.approx(head.without_db, abs=0.01)
    assert report.parity.sqnr_db == pytest.approx(report.sensitivity.sqnr_db, abs=0.01)


def test_settings_are_those_of_an_export(report, tmp_path):
    settings = {(row.calibration, row.bias_correction): row.sqnr_db for row in report.sensitivity.settings}
    assert len(settings) == 8
    assert settings["minmax", False] == pytest.approx(report.sensitivity.sqnr_db, abs=0.01)
    options = Int8Options(calibration="mse", bias_correction=True)
    made = export(
        with_a_bad_head(), tmp_path / "m.onnx", load_target("onnx"), int8=True, options=options, min_sqnr_db=-200
    )
    assert made.parity.sqnr_db == pytest.approx(settings["mse", True], abs=0.01)


def test_it_is_in_the_ledger(report):
    ledger = json.loads(report.ledger_path.read_text())
    assert ledger["sensitivity"]["groups"][0]["name"] == "convs.0-2"
    assert ledger["sensitivity"]["suggestions"] == list(report.sensitivity.suggestions)


def test_one_kernel_alone_and_what_is_kept_anyway(tmp_path):
    checkpoint, target = small_checkpoint(SharedConvs(8, (1, 2))), load_target("onnx")
    options = Int8Options(keep_float=("stem", "head"))
    report = export(
        checkpoint, tmp_path / "m.onnx", target, int8=True, options=options, min_sqnr_db=0, run_sensitivity=True
    )
    (group,) = report.sensitivity.groups
    assert (group.name, group.without_db) == ("convs.0-1", 200.0)
    assert not any(suggestion.startswith("--keep-float") for suggestion in report.sensitivity.suggestions)


def test_without_the_option_nothing_is_tried(tmp_path):
    report = export(small_checkpoint(SharedConvs()), tmp_path / "m.onnx", load_target("onnx"), int8=True)
    assert report.sensitivity is None and "sensitivity" not in json.loads(report.ledger_path.read_text())
