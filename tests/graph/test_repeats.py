import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from repeated_networks import OPSETS, RepeatedNetwork

from edgeks.errors import GraphError
from edgeks.graph import repeats
from edgeks.graph.passes.roll import roll
from edgeks.graph.repeats import find_runs


def graph_of(nodes, constants):
    shape = [1, *constants["k"].shape[:1], 6, 6]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", nodes[-1].output[0])]
    kernels = [numpy_helper.from_array(content, name) for name, content in constants.items()]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], kernels)
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def conv(value, output):
    return helper.make_node("Conv", [value, "k"], [output], output, pads=[1] * 4, kernel_shape=[3, 3])


@pytest.fixture
def kernel():
    return RepeatedNetwork([("plain", 1, "none")]).constants["level0.k"]


def test_a_deep_network_whose_every_block_is_read_again_has_no_run(kernel):
    """A U-Net of one kernel: all periods fit by their operators, and no run of any length is closed."""
    nodes, depth = [], 150
    for index in range(depth):
        nodes.append(conv(f"d{index - 1}" if index else "x", f"c{index}"))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"d{index}"], f"relu{index}"))
    for index in range(depth):
        nodes.append(conv(f"u{index - 1}" if index else f"d{depth - 1}", f"e{index}"))
        nodes.append(helper.make_node("Add", [f"e{index}", f"d{depth - 1 - index}"], [f"u{index}"], f"add{index}"))
    assert find_runs(graph_of(nodes, {"k": kernel})) == []


def test_a_deep_network_with_large_kernels_of_its_own_has_no_run():
    count = 60
    network = RepeatedNetwork([("gated", count, "none")])
    for index in range(count):
        network.constant(f"level0.{index}.fc1.w", (100, 6))
        network.constant(f"level0.{index}.fc2.w", (6, 100))
    assert find_runs(ir.from_proto(network.proto())) == []


def test_the_longest_run_ends_where_a_unit_is_read_far_behind(kernel):
    nodes = [conv(f"v{index - 1}" if index else "x", f"v{index}") for index in range(30)]
    nodes.append(helper.make_node("Add", ["v29", "v19"], ["y"], "add"))
    assert [(run.period, run.count) for run in find_runs(graph_of(nodes, {"k": kernel}))] == [(1, 20), (1, 10)]


def test_a_network_that_is_too_large_to_be_searched_is_told_so(kernel, monkeypatch):
    monkeypatch.setattr(repeats, "MAX_NODES", 30)
    nodes = [conv("x", "v0")]
    nodes += [helper.make_node("Relu", [f"v{index}"], [f"v{index + 1}"], f"relu{index}") for index in range(30)]
    nodes.append(conv("v30", "y"))
    with pytest.raises(GraphError, match="the graph has 32 nodes, and repeats are looked for among 30 at most"):
        roll(graph_of(nodes, {"k": kernel}))
