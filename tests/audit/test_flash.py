"""Every byte of a file is accounted for, copies are named, and what sharing saves is what copies would cost."""

import zlib

import numpy as np
import pytest
import small_graphs as graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgeks.audit.compressed import compressed_size
from edgeks.audit.footprint import footprint

KERNEL = 4 * 8 * 8 * 9


def flash_of(proto, tmp_path):
    return footprint(graphs.save(proto, tmp_path / "net.onnx")).flash


def test_shared_fp32_file(tmp_path):
    flash = flash_of(graphs.fp32_shared(), tmp_path)
    assert flash.file_bytes == (tmp_path / "net.onnx").stat().st_size
    assert flash.constant_bytes == flash.unique_bytes == KERNEL + 4 * 4 * 8 * 4 + 160
    assert flash.graph_bytes == flash.file_bytes - flash.constant_bytes
    assert flash.saved_bytes == 3 * KERNEL
    assert (flash.kernels, flash.layers) == (2, 5)
    (shared,) = flash.shared
    assert (shared.constant, shared.layers, shared.saved_bytes) == ("kernel", graphs.layer_names(4), 3 * KERNEL)
    assert flash.copies == ()


def test_bytes_per_op_type_add_up(tmp_path):
    flash = flash_of(graphs.fp32_shared(), tmp_path)
    rows = {row.op_type: (row.nodes, row.constants, row.stored_bytes) for row in flash.ops}
    assert rows == {"Conv": (4, 1, KERNEL), "BatchNormalization": (4, 16, 512), "Gemm": (1, 1, 160)}
    for build in (graphs.qdq, graphs.qoperator, graphs.loop, graphs.public_chain):
        flash = flash_of(build(), tmp_path)
        assert sum(row.stored_bytes for row in flash.ops) == flash.constant_bytes


def test_an_int8_kernel_counts_for_the_op_behind_dequantize_linear(tmp_path):
    rows = {row.op_type: row.stored_bytes for row in flash_of(graphs.qdq(), tmp_path).ops}
    assert rows["Conv"] == KERNEL // 4
    assert rows["DequantizeLinear"] == 4 * 8 * 4


@pytest.mark.parametrize("integer", [False, True])
def test_the_public_chain_holds_scaled_copies(integer, tmp_path):
    flash = flash_of(graphs.public_chain(integer=integer), tmp_path)
    assert flash.saved_bytes == 0
    (copies,) = flash.scaled_copies
    kernel = KERNEL // 4 if integer else KERNEL
    assert (len(copies.constants), copies.wasted_bytes) == (4, 3 * kernel)


def test_byte_equal_copies(tmp_path):
    proto = graphs.fp32_shared()
    for index in (1, 2):
        proto.graph.initializer.append(graphs.initializer(f"copy{index}", graphs.kernel()))
        next(n for n in proto.graph.node if n.name == f"blocks.{index}.conv").input[1] = f"copy{index}"
    flash = flash_of(proto, tmp_path)
    assert flash.constant_bytes - flash.unique_bytes == 2 * KERNEL
    (copies,) = flash.copies
    assert (copies.kind, set(copies.constants)) == ("equal", {"kernel", "copy1", "copy2"})
    assert flash.saved_bytes == KERNEL  # `kernel` itself still has two layers


def test_constants_that_nothing_reads(tmp_path):
    proto = graphs.fp32_shared()
    proto.graph.initializer.append(graphs.initializer("forgotten", np.zeros(1000, np.float32)))
    assert {row.op_type: row.stored_bytes for row in flash_of(proto, tmp_path).ops}["(read by nothing)"] == 4000


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_unique_and_saved_bytes_for_any_assignment_of_kernels(tmp_path_factory, assignment):
    """Layer i reads kernel assignment[i]: what is stored plus what is saved is a kernel per layer."""
    used = sorted(set(assignment))
    constants = [graphs.initializer(f"k{index}", graphs.kernel(index)) for index in used]
    names = ["x", *(f"v{index}" for index in range(len(assignment) - 1)), "y"]
    nodes = [
        helper.make_node("Conv", [names[i], f"k{k}"], [names[i + 1]], f"conv{i}", pads=[1, 1, 1, 1])
        for i, k in enumerate(assignment)
    ]
    flash = flash_of(graphs.model(nodes, constants, 1, [1, 8, 6, 6]), tmp_path_factory.mktemp("flash"))
    assert flash.unique_bytes == flash.constant_bytes == len(used) * KERNEL
    assert flash.unique_bytes + flash.saved_bytes == len(assignment) * KERNEL
    assert (flash.kernels, flash.layers) == (len(used), len(assignment))


def test_the_parts_of_a_file_add_up(tmp_path):
    proto = graphs.fp32_shared()
    plain = flash_of(proto, tmp_path)
    assert plain.metadata_bytes == 0
    proto.metadata_props.add(key="key", value="v" * 500)
    proto.producer_name = "tool"
    proto.graph.node[0].doc_string = "d" * 300
    proto.graph.initializer[0].doc_string = "d" * 200
    flash = flash_of(proto, tmp_path)
    assert 1000 < flash.metadata_bytes < 1050
    assert abs(flash.structure_bytes - plain.structure_bytes) <= 8  # lengths that take a byte more
    assert flash.file_bytes == flash.constant_bytes + flash.structure_bytes + flash.metadata_bytes
    assert flash.overhead_bytes == flash.file_bytes - flash.floor_bytes


def test_the_floor_of_a_file_without_copies_is_its_constants(tmp_path):
    flash = flash_of(graphs.fp32_shared(), tmp_path)
    assert flash.floor_bytes == flash.unique_bytes


@pytest.mark.parametrize("integer", [False, True])
def test_the_floor_has_one_kernel_of_copies_up_to_a_factor(integer, tmp_path):
    """Three of four copies go; float layers get a scale per channel for it, integer layers have theirs."""
    flash = flash_of(graphs.public_chain(integer=integer), tmp_path)
    gain = 3 * KERNEL // 4 if integer else 3 * (KERNEL - 4 * 8)
    assert flash.floor_bytes == flash.unique_bytes - gain


def test_the_floor_has_one_of_equal_constants_and_none_that_nothing_reads(tmp_path):
    proto = graphs.fp32_shared()
    floor = flash_of(proto, tmp_path).floor_bytes
    for index in (1, 2):
        proto.graph.initializer.append(graphs.initializer(f"copy{index}", graphs.kernel()))
        next(n for n in proto.graph.node if n.name == f"blocks.{index}.conv").input[1] = f"copy{index}"
    for name in ("forgotten", "forgotten.too"):
        proto.graph.initializer.append(graphs.initializer(name, np.zeros(1000, np.float32)))
    assert flash_of(proto, tmp_path).floor_bytes == floor


def test_compressed_size(tmp_path):
    whole = flash_of(graphs.fp32_shared(), tmp_path)
    assert whole.compressed_bytes == len(zlib.compress((tmp_path / "net.onnx").read_bytes(), 6))
    assert not whole.compressed_is_estimate


def test_compressed_size_of_large_files_is_an_estimate_over_all_of_them(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "zeros").write_bytes(bytes(20_000_000))
    (tmp_path / "random").write_bytes(rng.bytes(20_000_000))
    (tmp_path / "small").write_bytes(b"x")
    found = compressed_size(sorted(tmp_path.iterdir()))
    assert found.estimated
    assert abs(found.compressed_bytes - 20_000_000) < 1_000_000
