"""Peak activations by liveness, worked out by hand for small graphs."""

import numpy as np
import pytest
import small_graphs as graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeks.audit.footprint import footprint

FLOATS = 8 * 6 * 6 * 4  # one activation of the small graphs in fp32
CODES = 8 * 6 * 6


def arena_of(proto, tmp_path):
    return footprint(graphs.save(proto, tmp_path / "net.onnx")).arena


def net(nodes, tmp_path, constants=(), output_shape=(1, 8, 6, 6), **options):
    return arena_of(graphs.model(nodes, list(constants), 1, output_shape, **options), tmp_path)


def test_chain_needs_input_plus_two(tmp_path):
    arena = arena_of(graphs.fp32_shared(), tmp_path)
    assert arena.notes == ()
    assert arena.peak.peak_bytes == 3 * FLOATS + 5 * 4  # x and y live all the time; one op reads and one writes
    assert arena.peak.node == "bn0"
    assert [tensor.name for tensor in arena.peak.alive] == ["b0", "c0", "x", "y"]


def test_timeline_has_the_live_bytes_of_every_step(tmp_path):
    timeline = arena_of(graphs.fp32_shared(layers=1), tmp_path).timeline
    assert [moment.op_type for moment in timeline.moments] == [
        "Conv", "BatchNormalization", "Relu", "GlobalAveragePool", "Gemm",
    ]  # fmt: skip
    x_and_y = FLOATS + 5 * 4
    expected = [x_and_y + FLOATS, *[x_and_y + 2 * FLOATS] * 2, x_and_y + FLOATS + 8 * 4, x_and_y + 8 * 4]
    assert [moment.live_bytes for moment in timeline.moments] == expected
    assert timeline.peak == 1
    assert timeline.peak_bytes == max(expected)


def test_a_residual_waits(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "a"),
        helper.make_node("Relu", ["a"], ["b"], "b"),
        helper.make_node("Relu", ["b"], ["c"], "c"),
        helper.make_node("Add", ["c", "a"], ["y"], "add"),
    ]
    arena = net(nodes, tmp_path)
    assert arena.peak.peak_bytes == 5 * FLOATS  # x, y, and at c: a, b, c
    assert arena.peak.node == "c"


def test_sizes_that_the_graph_computes_are_known(tmp_path):
    """Shape → Gather → Concat → Reshape, as torch's legacy exporter and Paddle write a flatten."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "a"),
        helper.make_node("Shape", ["a"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], "batch"),
        helper.make_node("Concat", ["batch", "rest"], ["sizes"], "sizes", axis=0),
        helper.make_node("Reshape", ["a", "sizes"], ["y"], "flatten"),
    ]
    constants = [graphs.initializer("zero", np.array([0])), graphs.initializer("rest", np.array([-1]))]
    arena = net(nodes, tmp_path, constants, output_shape=(1, 288))
    assert arena.notes == ()
    assert arena.peak.peak_bytes == 2 * FLOATS + 4 * 8 + 8  # x, a (which y takes over), shape, batch


def test_symbolic_batch_is_one_and_said(tmp_path):
    fixed = arena_of(graphs.fp32_shared(), tmp_path)
    symbolic = arena_of(graphs.fp32_shared(batch="batch"), tmp_path)
    assert symbolic.peak == fixed.peak
    assert symbolic.notes == ("symbolic batch 'batch' of input 'x' taken as 1",)


def test_another_unknown_size_is_unknown_and_said(tmp_path):
    arena = net([helper.make_node("Relu", ["x"], ["y"], "relu")], tmp_path, (), None, input_shape=(8, "height", 6))
    assert arena.peak is None
    assert "unknown" in arena.notes[-1]
    assert footprint(tmp_path / "net.onnx").ram_bytes is None


def test_an_op_that_onnx_does_not_know_is_unknown_and_said(tmp_path):
    nodes = [helper.make_node("Strange", ["x"], ["s"], "strange", domain="com.microsoft")]
    nodes.append(helper.make_node("Relu", ["s"], ["y"], "relu"))
    arena = net(nodes, tmp_path)
    assert arena.peak is None
    assert "'s', made by Strange 'strange'" in arena.notes[-1]


def test_aliases_take_nothing(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Flatten", ["a"], ["b"], "flatten"),
        helper.make_node("Identity", ["b"], ["c"], "identity"),
        helper.make_node("Reshape", ["c", "shape"], ["d"], "reshape"),
        helper.make_node("Relu", ["d"], ["y"], "last"),
    ]
    constants = [graphs.initializer("shape", [1, 8, 6, 6])]
    assert net(nodes, tmp_path, constants).peak.peak_bytes == 3 * FLOATS
    # An alias of the output is the output.
    nodes[-1] = helper.make_node("Identity", ["d"], ["y"], "last")
    assert net(nodes, tmp_path, constants).peak.peak_bytes == 2 * FLOATS


def test_qdq_convolutions_run_on_codes(tmp_path):
    arena = arena_of(graphs.qdq(), tmp_path)
    # x and y are float32; in between only codes: a convolution (with its Relu) reads one and writes one.
    assert arena.peak.peak_bytes == 2 * FLOATS + 2 * CODES
    assert {tensor.dtype for tensor in arena.peak.alive if tensor.name not in ("x", "y")} == {"int8"}


def test_a_float_op_between_quantised_ones_makes_float_tensors(tmp_path):
    arena = arena_of(graphs.qdq(gelu=True), tmp_path)
    # conv reads dequantised x in float, and its result goes to Gelu in float; kernels are dequantised for it, too.
    assert arena.peak.op_type in ("Conv", "Gelu")
    assert arena.peak.peak_bytes == 2 * FLOATS + 2 * FLOATS + 8 * 8 * 9 * 4
    assert "float32" in {tensor.dtype for tensor in arena.peak.alive if tensor.name not in ("x", "y")}


def quantised(op, outputs, extra=(), *, dequantise_second=False, constants=(), shape=(1, 8, 6, 6), **attributes):
    """x → Q → DQ → op → Q → DQ → y."""
    ends = [graphs.initializer("s", np.float32(0.1)), graphs.initializer("z", np.int8(0)), *constants]
    inputs = ["d", "d"] if dequantise_second else ["d"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dq"),
        helper.make_node(op, [*inputs, *extra], outputs, "op", **attributes),
        helper.make_node("QuantizeLinear", [outputs[0], "s", "z"], ["q2"], "q2"),
        helper.make_node("DequantizeLinear", ["q2", "s", "z"], ["y"], "dq2"),
    ]
    return nodes, ends, shape


@pytest.mark.parametrize(
    ("op", "options", "out"),
    [
        ("Relu", {}, CODES),
        ("Sigmoid", {}, CODES),
        ("Add", {"dequantise_second": True}, CODES),
        ("Mul", {"dequantise_second": True}, CODES),
        ("GlobalAveragePool", {"shape": (1, 8, 1, 1)}, 8),
        ("MaxPool", {"shape": (1, 8, 3, 3), "kernel_shape": [2, 2], "strides": [2, 2]}, 72),
        ("Transpose", {"shape": (1, 6, 6, 8), "perm": [0, 2, 3, 1]}, CODES),
        ("Flatten", {"shape": (1, 288)}, 0),  # an alias of what it reads
    ],
)
def test_ops_with_an_integer_kernel(op, options, out, tmp_path):
    nodes, constants, shape = quantised(op, ["o"], **options)
    ends = FLOATS + 4 * np.prod(shape)
    peak = net(nodes, tmp_path, constants, shape).peak
    assert peak.peak_bytes == ends + CODES + out
    assert "float32" not in {tensor.dtype for tensor in peak.alive if tensor.name not in ("x", "y")}


def test_a_float_factor_makes_the_op_float(tmp_path):
    factor = graphs.initializer("factor", graphs.kernel(1, (8, 1, 1)))
    nodes, constants, shape = quantised("Mul", ["o"], ["factor"], constants=[factor])
    assert net(nodes, tmp_path, constants, shape).peak.peak_bytes == 2 * FLOATS + 2 * FLOATS


def test_codes_wait_for_integer_ops_and_floats_for_float_ops(tmp_path):
    """A dequantised tensor with readers of both kinds exists in both forms, each as long as it is needed."""
    nodes, constants, shape = quantised("Gelu", ["o"])
    nodes[-1:] = [
        helper.make_node("Relu", ["d"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q3"], "q3"),
        helper.make_node("DequantizeLinear", ["q3", "s", "z"], ["d3"], "dq3"),
        helper.make_node("DequantizeLinear", ["q2", "s", "z"], ["d2"], "dq2"),
        helper.make_node("Add", ["d2", "d3"], ["y"], "add"),
    ]
    peak = net(nodes, tmp_path, constants, shape).peak
    assert peak.node == "op"
    assert peak.peak_bytes == 2 * FLOATS + CODES + 2 * FLOATS


def test_qoperator_with_runtime_ops_has_a_size(tmp_path):
    arena = arena_of(graphs.qoperator(), tmp_path)
    assert arena.notes == ()
    assert arena.peak.peak_bytes == FLOATS + 5 * 4 + 3 * CODES
    assert arena.peak.node in ("blocks.1.conv", "add")


def test_bodies_add_their_own_peak(tmp_path):
    arena = arena_of(graphs.loop(), tmp_path)
    # x, y and looped outside; state, conv and state_out inside, with the flag and the counter.
    assert arena.peak.node == "loop"
    assert arena.peak.peak_bytes == 3 * FLOATS + 3 * FLOATS + 8 + 1


def test_what_is_computed_from_constants_is_no_activation(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "transpose", perm=[1, 0, 2, 3]),
        helper.make_node("Conv", ["x", "wt"], ["y"], "conv", pads=[1, 1, 1, 1]),
    ]
    assert net(nodes, tmp_path, [graphs.initializer("w", graphs.kernel())]).peak.peak_bytes == 2 * FLOATS


def test_inconsistent_shapes_are_noted(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    arena = net(nodes, tmp_path, [graphs.initializer("w", graphs.kernel(1, (8, 5, 3, 3, 3)))], None)
    assert any("shape inference is incomplete" in note for note in arena.notes)


def test_a_symbolic_name_is_one_wherever_it_stands(tmp_path):
    proto = graphs.fp32_shared(2, batch="N")
    proto.graph.value_info.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, ["N", 8, 6, 6]))
    assert arena_of(proto, tmp_path).peak.peak_bytes == 3 * FLOATS + 5 * 4


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=12))
def test_peak_equals_a_count_by_hand_on_random_graphs(tmp_path_factory, picks):
    """Random DAGs of Add: at each op, what was made and is still to be read, by a slow count over all tensors."""
    values, nodes = ["x"], []
    for index, (a, b) in enumerate(picks):
        out = "y" if index == len(picks) - 1 else f"t{index}"
        nodes.append(helper.make_node("Add", [values[a % len(values)], values[b % len(values)]], [out], f"add{index}"))
        values.append(out)
    made = {name: index for index, node in enumerate(nodes) for name in node.output}
    peaks = []
    for now in range(len(nodes)):
        needed = {name for node in nodes[now:] for name in node.input} | set(nodes[now].output)
        alive = {name for name in needed if made.get(name, -1) <= now} | {"x", "y"}
        peaks.append(len(alive) * FLOATS)
    arena = net(nodes, tmp_path_factory.mktemp("arena"))
    assert arena.peak.peak_bytes == max(peaks)
    assert sum(tensor.size_bytes for tensor in arena.peak.alive) == arena.peak.peak_bytes


def moments_of(nodes, tmp_path, constants=(), **options):
    return {moment.node: moment for moment in net(nodes, tmp_path, constants, **options).timeline.moments}


def test_in_place_only_over_an_input_that_ends_there(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "reads the graph's input"),
        helper.make_node("Sigmoid", ["a"], ["b"], "a is read again"),
        helper.make_node("Mul", ["a", "b"], ["c"], "over one of both"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "no pointwise op"),
        helper.make_node("Add", ["c", "p"], ["d"], "over the larger"),
        helper.make_node("Reshape", ["d", "flat"], ["e"], "renames"),
        helper.make_node("Clip", ["e"], ["f"], "over what was renamed"),
        helper.make_node("Reshape", ["f", "map"], ["g"], "back"),
        helper.make_node("Relu", ["g"], ["y"], "writes the graph's output"),
    ]
    shapes = [graphs.initializer("flat", np.array([1, -1])), graphs.initializer("map", np.array([1, 8, 6, 6]))]
    found = moments_of(nodes, tmp_path, shapes)
    assert {node: moment.in_place_bytes for node, moment in found.items()} == {
        "reads the graph's input": 0,
        "a is read again": 0,
        "over one of both": FLOATS,
        "no pointwise op": 0,
        "over the larger": FLOATS,
        "over what was renamed": FLOATS,
        "writes the graph's output": 0,
    }
    assert found["over one of both"].live_bytes == 5 * FLOATS


@pytest.mark.parametrize(("op", "options", "saved"), [("Add", {"dequantise_second": True}, CODES), ("MaxPool", {}, 0)])
def test_in_place_on_codes_is_in_their_bytes(op, options, saved, tmp_path):
    attributes = {"kernel_shape": [1, 1]} if op == "MaxPool" else {}
    nodes, constants, _ = quantised(op, ["o"], **options, **attributes)
    assert moments_of(nodes, tmp_path, constants)["op"].in_place_bytes == saved


def test_in_place_not_over_what_a_body_reads_later(tmp_path):
    then = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["t"], "neg")],
        "then",
        [],
        [helper.make_tensor_value_info("t", 1, [1, 8, 6, 6])],
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["b"], ["e"], "abs")],
        "else",
        [],
        [helper.make_tensor_value_info("e", 1, [1, 8, 6, 6])],
    )
    nodes = [
        helper.make_node("Exp", ["x"], ["a"], "exp"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("If", ["yes"], ["y"], "if", then_branch=then, else_branch=other),
    ]
    found = moments_of(nodes, tmp_path, [graphs.initializer("yes", np.array(True))])
    assert found["relu"].in_place_bytes == 0
