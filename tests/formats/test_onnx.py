"""Files: sound, lean, and run batch by batch."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx_text import constant, graph_of, node_of, normal, two_convs_with_norms

from edgeks.errors import GraphError, ModelFileError
from edgeks.formats.onnx import REFERENCE, open_session, run, simplify, to_proto, write_onnx
from edgeks.graph.kernels import readers

GRAPH = "(float[2,3] x) => (float[2,3] y) { [a] y = Add(x, c) }"


def test_a_file_holds_metadata_as_json_and_no_value_info(tmp_path):
    model = two_convs_with_norms(np.ones(4, np.float32), np.ones(4, np.float32))
    write_onnx(model, tmp_path / "m.onnx", {"preprocessing": {"mean": [0.5]}})
    proto = onnx.load(tmp_path / "m.onnx")
    assert not proto.graph.value_info and proto.producer_name == "edgeks"
    assert {p.key: json.loads(p.value) for p in proto.metadata_props} == {"edgeks.preprocessing": {"mean": [0.5]}}


def test_an_unsound_graph_is_one_line():
    model = graph_of(GRAPH, c=normal(3))
    node_of(model, "a").op_type = "NoSuchOp"
    with pytest.raises(GraphError, match="not sound ONNX"):
        to_proto(model)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_last_short_batch_is_padded_and_cut(samples):
    session = open_session(to_proto(graph_of(GRAPH, c=np.ones(3, np.float32))).SerializeToString(), REFERENCE)
    x = normal(samples, 3)
    np.testing.assert_array_equal(run(session, x)[0], x + 1)


def test_what_onnx_runtime_refuses_is_one_line(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ModelFileError, match=r"refuses broken\.onnx") as caught:
        open_session(path, REFERENCE)
    assert "\n" not in str(caught.value)


def test_session_options_reach_onnx_runtime():
    content = to_proto(graph_of(GRAPH, c=normal(3))).SerializeToString()
    options = replace(REFERENCE, threads=2, config=(("session.disable_prepacking", "1"),))
    found = open_session(content, options).get_session_options()
    assert found.intra_op_num_threads == 2
    assert found.get_session_config_entry("session.disable_prepacking") == "1"


def test_simplify_keeps_ties_and_names_and_prints_nothing(capfd):
    model = two_convs_with_norms(np.ones(4, np.float32), np.full(4, 2, np.float32))
    simplified, note = simplify(model)
    ((kernel, layers),) = readers(simplified).items()
    assert layers == ["conv1", "conv2"] and "nodes" in note
    np.testing.assert_array_equal(constant(kernel), constant(model.graph.initializers["W"]))
    assert capfd.readouterr().out == ""
