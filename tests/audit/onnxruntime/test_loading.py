"""The peak while ONNX Runtime opens a file, and the heap that it comes from."""

import numpy as np
import pytest
import small_graphs as graphs
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgeks.audit.onnxruntime.heap import ALIGNMENT, MAP_FROM, Heap
from edgeks.audit.onnxruntime.loading import Loading
from edgeks.audit.onnxruntime.ram import predict_onnxruntime
from edgeks.bench.memory import measure_ram
from edgeks.model_files.onnx_file import read_model_file
from edgeks.runtime_profile import PROFILES

MEGABYTE = 1_000_000
ONNX = {profile.name: profile for profile in PROFILES["onnx"]}


def convolutions(channels, layers, shared=False, norms=True):
    """Conv → BN → Relu on 8×8; `shared`: one kernel for all layers."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    for index in range(layers):
        name = "k" if shared else f"k{index}"
        if not shared or not index:
            constants.append(graphs.initializer(name, graphs.kernel(shape=(channels, channels, 3, 3))))
        nodes.append(helper.make_node("Conv", [value, name], [f"c{index}"], f"conv{index}", pads=[1] * 4))
        value = f"c{index}"
        if norms:
            scales = [f"{which}{index}" for which in "gbmv"]
            constants += [graphs.initializer(n, rng.uniform(0.5, 2, channels).astype(np.float32)) for n in scales]
            nodes.append(helper.make_node("BatchNormalization", [value, *scales], [f"n{index}"], f"bn{index}"))
            value = f"n{index}"
        nodes.append(helper.make_node("Relu", [value], [f"r{index}"], f"relu{index}"))
        value = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"], "mean"))
    return graphs.model(nodes, constants, 1, [1, channels, 1, 1], input_shape=(channels, 8, 8))


def matrices(depth, layers):
    """MatMul by constants that are packed and then freed."""
    nodes, constants, value = [], [], "x"
    for index in range(layers):
        constants.append(graphs.initializer(f"w{index}", np.eye(depth, dtype=np.float32)))
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}"], f"matmul{index}"))
        value = f"m{index}"
    nodes.append(helper.make_node("Relu", [value], ["y"], "relu"))
    return graphs.model(nodes, constants, 1, [1, 8, depth], input_shape=(8, depth))


FILES = {
    "shared": lambda: convolutions(320, 8, shared=True),
    "own kernels": lambda: convolutions(256, 8),
    "own kernels, no BN": lambda: convolutions(320, 6, norms=False),
    "matrices": lambda: matrices(1024, 6),
}


@pytest.mark.parametrize("profile", ONNX)
@pytest.mark.parametrize("name", FILES)
def test_load_peak_is_as_measured(tmp_path, name, profile):
    path = graphs.save(FILES[name](), tmp_path / "net.onnx")
    expected = predict_onnxruntime(read_model_file(path), ONNX[profile].session, profile, "x86-64").load_peak_bytes
    measured = measure_ram(path, ONNX[profile]).load_peak_bytes
    assert abs(expected - measured) <= max(MEGABYTE, 0.2 * measured), f"{expected / 1e6:.2f}, {measured / 1e6:.2f}"


def test_kernels_of_one_size_leave_holes_that_they_do_not_fit_in():
    size, layers = 1 << 20, 12
    names = [f"layer {index}" for index in range(layers)]
    loading = Loading(
        {"kernel": size},
        folds=[("kernel", name, size, size) for name in names],
        blocks=[(name, f"{name} blocked", size, size) for name in names],
    )
    peak = loading.peak_bytes({f"{name} blocked" for name in names})
    assert 3.5 * layers * size < peak < 4.5 * layers * size


REQUESTS = st.lists(st.tuples(st.booleans(), st.integers(1, 400_000), st.integers(0, 20)), max_size=60)


@given(REQUESTS, st.booleans())
def test_blocks_of_the_heap_do_not_overlap(requests, crowded):
    heap, live = Heap(), {}
    heap.crowded = crowded
    for aligned, size, victim in requests:
        address = heap.allocate_aligned(size) if aligned else heap.allocate(size)
        assert address not in live
        if address >= 0:
            assert not aligned or address % ALIGNMENT == 0
            assert all(address + size <= start or start + held <= address for start, held in live.items() if start >= 0)
        live[address] = size
        assert heap.resident_bytes >= sum(live.values())
        if victim < len(live):
            chosen = sorted(live)[victim]
            heap.free(chosen)
            del live[chosen]
    assert heap.peak_bytes >= heap.resident_bytes


def test_a_mapped_block_that_is_freed_moves_the_threshold():
    heap = Heap()
    first = heap.allocate(4 * MAP_FROM)
    assert first < 0
    heap.free(first)
    assert heap.resident_bytes == 0
    assert heap.allocate(2 * MAP_FROM) >= 0


def test_what_is_not_written_is_not_resident():
    heap = Heap()
    heap.allocate(16 * MAP_FROM, written=4096)
    assert heap.resident_bytes == 4096
