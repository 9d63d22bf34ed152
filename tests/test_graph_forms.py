"""Every graph form: int8 is as near to torch as without sharing, by the file and by the runtime; each kernel once."""

import onnx
import onnxruntime as ort
import pytest
from graph_forms import FORMS, form_checkpoint
from one_capture import one_capture

from edgeks.export_checks import saturates_here
from edgeks.exporter import ExportReport, export
from edgeks.formats.onnx import LEVELS
from edgeks.sharing.torch import untied
from edgeks.target import load_target

TARGET = load_target("onnx")
SEEDS = (0, 1, 2)


@pytest.mark.parametrize("name", FORMS)
def test_int8_loses_nothing_by_sharing(name, tmp_path):
    form = FORMS[name]
    with one_capture():
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
