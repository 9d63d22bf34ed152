"""Multiply-accumulates, parameters and bytes: against counts by hand, the papers' table, and the runtime's files."""

import math
from dataclasses import replace

import numpy as np
import onnx_files
import onnxruntime as ort
import pytest
import small_graphs as graphs
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tflite_by_hand import SAME, VALID, TfliteGraph
from torch import nn

from edgeks.audit.compute import Axis, latency_bound, same_padding
from edgeks.audit.onnx.compute import PARAMETER_INPUTS, PRODUCTS, measure_compute
from edgeks.audit.onnx.kernels import WEIGHT_INPUTS
from edgeks.audit.tflite.compute import measure_tflite_compute
from edgeks.model_files.onnx_file import read_model_file
from edgeks.model_files.tflite_file import pack, read_tflite
from edgeks.models import zoo
from edgeks.target import load_target

C, S = graphs.CHANNELS, graphs.SIZE
LAYER = C * S * S * C * 9  # MACs of one 3×3 layer of the small graphs


def onnx_compute(proto, tmp_path):
    return measure_compute(read_model_file(graphs.save(proto, tmp_path / "net.onnx")))


def one_node(tmp_path, op, constants, input_shape, *, inputs=None, nodes=(), output_type=None, **attributes):
    """Compute of a graph with one node that reads x and the constants, in this order unless `inputs` says another."""
    tensors = [graphs.initializer(name, value) for name, value in constants.items()]
    node = helper.make_node(op, inputs or ["x", *constants], ["y"], "node", **attributes)
    shape = {"input_shape": input_shape[1:], "output_type": output_type}
    proto = graphs.model([*nodes, node], tensors, input_shape[0], None, **shape)
    return onnx_compute(proto, tmp_path)


def floats(*shape):
    return np.ones(shape, np.float32)


def codes(*shape):
    return np.ones(shape, np.int8)


def test_every_op_that_takes_a_kernel_is_counted():
    assert set(WEIGHT_INPUTS) <= set(PRODUCTS)
    assert set(PRODUCTS) <= set(PARAMETER_INPUTS)


@pytest.mark.parametrize(
    ("op", "constants", "input_shape", "attributes", "macs", "parameters"),
    [
        ("Conv", {"w": floats(6, 2, 3, 3), "b": floats(6)}, (2, 4, 9, 9), {"group": 2}, 2 * 6 * 49 * 2 * 9, 114),
        ("Conv", {"w": floats(6, 4, 3, 3)}, (1, 4, 9, 9), {"dilations": [2, 2], "strides": [2, 2]}, 6 * 9 * 36, 216),
        ("Conv", {"w": floats(6, 4, 3)}, (1, 4, 9), {"auto_pad": "SAME_UPPER"}, 6 * 9 * 12, 72),
        ("Conv", {"w": floats(2, 4, 1, 2, 3)}, (1, 4, 5, 6, 7), {}, 2 * 5 * 5 * 5 * 4 * 6, 48),
        ("ConvTranspose", {"w": floats(4, 3, 2, 2)}, (1, 8, 5, 5), {"group": 2, "strides": [2, 2]}, 200 * 12, 48),
        ("Gemm", {"w": floats(8, 5), "b": floats(5)}, (3, 8), {}, 3 * 8 * 5, 45),
        ("Gemm", {"w": floats(5, 3)}, (3, 8), {"transA": 1, "transB": 1}, 3 * 8 * 5, 15),
        ("MatMul", {"w": floats(8, 5)}, (2, 7, 8), {}, 2 * 7 * 8 * 5, 40),
        ("MatMul", {"w": floats(8)}, (2, 7, 8), {}, 2 * 7 * 8, 8),
        ("FusedMatMul", {"w": floats(8, 5)}, (7, 8), {"domain": "com.microsoft"}, None, 40),
        ("Mul", {"w": floats(8)}, (7, 8), {}, 0, 8),
        ("Mul", {"w": floats(1)}, (7, 8), {}, 0, 0),
        ("PRelu", {"w": floats(8)}, (7, 8), {}, 0, 8),
        ("BatchNormalization", dict.fromkeys("gbmv", floats(4)), (1, 4, 6, 6), {}, 0, 8),
    ],
)
def test_counts_of_one_node(tmp_path, op, constants, input_shape, attributes, macs, parameters):
    found = one_node(tmp_path, op, constants, input_shape, **attributes)
    assert (found.macs, found.parameters, found.parameters_unshared) == (macs or 0, parameters, parameters)
    assert (len(found.unknown) == 1) == (macs is None)


@pytest.mark.parametrize(
    ("op", "constants", "inputs", "integer_input"),
    [
        ("MatMulInteger", {"w": codes(8, 5)}, ["q", "w"], True),
        ("MatMulIntegerToFloat", {"w": codes(8, 5), "b": floats(5)}, ["q", "w", "s", "s", "", "", "b"], True),
        ("DynamicQuantizeMatMul", {"w": codes(8, 5), "b": floats(5)}, ["x", "w", "s", "", "b"], False),
        ("QLinearMatMul", {"w": codes(8, 5)}, ["q", "s", "z", "w", "s", "z", "s", "z"], True),
        ("QGemm", {"w": codes(8, 5), "b": np.ones(5, np.int32)}, ["q", "s", "z", "w", "s", "z", "b", "s", "z"], True),
    ],
)
def test_integer_products(tmp_path, op, constants, inputs, integer_input):
    constants = {**constants, "s": np.float32(1), "z": np.int8(0)}
    quantise = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise")
    domain = "" if op in ("MatMulInteger", "QLinearMatMul") else "com.microsoft"
    nodes = [quantise] if integer_input else []
    types = {"MatMulInteger": TensorProto.INT32, "QLinearMatMul": TensorProto.INT8, "QGemm": TensorProto.INT8}
    options = {"output_type": types.get(op), "domain": domain}
    found = one_node(tmp_path, op, constants, (3, 8), inputs=inputs, nodes=nodes, **options)
    (layer,) = found.layers
    bias = "b" in constants
    assert (found.macs, found.parameters, found.unknown) == (3 * 8 * 5, 40 + 5 * bias, ())
    assert (layer.kernel, layer.precision, layer.weight_bytes) == ("w", "int8", 40 + 20 * bias)
    assert layer.input_bytes == 24 * (1 if integer_input else 4)


def test_products_of_two_activations_and_recurrent_networks(tmp_path):
    transposed = helper.make_node("Transpose", ["x"], ["t"], "transpose", perm=[0, 2, 1])
    found = one_node(tmp_path, "MatMul", {}, (2, 7, 8), inputs=["x", "t"], nodes=[transposed])
    assert (found.macs, found.parameters, found.layers[0].weight_bytes) == (2 * 7 * 8 * 7, 0, 0)
    lstm = {"w": floats(1, 20, 8), "r": floats(1, 20, 5), "b": floats(1, 40)}
    found = one_node(tmp_path, "LSTM", lstm, (7, 2, 8), hidden_size=5)
    assert (found.macs, found.parameters) == (7 * 2 * (20 * 8 + 20 * 5), 20 * 8 + 20 * 5 + 40)


def test_a_recurrent_network_whose_sequence_is_not_wanted(tmp_path):
    """An output that is left out has an empty name, and others after it have one."""
    constants = [graphs.initializer("w", floats(1, 20, 8)), graphs.initializer("r", floats(1, 20, 5))]
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["", "y"], "lstm", hidden_size=5)
    found = onnx_compute(graphs.model([lstm], constants, 7, None, input_shape=(2, 8)), tmp_path)
    assert (found.macs, found.parameters) == (7 * 2 * (20 * 8 + 20 * 5), 20 * 8 + 20 * 5)


def test_what_is_not_counted_is_named(tmp_path):
    found = one_node(tmp_path, "Einsum", {"w": floats(8, 5)}, (3, 8), equation="ij,jk->ik")
    assert found.unknown == ("Einsum 'node': edgeks does not count its multiply-accumulates",)


def test_a_shared_kernel_is_one_kernel_that_every_layer_reads(tmp_path):
    found = onnx_compute(graphs.fp32_shared(4), tmp_path)
    head = C * graphs.CLASSES
    assert found.macs == 4 * LAYER + head and found.gflops == 2 * found.macs / 1e9
    assert found.parameters == C * C * 9 + 4 * 2 * C + head  # running means and variances are none
    assert found.parameters_unshared == found.parameters + 3 * C * C * 9
    assert found.weight_bytes == 4 * found.parameters
    assert found.weight_bytes_read == 4 * found.parameters_unshared
    convs = [layer for layer in found.layers if layer.op_type == "Conv"]
    assert [layer.kernel for layer in convs] == ["kernel"] * 4
    assert {layer.input_bytes + layer.output_bytes for layer in convs} == {2 * 4 * C * S * S}
    assert convs[0].arithmetic_intensity == LAYER / (4 * C * C * 9 + 2 * 4 * C * S * S)
    assert found.elementwise == 8 * C * S * S


def test_int8_layers_read_and_write_codes(tmp_path):
    for build in (graphs.qdq, graphs.qoperator):
        layers = [layer for layer in onnx_compute(build(), tmp_path).layers if "conv" in layer.name]
        assert [(layer.macs, layer.precision, layer.weight_bytes) for layer in layers] == [(LAYER, "int8", 576)] * 4
        assert {layer.input_bytes for layer in layers} == {layer.output_bytes for layer in layers} == {C * S * S}


@pytest.mark.parametrize("level", ["EXTENDED", "ALL"])
@pytest.mark.parametrize("build", [graphs.qoperator, graphs.qdq, graphs.public_chain])
def test_files_that_onnx_runtime_optimised_have_the_same_macs(build, level, tmp_path):
    source = graphs.save(build(), tmp_path / "net.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    before, after = (measure_compute(read_model_file(path)) for path in (source, tmp_path / "optimised.onnx"))
    blocked = any("nchwc" in layer.name for layer in after.layers)  # 8 channels fill half a block of 16
    assert before.macs == 4 * LAYER + (build is not graphs.qdq) * C * graphs.CLASSES
    assert after.macs == before.macs or (blocked and before.macs < after.macs <= 4 * before.macs)


def test_a_loop_counts_its_trips_and_an_if_its_costly_branch(tmp_path):
    found = onnx_compute(graphs.loop(trips=3), tmp_path)
    assert [(layer.name, layer.runs, layer.macs) for layer in found.layers] == [
        ("body.conv", 3, 3 * LAYER),
        ("then.Conv", 1, LAYER),
    ]
    assert found.parameters == C * C * 9 and found.parameters_unshared == 4 * C * C * 9
    assert found.unknown == ()  # the condition is a constant, and the body does not change its own
    proto = graphs.loop()
    proto.graph.input.append(helper.make_tensor_value_info("n", TensorProto.INT64, []))
    proto.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    proto.graph.node[0].input[0] = "n"
    proto.graph.node[1].input[0] = "flag"
    found = onnx_compute(proto, tmp_path)
    assert found.macs == 2 * LAYER
    assert found.unknown == (
        "Loop 'loop': its trip count is not in the file; counted once",
        "If 'if': the branch with the most MACs is counted",
    )


def test_a_rolled_network_looks_its_biases_up(tmp_path):
    """One int8 kernel in a Loop; bias and weight scale of each trip are rows of a table."""
    weights, scale = graphs.quantised_kernel()
    constants = {
        "kernel": weights, "trips": np.int64(3), "yes": np.bool_(True), "s": np.float32(0.05), "z": np.int8(0),
        "scales": np.stack([scale] * 3), "biases": np.ones((3, C), np.int32),
    }  # fmt: skip
    state = [1, C, S, S]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"], "go_on"),
            helper.make_node("Gather", ["scales", "trip"], ["scale"], "scale"),
            helper.make_node("Gather", ["biases", "trip"], ["bias"], "bias"),
            helper.make_node(
                "QLinearConv", ["q", "s", "z", "kernel", "scale", "z", "s", "z", "bias"], ["q_out"], "conv",
                pads=[1, 1, 1, 1],
            ),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("q", TensorProto.INT8, state),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("q_out", TensorProto.INT8, state),
        ],
    )  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"], "quantise"),
        helper.make_node("Loop", ["trips", "yes", "q0"], ["y"], "loop", body=body),
    ]
    tensors = [graphs.initializer(name, value) for name, value in constants.items()]
    path = graphs.save(graphs.model(nodes, tensors, 1, state, output_type=TensorProto.INT8), tmp_path / "rolled.onnx")
    graphs.check_runs(path)
    found = measure_compute(read_model_file(path))
    assert found.macs == 3 * LAYER and found.unknown == ()
    assert found.parameters == C * C * 9 + 3 * C
    assert found.parameters_unshared == 3 * (C * C * 9 + C)
    assert found.weight_bytes_read == 3 * (C * C * 9 + 4 * C)


def test_a_symbolic_batch_is_one_and_other_unknown_sizes_are_noted(tmp_path):
    found = onnx_compute(graphs.fp32_shared(2, batch="n"), tmp_path)
    assert found.macs == 2 * LAYER + C * graphs.CLASSES
    assert found.unknown == ("symbolic batch 'n' of input 'x' taken as 1",)
    proto = graphs.fp32_shared(2)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    found = onnx_compute(proto, tmp_path)
    assert found.layers[0].output_shape is None and found.layers[0].arithmetic_intensity is None
    assert "Conv 'blocks.0.conv': the file does not say its shapes; counted as 0" in found.unknown


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        ("convmixer_128_4", 112_138, 0.110),
        ("convmixer_283_4_2k", 112_644, 0.423),
        ("convmixer_128_8", 222_218, 0.220),
        ("convmixer_410_8_2k", 221_820, 1.650),
        ("convmixer_384_20_2k", 216_202, 3.658),
    ],
)
def test_table_1_of_arxiv_2210_14151(name, parameters, gmacs, tmp_path):
    network = zoo.build(*zoo.architecture(name), 0)
    for norm in filter(lambda module: isinstance(module, nn.BatchNorm2d), network.modules()):
        nn.init.normal_(norm.weight, 1, 0.1)  # the exporter makes equal vectors one
        nn.init.normal_(norm.bias, 0, 0.1)
    path = onnx_files.by_torch(network, tmp_path / "net.onnx", 17, size=32)
    found = measure_compute(read_model_file(path))
    assert found.parameters == parameters == sum(tensor.numel() for tensor in network.parameters())
    assert found.macs / 1e9 == pytest.approx(gmacs, abs=5e-4)
    unshared = zoo.build(*zoo.architecture(name, {"kernels": 0}), 0)
    assert found.parameters_unshared == sum(tensor.numel() for tensor in unshared.parameters())


class _Attention(nn.Module):
    """Sizes that the legacy exporter leaves to the graph: Shape → Slice → Concat → Reshape."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.query = nn.Linear(8, 4)

    def forward(self, x):
        x = self.query(self.stem(x).flatten(2).transpose(1, 2))
        x = (x @ x.transpose(1, 2)).flatten(1)
        return x.view(x.size(0), 4, -1).flatten(2)


@pytest.mark.parametrize("dynamo", [False, True])
def test_sizes_that_the_graph_computes_from_known_ones(dynamo, tmp_path):
    path = onnx_files.by_torch(_Attention(), tmp_path / "net.onnx", 18, size=4, dynamo=dynamo)
    found = measure_compute(read_model_file(path))
    assert found.macs == 16 * 8 * 27 + 16 * 8 * 4 + 16 * 16 * 4
    assert (found.parameters, found.unknown) == (8 * 27 + 8 + 8 * 4 + 4, ())


sizes = st.integers(1, 12)


@given(size=sizes, taps=st.integers(1, 9), stride=st.integers(1, 4), dilation=st.integers(1, 3), same=st.booleans())
def test_products_with_padding_are_told_apart(size, taps, stride, dilation, same):
    reach = (taps - 1) * dilation + 1
    positions = -(-size // stride) if same else max(0, (size - reach) // stride + 1)
    pad = same_padding(size, positions, taps, stride, dilation) if same else 0
    places = [place * stride - pad + tap * dilation for place in range(positions) for tap in range(taps)]
    inside = Axis(size, positions, taps, stride, dilation, pad).inside()
    assert inside == sum(0 <= place < size for place in places)
    assert same or inside == positions * taps


def test_least_macs_leave_padding_out(tmp_path):
    (layer, *_) = onnx_compute(graphs.fp32_shared(1), tmp_path).layers
    assert layer.least_macs == C * C * (3 * S - 2) ** 2
    axes = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    (layer,) = one_node(tmp_path, "ConvTranspose", {"w": floats(4, 3, 3, 3)}, (1, 4, 5, 5), **axes).layers
    assert (layer.output_shape, layer.macs) == ((1, 3, 9, 9), 4 * 25 * 27)
    assert layer.least_macs == 4 * 3 * (3 * 5 - 2) ** 2  # of the outermost inputs, one tap each falls on the padding


def tflite_compute(graph, inputs, outputs, tmp_path):
    path = graph.write(tmp_path / "net.tflite", inputs, outputs)
    Interpreter(str(path)).allocate_tensors()
    return measure_tflite_compute(read_tflite(path))


def test_tflite_operators(tmp_path):
    graph = TfliteGraph()
    x = graph.tensor([1, 6, 6, 4])
    kernel, bias = graph.constant(floats(8, 3, 3, 4)), graph.constant(floats(8))
    conv = {"table": "Conv2DOptions", "strideW": 1, "strideH": 1, "padding": SAME}
    first = graph.op("CONV_2D", [x, kernel, bias], graph.tensor([1, 6, 6, 8]), **conv)
    grouped = graph.constant(floats(8, 3, 3, 4))  # 8 channels in two groups
    second = graph.op("CONV_2D", [first, grouped, bias], graph.tensor([1, 6, 6, 8]), **conv)
    depthwise = {**conv, "table": "DepthwiseConv2DOptions", "depthMultiplier": 1, "padding": VALID}
    taps = graph.constant(floats(1, 3, 3, 8))
    third = graph.op("DEPTHWISE_CONV_2D", [second, taps, bias], graph.tensor([1, 4, 4, 8]), **depthwise)
    factor = graph.constant(floats(8))
    fourth = graph.op("MUL", [third, factor], graph.tensor([1, 4, 4, 8]), table="MulOptions")
    up = graph.constant(floats(2, 2, 2, 8))
    shape = graph.constant(np.array([1, 8, 8, 2], np.int32))
    options = {"table": "TransposeConvOptions", "strideW": 2, "strideH": 2, "padding": VALID}
    fifth = graph.op("TRANSPOSE_CONV", [shape, up, fourth], graph.tensor([1, 8, 8, 2]), **options)
    flat = graph.op(
        "RESHAPE", [fifth, graph.constant(np.array([2, 64], np.int32))], graph.tensor([2, 64]), table="ReshapeOptions"
    )
    dense = graph.constant(floats(5, 64))
    sixth = graph.op("FULLY_CONNECTED", [flat, dense, -1], graph.tensor([2, 5]), table="FullyConnectedOptions")
    last = graph.tensor([5, 5])
    graph.op("BATCH_MATMUL", [sixth, sixth], last, table="BatchMatMulOptions", adjX=True)
    found = tflite_compute(graph, [x], [last], tmp_path)
    assert [(layer.op_type, layer.macs) for layer in found.layers] == [
        ("CONV_2D", 36 * 8 * 36),
        ("CONV_2D", 36 * 8 * 36),
        ("DEPTHWISE_CONV_2D", 16 * 8 * 9),
        ("MUL", 0),
        ("TRANSPOSE_CONV", 16 * 8 * 8),
        ("FULLY_CONNECTED", 2 * 5 * 64),
        ("BATCH_MATMUL", 5 * 5 * 2),
    ]
    assert found.layers[0].least_macs == 8 * 4 * (3 * 6 - 2) ** 2
    assert all(layer.least_macs == layer.macs for layer in found.layers[2:])
    assert found.parameters == 2 * 288 + 72 + 8 + 8 + 64 + 320
    assert found.parameters_unshared == found.parameters + 2 * 8  # the bias, for three layers
    assert (found.weight_bytes, found.elementwise, found.unknown) == (4 * found.parameters, 128, ())


def test_tflite_kernels_in_one_buffer_and_dynamic_int8(tmp_path):
    graph = TfliteGraph()
    x = graph.tensor([1, 6, 6, 8])
    kernel = graph.constant(codes(8, 3, 3, 8), scale=floats(8))
    second = graph.tensor([8, 3, 3, 8], "int8", floats(8) * 2)
    graph.tensors[second].buffer = graph.tensors[kernel].buffer
    bias = graph.constant(floats(8))
    options = {"table": "Conv2DOptions", "strideW": 1, "strideH": 1, "padding": SAME}
    middle = graph.op("CONV_2D", [x, kernel, bias], graph.tensor([1, 6, 6, 8]), **options)
    last = graph.op("CONV_2D", [middle, second, bias], graph.tensor([1, 6, 6, 8]), **options)
    found = tflite_compute(graph, [x], [last], tmp_path)
    assert (found.macs, found.parameters, found.parameters_unshared) == (2 * LAYER, 584, 1168)
    assert {layer.precision for layer in found.layers} == {"int8"}
    assert (found.weight_bytes, found.weight_bytes_read) == (576 + 32, 2 * (576 + 32))


def rolled_tflite(tmp_path, *, start, limit, compare="LESS", body=2):
    """WHILE i < limit: x = conv(x), i = i + 1."""
    main, condition, loop = graph, *others = TfliteGraph(), TfliteGraph(), TfliteGraph()
    for other in others:
        other.buffers, other.codes = graph.buffers, graph.codes
    x = main.tensor([1, 6, 6, 8])
    first = main.tensor([], "int32") if start is None else main.constant(np.int32(start))
    ends = [main.tensor([], "int32"), main.tensor([1, 6, 6, 8])]
    main.op("WHILE", [first, x], ends[0], table="WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=body)
    main.operators[0].outputs = ends
    states = [condition.tensor([], "int32"), condition.tensor([1, 6, 6, 8])]
    goes_on = condition.tensor([], "int32")
    condition.tensors[goes_on].type = schema.TensorType.BOOL
    condition.op(compare, [states[0], condition.constant(np.int32(limit))], goes_on, table=f"{compare.title()}Options")
    inner = [loop.tensor([], "int32"), loop.tensor([1, 6, 6, 8])]
    kernel, bias = loop.constant(floats(8, 3, 3, 8)), loop.constant(floats(8))
    options = {"table": "Conv2DOptions", "strideW": 1, "strideH": 1, "padding": SAME}
    after = [loop.tensor([], "int32"), loop.tensor([1, 6, 6, 8])]
    loop.op("ADD", [inner[0], loop.constant(np.int32(1))], after[0], table="AddOptions")
    loop.op("CONV_2D", [inner[1], kernel, bias], after[1], **options)
    path = main.write(tmp_path / "rolled.tflite", [x] if start is not None else [x, first], [ends[1]])
    model = read_tflite(path)
    for part, inputs, outputs in ((condition, states, [goes_on]), (loop, inner, after)):
        made = schema.SubGraphT()
        made.tensors, made.operators, made.inputs, made.outputs = part.tensors, part.operators, inputs, outputs
        model.subgraphs.append(made)
    path.write_bytes(pack(model))
    return path


def test_a_tflite_while_counts_its_trips(tmp_path):
    path = rolled_tflite(tmp_path, start=2, limit=7)
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], floats(1, 6, 6, 8))
    interpreter.invoke()
    found = measure_tflite_compute(read_tflite(path))
    (layer,) = found.layers
    assert (layer.runs, layer.macs, found.macs) == (5, 5 * LAYER, 5 * LAYER)
    assert (found.parameters, found.parameters_unshared, found.unknown) == (584, 5 * 584, ())
    found = measure_tflite_compute(read_tflite(rolled_tflite(tmp_path, start=None, limit=7)))
    assert found.macs == LAYER and found.unknown == ("WHILE → 't2': its trip count is not in the file; counted once",)


@pytest.mark.parametrize("body", [0, 9, -1])
def test_tflite_graphs_that_call_themselves_or_none_are_noted(body, tmp_path):
    found = measure_tflite_compute(read_tflite(rolled_tflite(tmp_path, start=0, limit=7, body=body)))
    assert found.macs == 0
    assert found.unknown[-1] == f"graph {body} is missing, calls itself, or is nested deeper than 64"


def test_the_latency_bound(tmp_path):
    found = onnx_compute(graphs.fp32_shared(4), tmp_path)
    target = load_target("rpi-4")
    bound = latency_bound(found, target)
    least = sum(layer.least_macs for layer in found.layers)
    assert bound.compute_seconds == pytest.approx(least / 28.8e9)
    assert (bound.memory_seconds, bound.limited_by, bound.seconds) == (0, "compute", bound.compute_seconds)
    one_thread = replace(target, session=replace(target.session, threads=1))
    assert latency_bound(found, one_thread).seconds == pytest.approx(4 * bound.seconds)
    large = replace(found, weight_bytes=target.board.cache_bytes + 128_000_000)
    assert latency_bound(large, target).memory_seconds == pytest.approx(0.01)
    assert latency_bound(large, target).limited_by == "memory"
    int8 = onnx_compute(graphs.qdq(4), tmp_path)
    least = sum(layer.least_macs for layer in int8.layers)
    assert latency_bound(int8, target).seconds == pytest.approx(least / 57.6e9)
    assert latency_bound(found, load_target("onnx")) is None
    assert math.isclose(latency_bound(found, load_target("rpi-4-tflite")).seconds, bound.seconds)
