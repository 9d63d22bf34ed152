"""Every graph form: int8 is as near to torch as without sharing, each kernel once; and as .tflite."""

import json

import onnx
import onnxruntime as ort
import pytest
from graph_forms import FORMS, form_checkpoint
from one_capture import one_capture
from plain_tflite import PlainTflite, require_exactly_once, require_sound

from edgeks.export_checks import saturates_here
from edgeks.exporter import ExportReport, export
from edgeks.formats.onnx import LEVELS
from edgeks.quant.options import Int8Options
from edgeks.sharing.torch import untied
from edgeks.target import load_target

TARGET = load_target("onnx")
TFLITE = load_target("tflite")
SEEDS = (0, 1, 2)
TFLITE_KINDS = {
    "fp32": ({}, 120),
    "static": ({"int8": True, "options": Int8Options(activations="static")}, 30),
    "dynamic": ({"int8": True, "options": Int8Options(activations="dynamic")}, 35),
}


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    """Tests of one form come one after another and capture its graph once."""
    with one_capture():
        yield FORMS[request.param]


def test_int8_loses_nothing_by_sharing(form, tmp_path):
    for seed in SEEDS:
        checkpoint = form_checkpoint(form, seed)
        shared = exported(checkpoint, tmp_path / "shared.onnx")
        checkpoint.model = untied(checkpoint.model)
        twin = exported(checkpoint, tmp_path / "twin.onnx")
        assert shared.proof.groups and twin.proof.kernels_stored > shared.proof.kernels_stored
        assert shared.parity.sqnr_db >= max(form.floor_db, twin.parity.sqnr_db - 0.5), seed
        if not saturates_here(TARGET):
            assert shared.parity_here.sqnr_db >= max(form.floor_db, twin.parity_here.sqnr_db - 0.5), seed
        if seed == SEEDS[0]:
            computed = runtime_ops(tmp_path / "shared.onnx")
            assert ("DequantizeLinear" in computed) == bool(form.floats), computed
            assert computed >= set(form.floats)


@pytest.mark.parametrize("kind", TFLITE_KINDS)
def test_tflite(form, kind, tmp_path):
    """By the reference kernels and by XNNPACK, and read back without edgeks' code."""
    options, floor_db = TFLITE_KINDS[kind]
    path = tmp_path / "m.tflite"
    report = export(form_checkpoint(form, SEEDS[0]), path, TFLITE, min_sqnr_db=-201, **options)
    assert min(report.parity.sqnr_db, report.parity_here.sqnr_db) >= floor_db
    file = PlainTflite(path)
    plan = json.loads(report.ledger_path.read_text())["plan"]
    groups = [tuple(group["layers"]) for group in (*plan["groups"], *plan["unshared"])]
    assert any(len(group) > 1 for group in groups)
    require_exactly_once(file, groups)
    require_sound(file)


def exported(checkpoint, path) -> ExportReport:
    return export(checkpoint, path, TARGET, int8=True, min_sqnr_db=-201)


def runtime_ops(path) -> set[str]:
    """Op types of the graph that ONNX Runtime makes of the file; a DequantizeLinear in it leads to an op in float."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[TARGET.session.graph_optimization]
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    disabled = list(TARGET.session.disabled_optimizers)
    ort.InferenceSession(str(path), options, ["CPUExecutionProvider"], disabled_optimizers=disabled)
    return {node.op_type for node in onnx.load(path.with_name("optimised.onnx")).graph.node}
