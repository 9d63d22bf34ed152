"""A file of ONNX Runtime's own format is read as what ONNX Runtime saved: held against its own reader and the .onnx."""

import flatbuffers
import numpy as np
import pytest
import small_graphs as graphs
from onnx import numpy_helper
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py import fbs
from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import Graph, InferenceSession, Model, Tensor
from ort_files import save_ort

from edgeks.audit.footprint import footprint
from edgeks.errors import ModelFileError
from edgeks.model_files.ort_file import FIELDS, read_ort

NETWORKS = ["fp32_shared", "qdq", "qoperator", "public_chain", "loop"]


def saved(name, tmp_path, optimised=False):
    source = graphs.save(getattr(graphs, name)(), tmp_path / "net.onnx")
    return source, save_ort(source, tmp_path / "net.ort", optimised)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_flash_and_peak_as_of_the_onnx_file(name, tmp_path):
    source, path = saved(name, tmp_path)
    onnx_file, ort_file = footprint(source), footprint(path)
    assert ort_file.flash.file_bytes == path.stat().st_size
    assert ort_file.flash.constant_bytes == onnx_file.flash.constant_bytes
    assert ort_file.flash.shared == onnx_file.flash.shared
    copies = [{(held.kind, frozenset(held.constants)) for held in file.flash.copies} for file in (onnx_file, ort_file)]
    assert copies[0] == copies[1]  # ONNX Runtime has an order of its own
    assert ort_file.flash.floor_bytes == onnx_file.flash.floor_bytes
    assert {(row.op_type, row.stored_bytes) for row in ort_file.flash.ops} == {
        (row.op_type, row.stored_bytes) for row in onnx_file.flash.ops
    }
    assert ort_file.arena.peak.peak_bytes == onnx_file.arena.peak.peak_bytes


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_nodes_and_constants_are_those_that_onnxruntimes_own_reader_finds(name, optimised, tmp_path):
    _, path = saved(name, tmp_path, optimised)
    graph = InferenceSession.InferenceSession.GetRootAs(path.read_bytes(), 0).Model().Graph()
    model = read_ort(path)
    nodes = [graph.Nodes(index) for index in range(graph.NodesLength())]
    assert sorted((node.op_type, *node.input, *node.output) for node in model.proto.graph.node) == sorted(
        (
            node.OpType().decode(),
            *(node.Inputs(index).decode() for index in range(node.InputsLength())),
            *(node.Outputs(index).decode() for index in range(node.OutputsLength())),
        )
        for node in nodes
    )
    for index in range(graph.InitializersLength()):
        tensor = graph.Initializers(index)
        constant = model.constants[""][tensor.Name().decode()]
        assert constant.content().tobytes() == bytes(tensor.RawDataAsNumpy())
        assert constant.shape == tuple(tensor.Dims(axis) for axis in range(tensor.DimsLength()))
    assert [value.name for value in model.proto.graph.input] == [
        graph.Inputs(index).decode() for index in range(graph.InputsLength())
    ]


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_are_where_the_schema_has_them(kind):
    """The vtable slot of each field, as onnxruntime's generated builder sets it."""
    module = __import__(f"{fbs.__name__}.{kind}", fromlist=[kind])
    for index, name in enumerate(FIELDS[kind]):
        add = getattr(module, f"{kind}Add{''.join(word.title() for word in name.split('_'))}", None)
        if add is None:
            assert name == "session_state"  # deprecated: onnxruntime cannot write it any more
            continue
        slots = []

        class Recorder:
            def __getattr__(self, _):
                return lambda slot, *_: slots.append(slot)  # noqa: B023

        add(Recorder(), 0)
        assert slots == [index], name


def test_large_constants_stay_in_the_file(tmp_path):
    proto = graphs.fp32_shared()
    weights = np.random.default_rng(0).standard_normal((5, 4096)).astype(np.float32)
    proto.graph.initializer.append(graphs.initializer("large", weights))
    proto.graph.output.append(graphs.helper.make_tensor_value_info("large", 1, [5, 4096]))
    path = save_ort(graphs.save(proto, tmp_path / "net.onnx"), tmp_path / "net.ort")
    constant = read_ort(path).constants[""]["large"]
    assert constant.data_file == path and not constant.tensor.raw_data
    np.testing.assert_array_equal(constant.array(), weights)
    assert constant.array().dtype == numpy_helper.to_array(proto.graph.initializer[-1]).dtype


def test_data_of_training_is_refused(tmp_path):
    builder = flatbuffers.Builder(256)
    name = builder.CreateString("weight")
    Tensor.TensorStart(builder)
    Tensor.TensorAddName(builder, name)
    Tensor.TensorAddExternalDataOffset(builder, 64)
    tensor = Tensor.TensorEnd(builder)
    Graph.GraphStartInitializersVector(builder, 1)
    builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    Graph.GraphStart(builder)
    Graph.GraphAddInitializers(builder, tensors)
    graph = Graph.GraphEnd(builder)
    Model.ModelStart(builder)
    Model.ModelAddGraph(builder, graph)
    model = Model.ModelEnd(builder)
    version = builder.CreateString("6")
    InferenceSession.InferenceSessionStart(builder)
    InferenceSession.InferenceSessionAddOrtVersion(builder, version)
    InferenceSession.InferenceSessionAddModel(builder, model)
    builder.Finish(InferenceSession.InferenceSessionEnd(builder), b"ORTM")
    (tmp_path / "net.ort").write_bytes(builder.Output())
    with pytest.raises(ModelFileError, match="'weight' is in a data file"):
        read_ort(tmp_path / "net.ort")


@pytest.mark.parametrize("content", [b"", b"ORTM", b"\x1c\0\0\0ORTM", b"\x1c\0\0\0ORTX" + bytes(99), bytes(1000)])
def test_files_that_are_none(content, tmp_path):
    (tmp_path / "net.ort").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"net\.ort: "):
        read_ort(tmp_path / "net.ort")


def test_a_later_version_of_the_format_is_named(tmp_path):
    _, path = saved("qdq", tmp_path)
    content = path.read_bytes()
    version = b"\x01\0\0\0" + b"6\0"
    assert content.count(version) == 1
    path.write_bytes(content.replace(version, b"\x01\0\0\0" + b"9\0"))
    with pytest.raises(ModelFileError, match="format version '9', known: 1, 2"):
        read_ort(path)
