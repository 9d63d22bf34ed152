"""Our .tflite files in the tools of others: the analyser and the flatbuffer reader that ship with ai-edge-litert."""

import re

import pytest
from ai_edge_litert import _pywrap_analyzer_wrapper
from ai_edge_litert.tools import flatbuffer_utils
from networks import small_checkpoint
from plain_tflite import PlainTflite

from edgeks.exporter import export
from edgeks.models.convmixer import ConvMixer
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

TARGET = load_target("tflite")


@pytest.mark.parametrize("mode", [None, "static", "dynamic"])
def test_the_analyser_and_the_reader_of_litert(mode, tmp_path):
    path = tmp_path / "m.tflite"
    options = Int8Options(activations=mode)
    export(small_checkpoint(ConvMixer(8, 4, 3, 2, 2)), path, TARGET, int8=mode is not None, options=options)
    file = PlainTflite(path)
    told = _pywrap_analyzer_wrapper.ModelAnalyzer(str(path), True, False)  # it verifies the flatbuffer first
    assert re.findall(r"Op#\d+ (\w+)\(", told) == [op.name for op in file.operators]
    assert told.count("buffer: ") >= len(file.stored()) and "'serving_default'" in told
    (tmp_path / "cut.tflite").write_bytes(path.read_bytes()[:-16])
    assert "not a valid Flatbuffer" in _pywrap_analyzer_wrapper.ModelAnalyzer(str(tmp_path / "cut.tflite"), True, False)
    model = flatbuffer_utils.read_model(str(path))
    assert len(model.subgraphs[0].operators) == len(file.operators)
    flatbuffer_utils.write_model(model, str(tmp_path / "again.tflite"))
    again = PlainTflite(tmp_path / "again.tflite")
    assert again.operators == file.operators and again.metadata == file.metadata
