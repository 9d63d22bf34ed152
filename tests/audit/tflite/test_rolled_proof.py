"""The exactly-once proof of .tflite files with a WHILE: its body stands for the layers of all iterations."""

import numpy as np
import pytest
import rolled_graphs as graphs
from ai_edge_litert import schema_py_generated as schema
from rolled_graphs import graph_of, layers

from edgeks.audit.footprint import footprint
from edgeks.audit.tflite.proof import prove_tflite
from edgeks.errors import SharingBroken
from edgeks.formats.tflite.kernels import stored_kernels
from edgeks.formats.tflite.lower import lower
from edgeks.model_files.tflite_file import pack, read_tflite
from edgeks.model_files.tflite_kernels import kernel_operators
from edgeks.sharing.plan import SharingGroup, SharingPlan

TRIPS, CHANNELS = 4, 8
SHAPE = (1, CHANNELS, 8, 8)
STEM = SharingGroup("stem", ("stem.0",), (CHANNELS, CHANNELS, 1, 1))


def group(name, shape):
    return SharingGroup(name, layers(name, TRIPS)[f"{name}.0"], shape)


def own(name, shape):
    return tuple(SharingGroup(layer, (layer,), shape) for layer in layers(name, TRIPS)[f"{name}.0"])


def rolled_file(tmp_path, block):
    path = tmp_path / "net.tflite"
    path.write_bytes(lower(graph_of(block, SHAPE, TRIPS, rolled=True, stem=True), {}).content)
    return path


SE = graphs.squeeze_excite(TRIPS, CHANNELS, stored="codes")
SE_PLAN = SharingPlan(
    (group("conv", (CHANNELS, CHANNELS, 3, 3)),),
    (STEM, *own("reduce", (CHANNELS // 2, CHANNELS)), *own("expand", (CHANNELS, CHANNELS // 2))),
)
SE_ROLLED = layers("conv", TRIPS) | layers("reduce", TRIPS) | layers("expand", TRIPS)


def test_shared_kernels_and_stacks_of_unshared_ones(tmp_path):
    proof = prove_tflite(rolled_file(tmp_path, SE), SE_PLAN, SE_ROLLED)
    assert proof.kernels_stored == 1 + 1 + 2 * TRIPS
    (conv,) = proof.groups
    assert (conv.layers, conv.stored_bytes) == (layers("conv", TRIPS)["conv.0"], 4 * 9 * CHANNELS**2)
    reduce = proof.unshared[1]
    assert (reduce.layers, reduce.dtype) == (("reduce.0",), "int8")
    assert (reduce.shape, reduce.stored_bytes) == ((CHANNELS // 2, CHANNELS), CHANNELS**2 // 2)


@pytest.mark.parametrize("dynamic", [False, True])
def test_one_layer_per_iteration(dynamic, tmp_path):
    plan = SharingPlan((group("conv", (CHANNELS, CHANNELS, 3, 3)),), (STEM,))
    path = rolled_file(tmp_path, graphs.conv_affine(TRIPS, CHANNELS, dynamic=dynamic))
    assert prove_tflite(path, plan, layers("conv", TRIPS)).kernels_stored == 2


def broken(path, plan, rolled, match):
    with pytest.raises(SharingBroken, match=match) as caught:
        prove_tflite(path, plan, rolled)
    assert "\n" not in str(caught.value)


def test_a_loop_that_runs_otherwise_than_said(tmp_path):
    path = rolled_file(tmp_path, SE)
    broken(path, SE_PLAN, {}, r"'conv\.0' is computed 4 time\(s\); expected 1")
    broken(path, SE_PLAN, SE_ROLLED | layers("conv", TRIPS + 1), r"'conv\.0' is computed 4 time\(s\); expected 5")
    broken(
        path, SE_PLAN, SE_ROLLED | {"stem.0": ("stem.0", "stem.1")}, r"'stem\.0' is computed 1 time\(s\); expected 2"
    )
    model = read_tflite(path)
    _, _, condition = model.subgraphs
    condition.operators[0].inputs = condition.operators[0].inputs[::-1]
    path.write_bytes(pack(model))
    broken(path, SE_PLAN, SE_ROLLED, "an unknown number of times")


def test_a_loop_that_starts_later(tmp_path):
    path = rolled_file(tmp_path, SE)
    model = read_tflite(path)
    start = model.subgraphs[0].tensors[model.subgraphs[0].operators[-2].inputs[0]]
    model.buffers.append(schema.BufferT(data=np.frombuffer(np.int32(1).tobytes(), np.uint8)))
    start.buffer = len(model.buffers) - 1
    path.write_bytes(pack(model))
    broken(path, SE_PLAN, SE_ROLLED, r"is computed 3 time\(s\)")


def test_copies_in_a_stack_are_found(tmp_path):
    """The plan says that the layers share one kernel; the file has one for each iteration."""
    plan = SharingPlan((group("full", (CHANNELS, CHANNELS, 3, 3)),), (STEM,))
    path = rolled_file(tmp_path, graphs.own_convolutions(TRIPS, CHANNELS))
    broken(path, plan, layers("full", TRIPS) | layers("depth", TRIPS) | layers("point", TRIPS), "found 4 buffers")
    model = read_tflite(path)
    stack = next(read for read in kernel_operators(model) if read.layer == "full.0")
    assert (stack.stacked, stack.kernels, stack.runs, stack.output_axis) == (True, TRIPS, TRIPS, 1)
    assert stack.tensor not in [tensor.tensor for kernel in stored_kernels(model) for tensor in kernel.tensors]


def test_copies_in_a_stack_that_no_layer_reads_are_found(tmp_path):
    path = rolled_file(tmp_path, SE)
    model = read_tflite(path)
    conv = next(read for read in kernel_operators(model) if read.layer == "conv.0")
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.tile(np.frombuffer(bytes(model.buffers[conv.buffer].data), np.uint8), TRIPS)
    stack = schema.TensorT()
    stack.name, stack.type, stack.buffer = b"copies", conv.tensor.type, len(model.buffers) - 1
    stack.shape = [TRIPS, *(int(size) for size in conv.tensor.shape)]
    model.subgraphs[0].tensors.append(stack)
    path.write_bytes(pack(model))
    broken(path, SE_PLAN, SE_ROLLED, f"found {1 + TRIPS} buffers")


def test_the_footprint_counts_the_layers_of_all_iterations(tmp_path):
    flash = footprint(rolled_file(tmp_path, SE)).flash
    assert (flash.kernels, flash.layers) == (1 + 1 + 2 * TRIPS, 1 + 3 * TRIPS)
    (shared,) = flash.shared
    assert (shared.layers[:2], len(shared.layers)) == (("conv.0", "conv.0 (iteration 2)"), TRIPS)
    assert flash.saved_bytes == (TRIPS - 1) * 4 * 9 * CHANNELS**2
