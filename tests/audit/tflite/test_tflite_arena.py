"""The memory plan of a .tflite file, held against the addresses that LiteRT gives its tensors."""

import copy
from collections import Counter

import foreign_tflite
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeks.audit.tflite import arena as tflite_arena
from edgeks.audit.tflite.arena import plan_arena
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.model_files.tflite_file import pack, read_tflite
from edgeks.target import LiteRtSession

FLOAT32, INT32, INT8, BOOL = (getattr(schema.TensorType, name) for name in ("FLOAT32", "INT32", "INT8", "BOOL"))
OPS, SAME = schema.BuiltinOperator, schema.Padding.SAME
SIDE = 5
TABLES = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "MEAN": "Reducer",
    "BATCH_MATMUL": "BatchMatMul",
}


class Graph(foreign_tflite.Graph):
    """Feature maps of 1 × SIDE × SIDE × channels; every method returns the tensor that it makes."""

    def maps(self, channels, kind=FLOAT32):
        return self.tensor(f"t{len(self.graph.tensors)}", (1, SIDE, SIDE, channels), kind)

    def constant(self, content, kind, scales=None):
        name = f"c{len(self.graph.tensors)}"
        return self.tensor(name, content.shape, kind, content, scales)

    def numbers(self, *numbers):
        return self.constant(np.array(numbers, np.int32), INT32)

    def channels(self, value):
        return self.graph.tensors[value].shape[-1]

    def node(self, name, inputs, outputs, **fields):
        table = TABLES.get(name, name.title().replace("_", ""))
        options = getattr(schema, f"{table}OptionsT", None)
        options = options() if options else None
        for field, number in fields.items():
            setattr(options, field, number)
        kind = getattr(schema.BuiltinOptions, f"{table}Options", 0)
        version = 5 if name in ("CONV_2D", "DEPTHWISE_CONV_2D") else 1
        self.operator(getattr(OPS, name), inputs, outputs, kind, options, version)
        return outputs[0]

    def conv(self, x, channels, size, hybrid, dilation=1):
        rng = np.random.default_rng(0)
        shape = (channels, size, size, self.channels(x))
        if hybrid:
            scales = np.linspace(0.1, 0.2, channels) if hybrid == "per channel" else [0.1]
            kernel = self.constant(rng.integers(-9, 9, shape).astype(np.int8), INT8, scales)
        else:
            kernel = self.constant(rng.standard_normal(shape).astype(np.float32), FLOAT32)
        bias = self.constant(np.zeros(channels, np.float32), FLOAT32)
        fields = {"padding": SAME, "strideH": 1, "strideW": 1, "dilationHFactor": dilation, "dilationWFactor": dilation}
        return self.node("CONV_2D", [x, kernel, bias], [self.maps(channels)], **fields)

    def depthwise(self, x, hybrid):
        channels = self.channels(x)
        shape = (1, 3, 3, channels)
        if hybrid:
            kernel = self.constant(np.ones(shape, np.int8), INT8, np.full(channels, 0.1))
            self.graph.tensors[kernel].quantization.quantizedDimension = 3
        else:
            kernel = self.constant(np.ones(shape, np.float32), FLOAT32)
        bias = self.constant(np.zeros(channels, np.float32), FLOAT32)
        fields = {"padding": SAME, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
        return self.node("DEPTHWISE_CONV_2D", [x, kernel, bias], [self.maps(channels)], **fields)


def addresses(interpreter, graph):
    """Tensor → address and bytes of its memory."""
    found = {}
    for detail in interpreter.get_tensor_details(graph):
        try:
            array = interpreter._interpreter.tensor(interpreter, detail["index"], graph)
        except ValueError:  # it has no memory
            continue
        found[detail["index"]] = (array.__array_interface__["data"][0], array.nbytes)
    return found


def assert_plan_is_litert_s(path, kernels="reference", threads=1, run=False):
    """Every tensor of every graph lies where the plan says; returns the plan."""
    interpreter = open_interpreter(path, LiteRtSession(threads, kernels))
    if run:
        interpreter.invoke()
    plan = plan_arena(read_tflite(path), kernels, threads)
    for graph in plan.graphs:
        real = addresses(interpreter, graph.graph)
        for blocks, planned_bytes in (
            (graph.blocks, graph.arena_bytes),
            (graph.persistent, graph.persistent_bytes),
        ):
            if not blocks:
                assert planned_bytes == 0
                continue
            start = Counter(real[block.tensor][0] - block.offset for block in blocks).most_common(1)[0][0]
            assert {block.tensor: (block.offset, block.size_bytes) for block in blocks} == {
                block.tensor: (real[block.tensor][0] - start, real[block.tensor][1]) for block in blocks
            }
            assert max(sum(real[block.tensor]) for block in blocks) - start == planned_bytes
    return plan


def add_random_operator(graph, kind, values, pick, size):
    """Append one operator to `graph` that reads some of `values`; the tensors that it makes."""
    x, other = values[pick % len(values)], values[(pick * 7 + 3) % len(values)]
    channels = graph.channels(x)
    if kind == "conv":
        return [graph.conv(x, size, (1, 3)[pick % 2], (None, "per tensor", "per channel")[pick % 3], 1 + pick % 2)]
    if kind == "depthwise":
        return [graph.depthwise(x, pick % 2)]
    if kind == "relu":
        return [graph.node("RELU", [x], [graph.maps(channels)])]
    if kind == "softmax":
        return [graph.node("SOFTMAX", [x], [graph.maps(channels)], beta=1.0)]
    if kind == "add":
        other = other if graph.channels(other) == channels else x
        return [graph.node(("ADD", "MUL")[pick % 2], [x, other], [graph.maps(channels)])]
    if kind == "reshape":
        return [graph.node("RESHAPE", [x, graph.numbers(1, SIDE, SIDE, channels)], [graph.maps(channels)])]
    if kind == "concatenation":
        made = graph.maps(channels + graph.channels(other))
        return [graph.node("CONCATENATION", [x, other], [made], axis=3)] if channels < 40 else []
    if kind == "split" and channels % 2 == 0:
        halves = [graph.maps(channels // 2), graph.maps(channels // 2)]
        graph.node("SPLIT", [graph.numbers(3), x], halves, numSplits=2)
        return halves
    if kind == "mean":
        mean = graph.tensor(f"t{len(graph.graph.tensors)}", (1, 1, 1, channels), FLOAT32)
        graph.node("MEAN", [x, graph.numbers(1, 2)], [mean], keepDims=True)
        return [graph.node("MUL", [x, mean], [graph.maps(channels)])]
    return []


KINDS = ("conv", "depthwise", "relu", "softmax", "add", "reshape", "concatenation", "split", "mean")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 50), st.integers(1, 8)), min_size=1, max_size=14)


@settings(max_examples=80)
@given(steps=STEPS, channels=st.integers(1, 8), outputs=st.integers(1, 3))
@pytest.mark.parametrize("kernels", ["reference", "builtin"])
def test_random_graphs_lie_where_the_plan_says(tmp_path_factory, kernels, steps, channels, outputs):
    graph = Graph()
    values = [graph.maps(channels)]
    for kind, pick, size in steps:
        values += add_random_operator(graph, kind, values, pick, size)
    ends = list(dict.fromkeys(values[-outputs:]))
    path = graph.write(tmp_path_factory.mktemp("arena") / "net.tflite", values[:1], ends)
    plan = assert_plan_is_litert_s(path, kernels)
    assert plan.notes == ()
    (only,) = plan.graphs
    for index, block in enumerate(only.blocks):  # no two tensors that are alive together overlap
        for other in only.blocks[:index]:
            together = block.first <= other.last and other.first <= block.last
            apart = block.offset >= other.offset + other.size_bytes or other.offset >= block.offset + block.size_bytes
            assert apart or not together
    assert only.timeline.peak_bytes <= only.arena_bytes + only.persistent_bytes
    assert sum(tensor.size_bytes for tensor in only.timeline.alive) == only.timeline.peak_bytes


@pytest.mark.parametrize("kernels", ["reference", "builtin"])
def test_more_than_sixteen_tensors_of_one_size_in_one_operator(tmp_path, kernels):
    """Equals leave std::sort in an order of its own, and unordered_set grows."""
    graph = Graph()
    x = graph.maps(20)
    parts = [graph.maps(1) for _ in range(20)]
    graph.node("SPLIT", [graph.numbers(3), x], parts, numSplits=20)
    y = graph.node("ADD", [parts[3], parts[11]], [graph.maps(1)])
    for part in (parts[0], parts[19], parts[7]):
        y = graph.node("ADD", [y, part], [graph.maps(1)])
    assert_plan_is_litert_s(graph.write(tmp_path / "net.tflite", [x], [y]), kernels)


@pytest.mark.parametrize("kernels", ["reference", "builtin"])
@pytest.mark.parametrize("hybrid", [False, True])
def test_matrix_operators(tmp_path, kernels, hybrid):
    """FULLY_CONNECTED and BATCH_MATMUL, by a constant and by an activation."""
    graph = Graph()
    x = graph.tensor("x", (2, 6, 4), FLOAT32)
    content = np.ones((4, 4), np.int8 if hybrid else np.float32)
    kind, scales = (INT8, [0.1]) if hybrid else (FLOAT32, None)

    def rows(name, count=4):
        return graph.tensor(name, (2, 6, count), FLOAT32)

    a = graph.node("FULLY_CONNECTED", [x, graph.constant(content, kind, scales), -1], [rows("a")], keepNumDims=True)
    b = graph.node("BATCH_MATMUL", [a, graph.constant(content, kind, scales)], [rows("b")], adjY=True)
    c = graph.node("BATCH_MATMUL", [a, b], [rows("c", 6)], adjY=True)
    assert_plan_is_litert_s(graph.write(tmp_path / "net.tflite", [x], [c]), kernels)


@pytest.mark.parametrize("kernels", ["reference", "builtin"])
@pytest.mark.parametrize("hybrid", [False, True])
def test_transposed_convolution(tmp_path, kernels, hybrid):
    graph = Graph()
    x = graph.maps(4)
    content = np.ones((6, 2, 2, 4), np.int8 if hybrid else np.float32)
    kernel = graph.constant(content, INT8 if hybrid else FLOAT32, np.full(6, 0.1) if hybrid else None)
    y = graph.tensor("y", (1, 2 * SIDE, 2 * SIDE, 6), FLOAT32)
    shape = graph.numbers(1, 2 * SIDE, 2 * SIDE, 6)
    graph.node("TRANSPOSE_CONV", [shape, kernel, x], [y], padding=SAME, strideH=2, strideW=2)
    z = graph.node("RELU", [y], [graph.tensor("z", (1, 2 * SIDE, 2 * SIDE, 6), FLOAT32)])
    plan = assert_plan_is_litert_s(graph.write(tmp_path / "net.tflite", [x], [z]), kernels)
    # Built-in kernels hold columns (25 positions × 24 floats) and the transposed kernel outside of the arena.
    expected = 4 * SIDE * SIDE * 24 + content.nbytes if kernels == "builtin" else 0
    assert plan.heap_bytes == expected


@pytest.mark.parametrize("kernels", ["reference", "builtin"])
def test_a_kernel_stored_as_int8_for_a_float_operator_is_dequantised_into_the_persistent_arena(tmp_path, kernels):
    graph = Graph()
    x = graph.maps(4)
    stored = graph.constant(np.ones((4, 1, 1, 4), np.int8), INT8, np.full(4, 0.1))
    kernel = graph.node("DEQUANTIZE", [stored], [graph.tensor("w", (4, 1, 1, 4), FLOAT32)])
    bias = graph.constant(np.zeros(4, np.float32), FLOAT32)
    y = graph.node("CONV_2D", [x, kernel, bias], [graph.maps(4)], padding=SAME, strideH=1, strideW=1)
    z = graph.node("CONV_2D", [y, kernel, bias], [graph.maps(4)], padding=SAME, strideH=1, strideW=1)
    plan = assert_plan_is_litert_s(graph.write(tmp_path / "net.tflite", [x], [z]), kernels)
    assert plan.graphs[0].persistent_bytes == 64


def test_threads_move_float_convolutions_to_eigen(tmp_path):
    """No im2col then, but a transposed copy of the kernel."""
    graph = Graph()
    x = graph.maps(4)
    y = graph.conv(x, 8, 3, None)
    path = graph.write(tmp_path / "net.tflite", [x], [y])
    one, two = (assert_plan_is_litert_s(path, "builtin", threads) for threads in (1, 2))
    assert one.graphs[0].persistent_bytes == 0
    assert two.graphs[0].persistent_bytes == 4 * 9 * 4 * 8


def rolled(path, passed_on):
    """WHILE around one convolution; `passed_on`: whether a loop value that nothing changes is read afterwards."""
    main, condition, body = Graph(), Graph(), Graph()
    for inner in (condition, body):
        inner.model, inner.graph.name = main.model, "inner"
        main.model.subgraphs.append(inner.graph)

    def values(graph):
        return [
            graph.tensor("count", (1,), INT32),
            graph.maps(4),
            graph.tensor("factor", (1, 1, 1, 4), FLOAT32),
        ]

    count, x, factor = values(condition)
    more = condition.node("LESS", [count, condition.numbers(3)], [condition.tensor("more", (1,), BOOL)])
    condition.graph.inputs, condition.graph.outputs = [count, x, factor], [more]
    count, x, factor = values(body)
    y = body.conv(x, 4, 3, None)
    y = body.node("MUL", [y, factor], [body.maps(4)])
    next_count = body.node("ADD", [count, body.numbers(1)], [body.tensor("next", (1,), INT32)])
    body.graph.inputs, body.graph.outputs = [count, x, factor], [next_count, y, factor]
    x = main.maps(4)
    start = main.numbers(0)
    first = main.node("RELU", [x], [main.maps(4)])
    scale = main.node("MEAN", [x, main.numbers(1, 2)], [main.tensor("m", (1, 1, 1, 4), FLOAT32)], keepDims=True)
    after = values(main)
    main.node("WHILE", [start, first, scale], after, condSubgraphIndex=1, bodySubgraphIndex=2)
    last = main.node("RELU", [after[1]], [main.maps(4)])
    if passed_on:
        last = main.node("MUL", [last, after[2]], [main.maps(4)])
    return main.write(path, [x], [last])


@pytest.mark.parametrize("kernels", ["reference", "builtin"])
@pytest.mark.parametrize("passed_on", [False, True])
def test_a_while_has_arenas_of_its_own(tmp_path, kernels, passed_on):
    plan = assert_plan_is_litert_s(rolled(tmp_path / "net.tflite", passed_on), kernels)
    assert sorted(graph.graph for graph in plan.graphs) == [0, 1, 2]
    loop = next(moment for moment in plan.timeline.moments if moment.op_type == "WHILE")
    body = next(graph for graph in plan.graphs if graph.graph == 2)
    assert loop.live_bytes > body.timeline.peak_bytes
    assert plan.timeline.peak_bytes == loop.live_bytes


def test_an_operator_that_a_delegate_takes_has_no_tensors_inside(tmp_path):
    graph = Graph()
    x = graph.maps(4)
    a = graph.node("RELU", [x], [graph.maps(4)])
    b = graph.node("RELU", [a], [graph.maps(4)])
    c = graph.node("SOFTMAX", [b], [graph.maps(4)], beta=1.0)
    d = graph.node("RELU", [c], [graph.maps(4)])
    model = read_tflite(graph.write(tmp_path / "net.tflite", [x], [d]))
    plan = plan_arena(model, "builtin", taken=[(0, 0), (0, 1), (0, 3)])
    assert {block.tensor for block in plan.graphs[0].blocks} == {x, b, d}
    assert [moment.op_type for moment in plan.timeline.moments] == ["DELEGATE", "SOFTMAX", "DELEGATE"]


def test_a_shape_known_at_run_time_only_is_said(tmp_path):
    graph = Graph()
    x = graph.maps(4)
    shape = graph.tensor("shape", (4,), INT32)
    y = graph.node("RESHAPE", [x, shape], [graph.maps(4)])
    z = graph.node("RELU", [y], [graph.maps(4)])
    plan = plan_arena(read_tflite(graph.write(tmp_path / "net.tflite", [x, shape], [z])), "reference")
    assert "run time only" in plan.notes[0]


def test_the_peak_names_what_is_alive(tmp_path):
    graph = Graph()
    x = graph.maps(2)
    wide = graph.conv(x, 8, 1, None)
    narrow = graph.conv(wide, 1, 1, None)
    y = graph.conv(narrow, 1, 1, None)
    timeline = plan_arena(read_tflite(graph.write(tmp_path / "net.tflite", [x], [y])), "reference").timeline
    floats = 4 * SIDE * SIDE
    assert [moment.live_bytes for moment in timeline.moments] == [10 * floats, 11 * floats, 4 * floats]
    assert timeline.peak == 1
    names = [graph.graph.tensors[index].name for index in (wide, x, narrow)]
    assert [tensor.name for tensor in timeline.alive] == names


def test_in_place_only_where_the_planner_does_not_do_so_already(tmp_path):
    """It lets an ADD take over its input's buffer, no RELU; and nothing is written over a graph's input or output."""
    graph = Graph()
    x = graph.maps(4)
    a = graph.node("RELU", [x], [graph.maps(4)])
    b = graph.node("RELU", [a], [graph.maps(4)])
    c = graph.node("ADD", [b, a], [graph.maps(4)])
    d = graph.node("TANH", [c], [graph.maps(4)])
    e = graph.node("SOFTMAX", [d], [graph.maps(4)], beta=1.0)
    f = graph.node("RELU", [e], [graph.maps(4)])
    (only,) = plan_arena(read_tflite(graph.write(tmp_path / "net.tflite", [x], [f])), "reference").graphs
    assert {c, e} == only.shared.keys()
    saved = [moment.in_place_bytes for moment in only.timeline.moments]
    assert saved == [0, 0, 0, 4 * 4 * SIDE * SIDE, 0, 0]  # x; a, read again; shared; c; shared; y
    assert [moment.live_bytes // (4 * 4 * SIDE * SIDE) for moment in only.timeline.moments] == [2, 3, 3, 3, 2, 3]


def test_a_graph_too_large_to_plan_has_its_live_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite_arena, "MAX_PLANNED", 2)
    graph = Graph()
    x = graph.maps(4)
    y = graph.node("RELU", [graph.node("RELU", [x], [graph.maps(4)])], [graph.maps(4)])
    plan = plan_arena(read_tflite(graph.write(tmp_path / "net.tflite", [x], [y])), "reference")
    assert plan.arena_bytes == plan.timeline.peak_bytes == 3 * 4 * 4 * SIDE * SIDE
    assert "not planned" in plan.notes[0]


def test_graphs_that_run_graphs_thousands_deep_are_no_traceback(tmp_path):
    path = rolled(tmp_path / "net.tflite", False)
    model = read_tflite(path)
    deepest = model.subgraphs.pop()  # the body, which runs nothing
    loop = model.subgraphs[0].operators[2]
    for depth in range(1500):
        body, again = copy.copy(deepest), copy.copy(loop)
        again.builtinOptions = copy.copy(loop.builtinOptions)
        again.builtinOptions.bodySubgraphIndex = 3 + depth
        again.inputs, again.outputs = [0, 1, 2], [0, 1, 2]
        body.operators = [again]
        model.subgraphs.append(body)
    model.subgraphs.append(deepest)
    plan = plan_arena(model, "reference")
    assert len(plan.graphs) == tflite_arena.MAX_DEPTH + 2  # the condition is one
    assert "deep" in plan.notes[-1]


def test_graphs_that_run_each_other_end(tmp_path):
    """A body that runs its own caller: no runtime opens it, and the plan must not go on for ever."""
    path = rolled(tmp_path / "net.tflite", False)
    model = read_tflite(path)
    inner = model.subgraphs[0].operators[2]
    model.subgraphs[2].operators.append(inner)
    inner.inputs, inner.outputs = [0, 1, 2], [0, 1, 2]
    path.write_bytes(pack(model))
    plan_arena(read_tflite(path), "reference")
