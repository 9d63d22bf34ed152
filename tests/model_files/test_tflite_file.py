"""Reading .tflite files that nobody should trust: right, or one ModelFileError, soon and in little memory."""

import os
import tracemalloc

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from networks import SharedConvs, small_checkpoint
from tflite_graph import TfliteGraph

from edgeks.bench.local import bench
from edgeks.errors import ModelFileError
from edgeks.exporter import export
from edgeks.model_files.tflite_file import IDENTIFIER, SCHEMA_VERSION, pack, read_tflite
from edgeks.quant.options import Int8Options
from edgeks.target import load_target

TARGET = load_target("tflite")
WORDS = [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", bytes(4), b"\0\0\0\x80", (1 << 20).to_bytes(4, "little")]
MANY = 3000


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """An int8 file with all that edgeks writes."""
    path = tmp_path_factory.mktemp("sound") / "m.tflite"
    export(small_checkpoint(SharedConvs()), path, TARGET, int8=True, options=Int8Options(activations="static"))
    return path.read_bytes()


def refused(path, content):
    """Whether the content is refused; anything but its being read or a ModelFileError of one line fails the test."""
    path.write_bytes(content)
    try:
        read_tflite(path)
    except ModelFileError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return True
    return False


def test_every_cut_is_refused(sound, tmp_path):
    assert not refused(tmp_path / "m.tflite", sound)
    for length in [*range(0, len(sound), 64), 1, 4, 7, 8]:
        assert refused(tmp_path / "m.tflite", sound[:length]), length


def test_flipped_bits(sound, tmp_path):
    """Most are weights, scales or names and change what is computed; the rest must be found."""
    rng = np.random.default_rng(0)
    found = []
    for position in rng.integers(8, len(sound), 300):
        changed = bytearray(sound)
        changed[position] ^= 1 << int(rng.integers(8))
        found.append(refused(tmp_path / "m.tflite", bytes(changed)))
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize("word", WORDS, ids=bytes.hex)
def test_huge_and_cyclic_offsets_and_counts(word, sound, tmp_path):
    """Every place of a file is an offset, a count or a number somewhere; 0 is an offset to itself."""
    found = [
        refused(tmp_path / "m.tflite", sound[:position] + word + sound[position + 4 :])
        for position in np.random.default_rng(1).integers(2, len(sound) // 4, 120) * 4
    ]
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"\x1c\0\0\0TFL2" + bytes(99), b"not a model"])
def test_no_tflite_file(content, tmp_path):
    assert refused(tmp_path / "m.tflite", content)


def test_no_file(tmp_path):
    with pytest.raises(ModelFileError, match="is a folder; name the"):
        read_tflite(tmp_path)
    with pytest.raises(ModelFileError, match="no such file"):
        read_tflite(tmp_path / "m.tflite")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="no such file"):
        read_tflite(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(sound, tmp_path):
    (tmp_path / "m.tflite").write_bytes(sound)
    (tmp_path / "m.tflite").chmod(0)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_tflite(tmp_path / "m.tflite")


def test_a_large_file_that_is_none_is_not_read(tmp_path):
    with (tmp_path / "m.tflite").open("wb") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="its bytes 4 to 8 are not TFL3"):
        read_tflite(tmp_path / "m.tflite")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def vector(builder, offset, count):
    """A list of `count` entries, all of them the one table."""
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def bomb(graphs, tensors=1, operators=0, name="x", numbers=0):
    """A file of graphs that are one graph, of tensors that are one tensor: what it unpacks to is their product."""
    builder = flatbuffers.Builder(1024)
    text = builder.CreateString(name)
    inputs = builder.CreateNumpyVector(np.zeros(numbers, np.int32))
    made = []
    for _ in range(operators or 1):
        schema.OperatorStart(builder)
        schema.OperatorAddInputs(builder, inputs)
        made.append(schema.OperatorEnd(builder))
    tables = []
    for _ in range(tensors if name != "x" else 1):
        schema.TensorStart(builder)
        schema.TensorAddName(builder, text)
        schema.TensorAddShape(builder, inputs)
        tables.append(schema.TensorEnd(builder))
    if len(tables) > 1:
        builder.StartVector(4, len(tables), 4)
        for table in tables:
            builder.PrependUOffsetTRelative(table)
        listed = builder.EndVector()
    else:
        listed = vector(builder, tables[0], tensors)
    builder.StartVector(4, len(made), 4)
    for table in made:
        builder.PrependUOffsetTRelative(table)
    nodes = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, listed)
    schema.SubGraphAddOperators(builder, nodes)
    graph = vector(builder, schema.SubGraphEnd(builder), graphs)
    empty = builder.CreateString("")
    schema.BufferStart(builder)
    buffers = vector(builder, schema.BufferEnd(builder), 1)
    schema.OperatorCodeStart(builder)
    codes = vector(builder, schema.OperatorCodeEnd(builder), 1)
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, SCHEMA_VERSION)
    schema.ModelAddDescription(builder, empty)
    schema.ModelAddSubgraphs(builder, graph)
    schema.ModelAddBuffers(builder, buffers)
    schema.ModelAddOperatorCodes(builder, codes)
    builder.Finish(schema.ModelEnd(builder), IDENTIFIER)
    return bytes(builder.Output())


BOMBS = {
    "graphs of tensors": ({"graphs": MANY, "tensors": MANY}, "more than the"),
    "a name of many": ({"graphs": 1, "tensors": MANY, "name": "n" * 1_000_000}, "names are longer than the file"),
    "a list of many": ({"graphs": 1, "operators": MANY, "numbers": 300_000}, "more than 16 axes"),
    "nodes of one list": ({"graphs": 100, "operators": 20_000, "numbers": 16}, "more than the"),
}


def test_a_small_graph_of_that_kind_is_read(tmp_path):
    assert not refused(tmp_path / "m.tflite", bomb(2, 2, 3))


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_unpack_to_huge_ones(name, tmp_path):
    options, message = BOMBS[name]
    path = tmp_path / "m.tflite"
    path.write_bytes(bomb(**options))
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=message):
        read_tflite(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


FAULTS = {
    "a buffer that is not there": lambda g: setattr(g.graph.tensors[1], "buffer", 9),
    "a tensor that is not there": lambda g: g.graph.operators[0].inputs.__setitem__(1, 99),
    "a tensor before the first": lambda g: g.graph.operators[0].inputs.__setitem__(1, -2),
    "an operator that is not there": lambda g: setattr(g.graph.operators[0], "opcodeIndex", 3),
    "an input that is not there": lambda g: g.graph.inputs.__setitem__(0, 99),
    "a larger shape": lambda g: setattr(g.graph.tensors[1], "shape", [8, 3, 3, 9]),
    "a negative shape": lambda g: setattr(g.graph.tensors[1], "shape", [-8, 3, 3, -8]),
    "an open shape": lambda g: setattr(g.graph.tensors[1], "shape", [-1, 3, 3, 8]),
    "a huge shape": lambda g: setattr(g.graph.tensors[1], "shape", [2**31 - 1] * 4),
    "many axes": lambda g: setattr(g.graph.tensors[1], "shape", [1] * 999),
    "another version": lambda g: setattr(g.model, "version", 4),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_contradictions(fault, tmp_path):
    """LiteRT is not asked: the benchmark refuses them before a process is started."""
    graph = TfliteGraph()
    x = graph.input((1, 4, 4, 8), np.float32)
    kernel, bias = graph.constant(np.ones((8, 3, 3, 8), np.float32)), graph.constant(np.zeros(8, np.float32))
    y = graph.conv([x, kernel, bias], graph.tensor((1, 4, 4, 8), np.float32))
    FAULTS[fault](graph)
    path = graph.write(tmp_path / "m.tflite", y)
    with pytest.raises(ModelFileError, match="a damaged"):
        read_tflite(path)
    with pytest.raises(ModelFileError, match="a damaged"):
        bench(path, TARGET, 1, 0)


def test_a_signature_of_a_tensor_that_is_not_there(tmp_path):
    graph = TfliteGraph()
    graph.write(tmp_path / "m.tflite", graph.input((1, 4), np.float32))
    graph.model.signatureDefs[0].inputs[0].tensorIndex = 7
    assert refused(tmp_path / "m.tflite", pack(graph.model))
