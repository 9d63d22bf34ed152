"""What remains of a model without its large tensors is the same model, and a file that would fill memory is refused."""

import numpy as np
import onnx
import pytest
import small_graphs as graphs
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from edgeks.errors import ModelFileError
from edgeks.model_files.mapped_file import map_file
from edgeks.model_files.onnx_file import read_model_file
from edgeks.model_files.onnx_wire import MAX_INLINE_BYTES, small_parts

LARGE = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)


def with_large(tensor):
    proto = graphs.fp32_shared()
    proto.graph.initializer.append(tensor)
    return proto


def head():
    proto = ModelProto(ir_version=9)
    proto.opset_import.add(version=20)
    return proto.SerializeToString()


def field(number, content):
    return number_bytes(number << 3 | 2) + number_bytes(len(content)) + content


def number_bytes(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


@pytest.mark.parametrize("name", ["fp32_shared", "qdq", "loop"])
def test_a_model_of_small_tensors_stays_as_it_is(name, tmp_path):
    path = graphs.save(getattr(graphs, name)(), tmp_path / "net.onnx")
    with map_file(path) as content:
        assert small_parts(content) == path.read_bytes()


@pytest.mark.parametrize("stored", ["raw_data", "float_data"])
def test_a_large_tensor_stays_in_the_file(stored, tmp_path):
    tensor = numpy_helper.from_array(LARGE, "large")
    if stored == "float_data":
        tensor = helper.make_tensor("large", TensorProto.FLOAT, LARGE.shape, LARGE.ravel())
    path = graphs.save(with_large(tensor), tmp_path / "net.onnx")
    model = read_model_file(path)
    constant = model.constants[""]["large"]
    assert (constant.data_file, constant.stored_bytes) == (path, LARGE.nbytes)
    assert model.proto.ByteSize() < path.stat().st_size - LARGE.nbytes + 200
    assert model.file_bytes == path.stat().st_size
    np.testing.assert_array_equal(constant.array(), LARGE)
    inline = graphs.save(with_large(numpy_helper.from_array(LARGE, "large")), tmp_path / "other.onnx")
    assert constant.digest() == read_model_file(inline).constants[""]["large"].digest()


def test_large_tensors_of_constant_nodes_and_of_bodies(tmp_path):
    proto = graphs.loop()
    body = next(node for node in proto.graph.node if node.op_type == "Loop").attribute[0].g
    body.initializer.append(numpy_helper.from_array(LARGE, "inner"))
    value = numpy_helper.from_array(2 * LARGE)
    proto.graph.node.append(helper.make_node("Constant", [], ["outer"], "constant", value=value))
    model = read_model_file(graphs.save(proto, tmp_path / "net.onnx"))
    by_name = {constant.name: constant for constant in model.all_constants()}
    for name, values in (("inner", LARGE), ("outer", 2 * LARGE)):
        assert by_name[name].data_file == model.path
        np.testing.assert_array_equal(by_name[name].array(), values)


def test_what_a_large_tensor_holds_must_be_what_its_shape_says(tmp_path):
    tensor = numpy_helper.from_array(LARGE, "large")
    tensor.dims[0] = 65
    path = graphs.save(with_large(tensor), tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match=r"'large' has shape .* needs 149760 bytes, but the file holds 147456"):
        read_model_file(path)
    tensor = helper.make_tensor("large", TensorProto.FLOAT, LARGE.shape, LARGE.ravel())
    tensor.data_type = TensorProto.INT32
    with pytest.raises(ModelFileError, match="has its values in float_data, which its type 6 does not use"):
        read_model_file(graphs.save(with_large(tensor), path))


def test_content_in_two_places_is_refused(tmp_path):
    tensor = numpy_helper.from_array(LARGE, "large")
    tensor.data_location = TensorProto.EXTERNAL
    path = graphs.save(with_large(tensor), tmp_path / "net.onnx")
    with pytest.raises(ModelFileError, match="in two places"):
        read_model_file(path)


def test_a_file_may_not_claim_to_hold_content_elsewhere_in_itself(tmp_path):
    tensor = TensorProto(name="t", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for value in ("raw_data 0 16000000", "raw_data -16 16", "raw_data x", "", "raw_data 1 2 3"):
        del tensor.external_data[:]
        tensor.external_data.add(key="edgeks.content_at", value=value)
        with pytest.raises(ModelFileError, match="constant 't'"):
            read_model_file(graphs.save(with_large(tensor), tmp_path / "net.onnx"))


SMALL_FILES_OF_LARGE_MODELS = {
    "nodes": (field(7, b"\x0a\0" * 2_000_000), "memory"),
    "sizes": (field(7, field(11, field(2, field(1, field(2, b"\x0a\0" * 2_000_000))))), "memory"),
    "numbers": (field(7, field(5, b"\x3a" + number_bytes(40_000_000) + b"\1" * 40_000_000)), "memory"),
    "many nodes": (field(7, b"\x0a\0" * 100_001), "100,001 nodes"),
    "a group": (b"\x0b\x0c", "wire type 3"),
    "an endless number": (b"\xff" * 20, "ten bytes"),
}


@pytest.mark.parametrize("name", SMALL_FILES_OF_LARGE_MODELS)
def test_what_would_fill_memory_is_refused(name, tmp_path):
    content, word = SMALL_FILES_OF_LARGE_MODELS[name]
    (tmp_path / "net.onnx").write_bytes(head() + content)
    with pytest.raises(ModelFileError, match=word):
        read_model_file(tmp_path / "net.onnx")


def test_bodies_in_bodies(tmp_path):
    content = b""
    for _ in range(60):
        content = field(1, field(5, field(6, content)))
    (tmp_path / "net.onnx").write_bytes(head() + field(7, content))
    with pytest.raises(ModelFileError, match="nested deeper"):
        read_model_file(tmp_path / "net.onnx")


def functions(calls, levels=40):
    """Function i calls function i + 1 `calls` times; the last one calls the first if there is but one."""
    proto = graphs.model([helper.make_node("f0", ["x"], ["y"], domain="own")], [], 1, [1, 8, 6, 6])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    proto.opset_import.append(opsets[1])
    for level in range(levels):
        names = [f"v{index}" for index in range(calls)]
        called = f"f{(level + 1) % levels}"
        nodes = [helper.make_node(called, [a], [b], domain="own") for a, b in zip(["a", *names], names, strict=False)]
        if level == levels - 1 and levels > 1:
            nodes = [helper.make_node("Relu", ["a"], [names[-1]])]
        proto.functions.append(helper.make_function("own", f"f{level}", ["a"], [names[-1]], nodes, opsets))
    return proto


@pytest.mark.parametrize(
    ("calls", "levels", "word"), [(2, 40, "so often"), (1, 1, "calls itself"), (1, 90, "too many others")]
)
def test_functions_that_never_end(calls, levels, word, tmp_path):
    with pytest.raises(ModelFileError, match=word):
        read_model_file(graphs.save(functions(calls, levels), tmp_path / "net.onnx"))


def test_functions_that_end(tmp_path):
    model = read_model_file(graphs.save(functions(2, 5), tmp_path / "net.onnx"))
    assert len(model.proto.graph.node) == 16


def test_the_limit_is_what_shape_inference_reads():
    values = np.arange(MAX_INLINE_BYTES // 8)
    graph = GraphProto(initializer=[numpy_helper.from_array(values, "shape")])
    assert len(graph.initializer[0].raw_data) == MAX_INLINE_BYTES
    assert onnx.numpy_helper.to_array(graph.initializer[0]).shape == (1024,)
