"""A file that is not what it says is refused in one line, before anything large is allocated."""

import math
import resource

import numpy as np
import onnx
import pytest
import small_graphs as graphs
from onnx import TensorProto, helper

from edgeks.audit.footprint import footprint
from edgeks.errors import ModelFileError
from edgeks.model_files.onnx_file import read_model_file


def refused(path, *words):
    with pytest.raises(ModelFileError) as caught:
        footprint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no graph"),
        (b"# Notes\n\nThis is not a model.\n", "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "not an ONNX model"),
        (b"PK\x03\x04" + bytes(100), "ONNX model"),
        (bytes(1000), "ONNX model"),
        (b"\xff" * 1000, "not an ONNX model"),
    ],
)
def test_files_that_are_not_onnx(content, word, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    refused(path, word)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "folder")


def test_a_node_without_outputs(tmp_path):
    for outputs in ([], [""]):
        proto = graphs.fp32_shared()
        proto.graph.node.insert(1, helper.make_node("Relu", ["x"], outputs, "lost"))
        refused(graphs.save(proto, tmp_path / "net.onnx"), "'lost'", "no output")


def test_truncated_anywhere(tmp_path):
    whole = graphs.qdq().SerializeToString()
    path = tmp_path / "net.onnx"
    for size in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        refused(path)


def test_random_damage_gives_an_answer_or_one_line(tmp_path):
    whole = graphs.fp32_shared(2).SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "net.onnx"
    for _ in range(200):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 3):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            footprint(path)
        except ModelFileError as error:
            assert "\n" not in str(error)


def test_a_huge_claimed_shape_is_refused_without_allocating_it(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for dims in ([1 << 40, 1 << 20], [100_000, 100_000], [-1, 4]):
        proto = graphs.fp32_shared(1)
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(dims)
        refused(graphs.save(proto, tmp_path / "net.onnx"), "'kernel'", "shape")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_unknown_data_type(tmp_path):
    proto = graphs.fp32_shared(1)
    proto.graph.initializer[0].data_type = 99
    refused(graphs.save(proto, tmp_path / "net.onnx"), "unknown data type 99")


def test_cycle(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "second"),
        helper.make_node("Relu", ["b"], ["y"], "third"),
    ]
    refused(graphs.save(graphs.model(nodes, []), tmp_path / "net.onnx"), "'first'", "'b'", "cycle")


def test_duplicate_names(tmp_path):
    proto = graphs.fp32_shared(1)
    proto.graph.initializer.append(graphs.initializer("kernel", np.zeros(3, np.float32)))
    refused(graphs.save(proto, tmp_path / "net.onnx"), "two constants are named 'kernel'")
    nodes = [helper.make_node("Relu", ["x"], ["y"], "one"), helper.make_node("Relu", ["x"], ["y"], "two")]
    refused(graphs.save(graphs.model(nodes, []), tmp_path / "net.onnx"), "'y' is produced twice", "'two'")


def test_output_that_nothing_produces(tmp_path):
    proto = graphs.model([helper.make_node("Relu", ["x"], ["z"], "relu")], [])
    refused(graphs.save(proto, tmp_path / "net.onnx"), "nothing produces", "'y'")


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/passwd", "sub/../../outside.bin"])
def test_external_data_outside_the_folder_is_not_read(location, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(10_000))
    refused(graphs.external(graphs.fp32_shared(2), folder / "net.onnx", location), "outside")


def test_external_data_through_a_link_out_of_the_folder_is_not_read(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    path = graphs.external(graphs.fp32_shared(2), folder / "net.onnx", "weights.bin")
    (folder / "weights.bin").rename(tmp_path / "outside.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "outside.bin")
    refused(path, "outside")


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"offset": "-4"}, "at -4"), ({"offset": "400"}, "at 400"), ({"length": "7"}, "says 7"), ({"offset": "x"}, "'x'")],
)
def test_external_data_that_contradicts_itself(changes, word, tmp_path):
    refused(graphs.external(graphs.fp32_shared(2), tmp_path / "net.onnx", **changes), "'kernel'", word)


def test_external_data_that_is_missing(tmp_path):
    path = graphs.external(graphs.fp32_shared(2), tmp_path / "net.onnx")
    (tmp_path / "weights.bin").unlink()
    refused(path, "'weights.bin'", "not beside the model")


def test_external_data_beside_the_model_counts(tmp_path):
    inline = footprint(graphs.save(graphs.fp32_shared(), tmp_path / "inline.onnx"))
    apart = footprint(graphs.external(graphs.fp32_shared(), tmp_path / "apart.onnx"))
    assert apart.flash.unique_bytes == inline.flash.unique_bytes
    assert apart.flash.shared == inline.flash.shared
    size = (tmp_path / "apart.onnx").stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert apart.flash.file_bytes == size


@pytest.mark.parametrize("name", [n for n, v in TensorProto.DataType.items() if v and "FLOAT6" not in n])
def test_every_data_type_reads_with_its_bytes(name, tmp_path):
    kind = TensorProto.DataType.Value(name)
    values = [b"ab", b"c", b""] if name == "STRING" else [1, 0, 1]
    tensor = helper.make_tensor("t", kind, [3], values)
    proto = graphs.model([helper.make_node("Relu", ["x"], ["y"], "relu")], [tensor])
    (constant,) = read_model_file(graphs.save(proto, tmp_path / "net.onnx")).all_constants()
    assert constant.array().shape == (3,)
    assert constant.stored_bytes > 0
    assert len(constant.digest()) == 32


def test_constants_of_model_local_functions_are_seen(tmp_path):
    function = helper.make_function(
        "local",
        "Block",
        ["a", "w"],
        ["b"],
        [helper.make_node("Conv", ["a", "w"], ["b"], "conv", pads=[1, 1, 1, 1])],
        [helper.make_opsetid("", 20)],
    )
    nodes = [
        helper.make_node("Block", ["x", "kernel"], ["m"], "one", domain="local"),
        helper.make_node("Block", ["m", "kernel"], ["y"], "two", domain="local"),
    ]
    proto = graphs.model(nodes, [graphs.initializer("kernel", graphs.kernel())], 1, [1, 8, 6, 6])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    onnx.checker.check_model(proto)
    (shared,) = footprint(graphs.save(proto, tmp_path / "net.onnx")).flash.shared
    assert len(shared.layers) == 2
    assert shared.stored_bytes == math.prod(shared.shape) * 4
