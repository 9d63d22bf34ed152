"""Our lowering against litert-torch's, network by network, where that is installed (`make test-litert-torch`)."""

import warnings
from importlib.util import find_spec

import graph_forms
import numpy as np
import pytest
import torch
from networks import inputs_of

from edgeks.artefact import run_artefact
from edgeks.exporter import export
from edgeks.formats.tflite.runtime import REFERENCE, open_interpreter, run
from edgeks.model_files.tflite_file import OPERATOR_NAMES, operator_code, read_tflite
from edgeks.target import load_target

pytestmark = pytest.mark.skipif(find_spec("litert_torch") is None, reason="litert-torch is an extra")
# litert-torch 0.10 cannot convert it (a decomposition fails).
BEYOND_THE_ORACLE = {"pixel shuffle"}


def transposes(path):
    model = read_tflite(path)
    names = [OPERATOR_NAMES[operator_code(model, op)] for graph in model.subgraphs for op in graph.operators]
    return names.count("TRANSPOSE")


@pytest.mark.parametrize("name", sorted(set(graph_forms.FORMS) - BEYOND_THE_ORACLE))
def test_the_same_outputs_with_no_more_transposes(tmp_path, name):
    import litert_torch

    checkpoint = graph_forms.form_checkpoint(graph_forms.FORMS[name], 0)
    samples = inputs_of(checkpoint)[:4]
    ours, theirs = tmp_path / "ours.tflite", tmp_path / "theirs.tflite"
    export(checkpoint, ours, load_target("tflite"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litert_torch.convert(checkpoint.model.eval(), (torch.from_numpy(samples[:1]),)).export(str(theirs))
    expected = run(open_interpreter(theirs, REFERENCE), samples)
    found = run_artefact(ours, REFERENCE, samples)
    for mine, other in zip(found, expected, strict=True):
        assert np.abs(mine.reshape(other.shape) - other).max() <= 1e-4 * np.abs(other).max()
    assert transposes(ours) <= transposes(theirs)
