"""The flash part of a .tflite footprint: of edgeks' own files, of foreign ones, of files that mean harm."""

import dataclasses
import io
import random
import subprocess
import sys
import zlib

import foreign_tflite
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from networks import SharedConvs, small_checkpoint
from rich.console import Console
from tflite_graph import TfliteGraph

from edgeks.audit.footprint import footprint
from edgeks.audit.report import render
from edgeks.errors import BudgetExceeded, ModelFileError
from edgeks.exporter import export
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.model_files.tflite_file import metadata, pack, read_tflite
from edgeks.target import LiteRtSession, load_target

MAPS = (1, 6, 6, 8)
TARGET = load_target("rpi-zero-2w-tflite")


def kernel(seed=0):
    return np.random.default_rng(seed).integers(-127, 128, (8, 3, 3, 8)).astype(np.int8)


def convolutions(path, *contents, scales=None, sharing=()):
    """int8 convolutions one after the other; `sharing`: pairs (layer, layer whose buffer it reads)."""
    graph, buffers = TfliteGraph(), {}
    x = graph.input(MAPS, np.int8, 0.1)
    for layer, content in enumerate(contents):
        scale = np.full(8, 0.01 * (layer + 1)) if scales is None else scales[layer]
        source = dict(sharing).get(layer)
        weight = graph.constant(content, scale, buffer=None if source is None else buffers[source])
        buffers[layer] = graph.graph.tensors[weight].buffer
        bias = graph.constant(np.arange(8, dtype=np.int32) + layer, np.asarray(scale) * 0.1)
        x = graph.conv([x, weight, bias], graph.tensor(MAPS, np.int8, 0.1))
    return graph.write(path, x)


def text_of(result, width=100):
    console = Console(file=io.StringIO(), width=width)
    render(result, console)
    return console.file.getvalue()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "static", "dynamic", "float"])
def test_one_shared_kernel_of_an_export(precision, tmp_path):
    options = {"int8": precision in ("static", "dynamic", "float"), "float16": precision == "fp16"}
    target = load_target("tflite")
    if options["int8"]:
        target = dataclasses.replace(target, int8=dataclasses.replace(target.int8, mode=precision))
    path = tmp_path / "net.tflite"
    report = export(small_checkpoint(SharedConvs()), path, target, **options)
    flash = footprint(path).flash
    assert (flash.kernels, flash.layers) == (report.proof.kernels_stored, 5)
    (group,) = flash.shared
    assert group.layers == report.proof.groups[0].layers
    size = {"fp32": 4, "fp16": 2}.get(precision, 1)
    assert (group.stored_bytes, group.saved_bytes) == (size * 576, 2 * size * 576)
    assert not flash.scaled_copies
    assert flash.file_bytes == path.stat().st_size == flash.constant_bytes + flash.graph_bytes
    assert sum(row.stored_bytes for row in flash.ops) == flash.constant_bytes


def test_tensors_with_scales_of_their_own_and_one_buffer_are_one_kernel(tmp_path):
    flash = footprint(convolutions(tmp_path / "n.tflite", *[kernel()] * 3, sharing=[(1, 0), (2, 0)])).flash
    assert (flash.kernels, flash.layers, flash.saved_bytes) == (1, 3, 2 * 576)
    assert [(row.op_type, row.nodes, row.constants, row.stored_bytes) for row in flash.ops] == [
        ("CONV_2D", 3, 4, 576 + 3 * 32)
    ]


def test_floor_and_metadata(tmp_path):
    small = np.round(kernel() * np.linspace(0.5, 0.9, 8)[:, None, None, None]).astype(np.int8)
    flash = footprint(convolutions(tmp_path / "n.tflite", kernel(), kernel(), small, kernel(5))).flash
    # Two kernels, a bias and eight scales for each of four layers.
    assert flash.floor_bytes == 2 * 576 + 4 * (32 + 32)
    assert flash.metadata_bytes == 26  # the description, and the names in a signature
    assert flash.compressed_bytes == len(zlib.compress((tmp_path / "n.tflite").read_bytes(), 6))
    path = tmp_path / "export.tflite"
    export(small_checkpoint(SharedConvs()), path, load_target("tflite"))
    flash = footprint(path).flash
    assert flash.metadata_bytes > sum(map(len, metadata(read_tflite(path)).values())) > 0
    assert flash.structure_bytes > 0


def test_copies_byte_for_byte_and_up_to_a_factor(tmp_path):
    small = np.round(kernel() * np.linspace(0.5, 0.9, 8)[:, None, None, None]).astype(np.int8)
    flash = footprint(convolutions(tmp_path / "n.tflite", kernel(), kernel(), small, kernel(5))).flash
    assert [(copy.kind, len(copy.constants), copy.wasted_bytes) for copy in flash.copies] == [
        ("equal", 2, 576),
        ("scaled", 2, 576),
    ]
    assert flash.unique_bytes == flash.constant_bytes - 576
    assert (flash.kernels, flash.layers) == (4, 4)


def test_codes_around_a_zero_point_are_compared_without_it(tmp_path):
    codes = np.random.default_rng(0).integers(0, 120, (8, 3, 3, 8)).astype(np.uint8)
    graph = TfliteGraph()
    x = graph.input(MAPS, np.uint8, 0.1)
    for layer, content in enumerate((codes, codes + 7)):
        weight = graph.tensor(codes.shape, np.uint8, 0.01, zero_point=60 + 7 * layer, buffer=graph.buffer(content))
        bias = graph.constant(np.arange(8, dtype=np.int32) + layer, 0.001)
        x = graph.conv([x, weight, bias], graph.tensor(MAPS, np.uint8, 0.1))
    (copies,) = footprint(graph.write(tmp_path / "n.tflite", x)).flash.copies
    assert copies.kind == "scaled"


def test_a_type_that_numpy_has_not_is_counted_all_the_same(tmp_path):
    path = convolutions(tmp_path / "n.tflite", kernel(), kernel(1))
    model = read_tflite(path)
    for tensor in model.subgraphs[0].tensors:
        if tensor.shape is not None and list(tensor.shape) == [8, 3, 3, 8]:
            tensor.type = 17  # INT4: two codes to a byte
            model.buffers[tensor.buffer].data = model.buffers[tensor.buffer].data[:288]
    path.write_bytes(pack(model))
    flash = footprint(path).flash
    assert (flash.kernels, flash.layers, flash.constant_bytes) == (2, 2, 2 * 288 + 2 * 32)


def test_budgets(tmp_path):
    result = footprint(convolutions(tmp_path / "n.tflite", kernel()), TARGET)
    assert [check.fits for check in result.budgets] == [True, True]
    text = " ".join(text_of(result).split())
    assert text.startswith("fits rpi-zero-2w-tflite: flash 1.6 kB of 16.00 MB, RAM ")
    over = footprint(result.path, dataclasses.replace(TARGET, flash_budget_bytes=1000))
    assert "does not fit rpi-zero-2w-tflite" in text_of(over)
    with pytest.raises(BudgetExceeded, match=r"flash 1,\d\d\d bytes of 1,000"):
        over.require_fit()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_never_wider_than_the_console_or_100_columns(width, tmp_path):
    path = convolutions(tmp_path / "n.tflite", *[kernel()] * 3, kernel(), sharing=[(1, 0)])
    model = read_tflite(path)
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        tensor.name = f"[bold]a.layer\x1b[2Jof.a.foreign.network.with.a.name.that.goes.on.and.on;{index}"
    path.write_bytes(pack(model))
    text = text_of(footprint(path, TARGET), width)
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert "\x1b" not in text and "[bold]a.lay" in text


def test_damaged_files_are_a_footprint_or_one_line(tmp_path):
    content = convolutions(tmp_path / "n.tflite", *[kernel()] * 2, sharing=[(1, 0)]).read_bytes()
    rng, damaged, refused = random.Random(0), tmp_path / "damaged.tflite", 0
    for _ in range(400):
        harmed = bytearray(content if rng.random() < 0.8 else content[: rng.randrange(8, len(content))])
        for _ in range(rng.randrange(1, 6)):
            harmed[rng.randrange(8, len(harmed))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        damaged.write_bytes(harmed)
        try:
            text_of(footprint(damaged, TARGET))
        except ModelFileError as error:
            assert "\n" not in str(error) and "damaged.tflite" in str(error)
            refused += 1
    assert 0 < refused < 400


def test_from_the_command_line(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "edgeks", "footprint", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    path = convolutions(tmp_path / "N.TFLITE", *[kernel()] * 2, sharing=[(1, 0)])
    assert run(path).stdout.startswith("N.TFLITE: 2.0 kB in flash, ")
    assert "1 kernel for 2 layers, sharing saves 576 B" in " ".join(run(path).stdout.split())
    tiny = tmp_path / "tiny.toml"
    tiny.write_text('description = "tiny"\nformat = "tflite"\nruntime = "litert"\n[budget]\nflash_mb = 0.001\n')
    assert run(path, "--target", tiny).returncode == 1
    for name, content in {"none.tflite": b"\x1c\0\0\0NONE", "short.tflite": path.read_bytes()[:99]}.items():
        (tmp_path / name).write_bytes(content)
        done = run(tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("error: ")


def test_a_sparse_kernel_is_a_kernel(tmp_path):
    """As MediaPipe's detectors store theirs: the values that are not 0, and where they belong; DENSIFY unpacks them."""
    graph, codes = foreign_tflite.Graph(), schema.BuiltinOperator
    shape, floats = (1, 6, 6, 8), schema.TensorType.FLOAT32
    x, y = (graph.tensor(name, shape, floats) for name in ("x", "y"))
    stored = graph.tensor("stored", (8, 1, 1, 8), floats, np.ones(8, np.float32))
    graph.graph.tensors[stored].sparsity = diagonal(8)
    unpacked = graph.tensor("unpacked", (8, 1, 1, 8), floats)
    bias = graph.tensor("bias", (8,), floats, np.zeros(8, np.float32))
    graph.operator(codes.DENSIFY, [stored], [unpacked], schema.BuiltinOptions.DensifyOptions, schema.DensifyOptionsT())
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = 1
    graph.operator(codes.CONV_2D, [x, unpacked, bias], [y], schema.BuiltinOptions.Conv2DOptions, options)
    path = graph.write(tmp_path / "sparse.tflite", [x], [y])
    session = LiteRtSession(1, "reference")
    image = np.random.default_rng(0).random(shape, np.float32)
    interpreter = open_interpreter(path, session)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    assert np.array_equal(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), image)

    found = footprint(path)
    assert (found.flash.kernels, found.flash.layers, found.flash.constant_bytes) == (1, 1, 64)
    assert found.compute.macs == 6 * 6 * 8 * 8
    assert found.ram[0].predicted and "sparse kernels" not in " ".join(found.ram[0].predicted.notes)
    graph.model.buffers[graph.graph.tensors[stored].buffer].data = np.zeros(65 * 4, np.uint8)
    with pytest.raises(ModelFileError, match="has 260 bytes"):
        footprint(graph.write(path, [x], [y]))


def diagonal(size):
    """Sparsity of a `size`×1×1×`size` kernel with one value in each row: 0 in the first column, 1 in the second, …"""
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.dimMetadata = [0, 1, 2, 3], []
    for length in (size, 1, 1):
        dense = schema.DimensionMetadataT()
        dense.format, dense.denseSize = schema.DimensionType.DENSE, length
        sparsity.dimMetadata.append(dense)
    last = schema.DimensionMetadataT()
    last.format = schema.DimensionType.SPARSE_CSR
    last.arraySegmentsType = last.arrayIndicesType = schema.SparseIndexVector.Uint8Vector
    last.arraySegments, last.arrayIndices = schema.Uint8VectorT(), schema.Uint8VectorT()
    last.arraySegments.values, last.arrayIndices.values = list(range(size + 1)), list(range(size))
    sparsity.dimMetadata.append(last)
    return sparsity
