"""Kernels are found behind every op that takes one, with the nodes that read them."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import small_graphs as graphs
from onnx import TensorProto, helper

from edgeks.audit.footprint import footprint
from edgeks.audit.onnx.kernels import WEIGHT_INPUTS, list_kernels

KERNEL_BYTES = 8 * 8 * 9


def rows(path):
    return {kernel.name: (kernel.layers, kernel.dtype, kernel.stored_bytes) for kernel in list_kernels(path)}


@pytest.mark.parametrize("build", [graphs.fp32_shared, graphs.qdq, graphs.qoperator, graphs.loop, graphs.public_chain])
def test_the_graphs_of_these_tests_are_real_files(build, tmp_path):
    graphs.check_runs(graphs.save(build(), tmp_path / "net.onnx"))


def test_fp32_shared_kernel_has_all_its_layers(tmp_path):
    assert rows(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")) == {
        "kernel": (graphs.layer_names(4), "float32", 4 * KERNEL_BYTES),
        "head.weight": (("head",), "float32", 4 * 8 * 5),
    }


def test_int8_kernel_is_followed_through_dequantize_linear(tmp_path):
    path = graphs.save(graphs.qdq(), tmp_path / "net.onnx")
    assert rows(path) == {"kernel": (graphs.layer_names(4), "int8", KERNEL_BYTES)}
    (kernel,) = list_kernels(path)
    assert [reader.dequantizers for reader in kernel.readers] == [(f"{n}.weight",) for n in graphs.layer_names(4)]


def test_qoperator_kernel_is_read_directly(tmp_path):
    assert rows(graphs.save(graphs.qoperator(), tmp_path / "net.onnx")) == {
        "kernel": (graphs.layer_names(4), "int8", KERNEL_BYTES),
        "head.weight": (("head",), "int8", 40),
    }


def test_bodies_of_loop_and_if_read_kernels_of_the_graph_around_them(tmp_path):
    found = rows(graphs.save(graphs.loop(), tmp_path / "net.onnx"))
    assert found == {"kernel": (("body.conv", "then.Conv"), "float32", 4 * KERNEL_BYTES)}


def test_constant_nodes_and_transparent_chains(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["w"], value=graphs.initializer("", graphs.kernel(1, (6, 8)))),
        helper.make_node("Identity", ["w"], ["w1"], "identity"),
        helper.make_node("Transpose", ["w1"], ["w2"], "transpose", perm=[1, 0]),
        helper.make_node("Cast", ["w2"], ["w3"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x"], ["t"], "nhwc", perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["t", "w3"], ["y"], "linear"),
    ]
    path = graphs.save(graphs.model(nodes, [], 1, [1, 6, 6, 6]), tmp_path / "net.onnx")
    graphs.check_runs(path)
    (kernel,) = list_kernels(path)
    assert (kernel.layers, kernel.shape) == (("linear",), (6, 8))
    np.testing.assert_array_equal(kernel.values(), graphs.kernel(1, (6, 8)))  # output channels first already


def test_values_have_output_channels_first_and_the_zero_point_subtracted(tmp_path):
    codes, _ = graphs.quantised_kernel()
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"], "quantize"),
        helper.make_node("ConvInteger", ["xq", "conv", "xz", "z"], ["y"], "conv"),
    ]
    constants = [
        graphs.initializer("conv", (codes.astype(np.int16) + 128).astype(np.uint8)),
        graphs.initializer("z", np.uint8(128)),
    ]
    proto = graphs.model(nodes, constants, 1, [1, 8, 4, 4], output_type=TensorProto.INT32)
    path = graphs.save(proto, tmp_path / "net.onnx")
    graphs.check_runs(path)
    (kernel,) = list_kernels(path)
    np.testing.assert_array_equal(kernel.values(), codes)


@pytest.mark.parametrize("op", sorted(WEIGHT_INPUTS))
def test_every_row_of_the_table_finds_its_kernel(op, tmp_path):
    index = WEIGHT_INPUTS[op][0].index
    inputs = [f"a{position}" for position in range(index)] + ["kernel"]
    graph_inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inputs[:-1]]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y"], "layer")],
        "net",
        graph_inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [graphs.initializer("kernel", graphs.kernel())],
    )
    path = graphs.save(helper.make_model(graph, opset_imports=graphs.OPSETS), tmp_path / "net.onnx")
    assert list(rows(path)) == ["kernel"]


def test_activations_and_vectors_are_no_kernels(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["m"], "attention"),
        helper.make_node("Mul", ["m", "factor"], ["y"], "scale"),
    ]
    proto = graphs.model(nodes, [graphs.initializer("factor", graphs.kernel(1, (8, 1, 1)))], 1, [1, 8, 6, 6])
    assert rows(graphs.save(proto, tmp_path / "net.onnx")) == {}


def weight_only(scale_first=False):
    """Two float convolutions on Mul(Cast(codes), scale), as a weight-only int8 file stores a kernel."""
    factors = ["scale", "float"] if scale_first else ["float", "scale"]
    nodes = [
        helper.make_node("Cast", ["codes"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", factors, ["kernel"]),
        helper.make_node("Conv", ["x", "kernel"], ["a"], "one", pads=[1] * 4),
        helper.make_node("Conv", ["a", "kernel"], ["y"], "two", pads=[1] * 4),
    ]
    codes = np.rint(graphs.kernel() * 100).astype(np.int8)
    scale = np.full((8, 1, 1, 1), 0.01, np.float32)
    constants = [graphs.initializer("codes", codes), graphs.initializer("scale", scale)]
    return graphs.model(nodes, constants, 1, [1, 8, 6, 6])


@pytest.mark.parametrize("scale_first", [False, True])
def test_a_kernel_times_its_scale_is_that_kernel(scale_first, tmp_path):
    path = graphs.save(weight_only(scale_first), tmp_path / "net.onnx")
    graphs.check_runs(path)
    assert rows(path) == {"codes": (("one", "two"), "int8", KERNEL_BYTES)}
    result = footprint(path)
    # One float kernel, whatever number of layers reads it.
    assert result.ram[0].predicted.run_peak.heap_bytes >= 4 * KERNEL_BYTES


def test_layers_that_are_quantised_on_the_fly_read_their_codes_directly(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("ConvInteger", ["q", "codes", "z", "zero"], ["i"], "one", pads=[1] * 4),
        helper.make_node("ConvInteger", ["q", "codes", "z", "zero"], ["j"], "two", pads=[1] * 4),
        helper.make_node("Add", ["i", "j"], ["y"]),
    ]
    codes = (np.rint(graphs.kernel() * 100) + 128).astype(np.uint8)
    constants = [graphs.initializer("codes", codes), graphs.initializer("zero", np.array(128, np.uint8))]
    path = graphs.save(
        graphs.model(nodes, constants, 1, [1, 8, 6, 6], output_type=TensorProto.INT32), tmp_path / "n.onnx"
    )
    graphs.check_runs(path)
    (kernel,) = list_kernels(path)
    assert (kernel.layers, kernel.dtype, kernel.stored_bytes) == (("one", "two"), "uint8", KERNEL_BYTES)
    np.testing.assert_array_equal(kernel.values(), np.rint(graphs.kernel() * 100))


def test_a_kernel_is_followed_through_some_nodes_and_not_through_thousands(tmp_path):
    def kernels(count):
        names = ["kernel", *(f"w{index}" for index in range(count))]
        chain = [helper.make_node("Identity", [a], [b], f"to {b}") for a, b in pairwise(names)]
        conv = helper.make_node("Conv", ["x", names[-1]], ["y"], "conv", pads=[1] * 4)
        proto = graphs.model([*chain, conv], [graphs.initializer("kernel", graphs.kernel())])
        return list_kernels(graphs.save(proto, tmp_path / f"{count}.onnx"))

    assert [kernel.layers for kernel in kernels(20)] == [("conv",)]
    tracemalloc.start()
    assert kernels(20_000) == ()
    assert tracemalloc.get_traced_memory()[1] < 1 << 27  # a list of its chain for every one of them takes gigabytes
    tracemalloc.stop()
