"""What the XNNPACK delegate allocates, predicted, against what the C library's allocator hands out."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_graph import OPTIONS, TfliteGraph
from tflite_runtime_env import PYTHON, needs_tflite_runtime

from edgeks.audit.xnnpack.plan import plan_xnnpack
from edgeks.model_files.tflite_file import read_tflite, whole_numbers

# Opens each file twice, so that what the runtime allocates once for all of them does not count, and says what the heap
# has grown by in the second: after it is open, and after an inference.
MEASURE = """
import ctypes, json, sys
import numpy as np
if sys.argv[1] == "litert":
    from ai_edge_litert.interpreter import Interpreter
else:
    from tflite_runtime.interpreter import Interpreter
class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usm fsm used free keep".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2
def heap():
    found = libc.mallinfo2()
    return found.used + found.hblkhd
found = []
for path in sys.argv[2:]:
    for _ in range(2):
        start = heap()
        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        loaded = heap() - start
        inputs = [np.zeros(d["shape"], d["dtype"]) for d in interpreter.get_input_details()]
        fed = heap()
        for detail, array in zip(interpreter.get_input_details(), inputs):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        ran = loaded + heap() - fed
        del interpreter, inputs, array, detail
    found.append([loaded, ran])
print(json.dumps(found))
"""
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID
# TFLite's own objects for a file of some ten operators. Its arena, the graph's inputs and outputs, is added.
OBJECT_BYTES = range(60_000, 140_000)
MODES = ("float32", "int8", "dynamic", "float16", "stored")

needs_avx512 = pytest.mark.skipif(
    "avx512_vnni" not in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else True,
    reason="the tiles are those of AVX-512 VNNI",
)
needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the heap's size is asked of glibc"
)


@pytest.fixture(autouse=True)
def _options(monkeypatch):
    for name, table in {
        "MAX_POOL_2D": "Pool2D",
        "TRANSPOSE_CONV": "TransposeConv",
        "PAD": "Pad",
        "MEAN": "Reducer",
    }.items():
        monkeypatch.setitem(OPTIONS, name, getattr(schema, f"{table}OptionsT"))


class Net:
    """Layers in a chain, in one precision; a kernel may be stored once for several."""

    def __init__(self, shape, mode="float32"):
        self.mode, self.graph, self.shape = mode, TfliteGraph(), shape
        self.kind = (np.int8, 0.05) if mode == "int8" else (np.float32,)
        self.x = self.graph.input(shape, *self.kind)

    def weights(self, shape, axis=0, buffer=None):
        codes = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
        scale = np.full(shape[axis], 0.01, np.float32)
        if self.mode in ("int8", "dynamic"):
            return self.graph.constant(codes, scale, axis, buffer), scale
        if self.mode == "float32":
            return self.graph.constant(codes.astype(np.float32), buffer=buffer), scale
        stored = codes.astype(np.float16)
        held = self.graph.constant(codes, scale, axis) if self.mode == "stored" else self.graph.constant(stored)
        return self.graph.op("DEQUANTIZE", [held], self.graph.tensor(shape, np.float32), 3), scale

    def bias(self, scale):
        if self.mode == "int8":
            return self.graph.constant(np.ones(len(scale), np.int32), scale * np.float32(0.05))
        return self.graph.constant(np.ones(len(scale), np.float32))

    def add(self, op, inputs, shape, version=5, **options):
        self.shape = shape
        self.x = self.graph.op(op, inputs, self.graph.tensor(shape, *self.kind), version, **options)
        return self

    def conv(self, out, size, stride=1, depthwise=False, buffer=None, padding=SAME):
        n, height, width, channels = self.shape
        kernel, scale = self.weights(
            *(((1, size, size, out), 3) if depthwise else ((out, size, size, channels), 0)), buffer
        )
        edge = 0 if padding == SAME else size - 1
        shape = (n, -(-(height - edge) // stride), -(-(width - edge) // stride), out)
        op = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        options = {"depthMultiplier": out // channels} if depthwise else {}
        inputs = [self.x, kernel, self.bias(scale)]
        return self.add(op, inputs, shape, padding=padding, strideW=stride, strideH=stride, **options)

    def matrix(self, out):
        kernel, scale = self.weights((out, self.shape[-1]))
        return self.add("FULLY_CONNECTED", [self.x, kernel, self.bias(scale)], (self.shape[0], out))

    def write(self, path):
        return self.graph.write(path, self.x)


def pooled(net):
    net.add(
        "MAX_POOL_2D", [net.x], (1, 14, 14, 64), 2, padding=SAME, strideW=2, strideH=2, filterWidth=2, filterHeight=2
    )
    return net.conv(64, 1)


def padded(net):
    around = net.graph.constant(np.array([[0, 0], [2, 2], [2, 2], [0, 0]], np.int32))
    return net.add("PAD", [net.x, around], (1, 32, 32, 64), 1).conv(64, 5, padding=VALID)


def upsampled(net):
    kernel, scale = net.weights((64, 3, 3, 64))
    size = net.graph.constant(np.array([1, 56, 56, 64], np.int32))
    inputs = [size, kernel, net.x, net.bias(scale)]
    return net.add("TRANSPOSE_CONV", inputs, (1, 56, 56, 64), 3, padding=SAME, strideW=2, strideH=2).conv(64, 1)


def residual(net):
    start = net.x
    for _ in range(2):
        branch = net.conv(64, 3).x
        net.add("ADD", [branch, start], net.shape, 1)
        start = net.x
    return net.conv(64, 1)


IMAGE = (1, 28, 28, 64)
NETS = {
    "3×3": lambda mode: Net(IMAGE, mode).conv(128, 3).conv(128, 3).conv(64, 3),
    "1×1": lambda mode: Net(IMAGE, mode).conv(512, 1).conv(512, 1).conv(64, 1),
    "7×7, stride 2": lambda mode: Net(IMAGE, mode).conv(128, 7, 2).conv(128, 1, 2),
    "a batch of 4": lambda mode: Net((4, 28, 28, 64), mode).conv(128, 3).conv(64, 3),
    "depthwise 3×3": lambda mode: Net(IMAGE, mode).conv(64, 3, depthwise=True).conv(512, 1),
    "depthwise 5×5": lambda mode: Net(IMAGE, mode).conv(64, 5, depthwise=True).conv(512, 1),
    "matrices": lambda mode: Net((1, 2048), mode).matrix(1024).matrix(1024),
    "matrix, 100 rows": lambda mode: Net((100, 512), mode).matrix(512).matrix(64),
    "pooling": lambda mode: pooled(Net(IMAGE, mode).conv(64, 3)),
    "padding": lambda mode: padded(Net(IMAGE, mode).conv(64, 1)).conv(64, 1),
    "transposed": lambda mode: upsampled(Net(IMAGE, mode).conv(64, 1)),
    "residual": lambda mode: residual(Net(IMAGE, mode)),
}


def measured(paths, version):
    """Bytes of the heap per file: once it is open, and after an inference."""
    python = PYTHON if version == "tflite-runtime" else sys.executable
    command = [python, "-c", MEASURE, version, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ends_bytes(model):
    """Inputs and outputs of the graph: they lie in TFLite's arena."""
    graph = model.subgraphs[0]
    tensors = [graph.tensors[index] for index in [*whole_numbers(graph.inputs), *whole_numbers(graph.outputs)]]
    return sum(int(np.prod(t.shape)) * (1 if t.type == schema.TensorType.INT8 else 4) for t in tensors)


@needs_glibc
@needs_avx512
@pytest.mark.parametrize("version", ["litert", pytest.param("tflite-runtime", marks=needs_tflite_runtime)])
@pytest.mark.parametrize("mode", MODES)
def test_allocations_are_as_measured(mode, version, tmp_path):
    """All that is on the heap, to some kilobytes. tflite-runtime runs no int8 on XNNPACK."""
    if version == "tflite-runtime" and mode in ("int8", "dynamic", "stored"):
        pytest.skip("the built-in kernels of tflite-runtime are not what is looked at here")
    built = {name: build(mode) for name, build in NETS.items() if not (mode == "dynamic" and "depthwise" in name)}
    paths = [net.write(tmp_path / f"{index}.tflite") for index, net in enumerate(built.values())]
    for name, path, (loaded, ran) in zip(built, paths, measured(paths, version), strict=True):
        model = read_tflite(path)
        plan = plan_xnnpack(model, "x86-64", 1, version)
        assert len(plan.pieces) == 1, name
        rest = ran - plan.packed_bytes - plan.workspace_bytes - plan.heap_bytes - ends_bytes(model)
        if (mode, version) == ("float16", "tflite-runtime"):
            assert rest >= OBJECT_BYTES.start, (name, rest)  # it reserves, but does not touch, up to twice as much
        else:
            assert rest in OBJECT_BYTES, (name, rest)
        tables = plan.first_run_bytes - plan.workspace_bytes if version == "tflite-runtime" else 0
        assert abs(ran - loaded - tables) < 4096, name


def test_layers_that_share_a_kernel_hold_a_copy_each(tmp_path):
    net = Net(IMAGE)
    buffer = net.graph.buffer(np.ones((64, 3, 3, 64), np.float32))
    for _ in range(3):
        net.conv(64, 3, buffer=buffer)
    plan = plan_xnnpack(read_tflite(net.write(tmp_path / "net.tflite")), "x86-64", 1, "litert")
    (kernel,) = plan.kernels
    assert (kernel.buffer, kernel.layers, kernel.packed_copies, kernel.heap_copies) == (buffer, 3, 3, 0)
    assert kernel.packed_bytes == plan.packed_bytes == 3 * (64 * 9 * 64 * 4 + 64 * 4)


def test_a_kernel_stored_in_int8_and_computed_in_float_is_held_twice(tmp_path):
    plan = plan_xnnpack(read_tflite(NETS["3×3"]("stored").write(tmp_path / "n.tflite")), "x86-64", 1, "litert")
    sizes = [kernel.heap_bytes for kernel in plan.kernels]
    assert sizes == [64 * 9 * 128 * 4, 128 * 9 * 128 * 4, 128 * 9 * 64 * 4]
    assert all(kernel.packed_copies == kernel.heap_copies == 1 for kernel in plan.kernels)


@needs_glibc
@needs_avx512
@pytest.mark.parametrize(("mode", "packed"), [("float32", 16 * 64 * (81 * 4 + 4)), ("int8", 16 * 64 * (81 * 8 + 8))])
def test_a_large_depthwise_kernel_is_padded_to_a_tile_per_channel(mode, packed, tmp_path):
    """64 channels of 9×9: 21 kB in float32, 5 kB in int8; packed, 336 kB and 672 kB."""
    path = Net(IMAGE, mode).conv(64, 9, depthwise=True).write(tmp_path / "net.tflite")
    model = read_tflite(path)
    plan = plan_xnnpack(model, "x86-64", 1, "litert")
    assert plan.packed_bytes == packed
    rest = measured([path], "litert")[0][1] - packed - plan.heap_bytes - ends_bytes(model)
    assert rest in OBJECT_BYTES


def looped(path):
    """x → CONV_2D three times, in a WHILE."""
    net = Net(IMAGE)
    main, model = net.graph.graph, net.graph.model
    counts = [net.graph.constant(np.int32(number)) for number in (0, 1, 3)]
    body, condition = schema.SubGraphT(), schema.SubGraphT()
    kernel, scale = net.weights((64, 3, 3, 64))
    added = net.bias(scale)
    number, image, sooner = (net.graph.tensor(*of) for of in (((), np.int32), (IMAGE, np.float32), ((), np.bool_)))
    follow, made = net.graph.tensor((), np.int32), net.graph.tensor(IMAGE, np.float32)
    for graph, outputs in ((body, [follow, made]), (condition, [sooner])):
        graph.tensors, graph.operators = main.tensors, []
        graph.inputs, graph.outputs = [number, image], outputs
    net.graph.graph = body
    net.graph.op("ADD", [number, counts[1]], follow, 1)
    net.graph.conv([image, kernel, added], made)
    net.graph.graph = condition
    net.graph.op("LESS", [number, counts[2]], sooner, 1)
    net.graph.graph = main
    end, done = net.graph.tensor((), np.int32), net.graph.tensor(IMAGE, np.float32)
    net.graph.op("WHILE", [counts[0], net.x], end, 1)
    main.operators[0].outputs = [end, done]
    main.operators[0].builtinOptionsType = schema.BuiltinOptions.WhileOptions
    main.operators[0].builtinOptions = schema.WhileOptionsT(condSubgraphIndex=2, bodySubgraphIndex=1)
    model.subgraphs = [main, body, condition]
    return net.graph.write(path, done)


@needs_glibc
def test_the_body_of_a_loop_is_delegated_with_a_packed_copy_of_its_own(tmp_path):
    path = looped(tmp_path / "net.tflite")
    plan = plan_xnnpack(read_tflite(path), "x86-64", 1, "litert")
    assert plan.taken == {(1, 1)}
    assert plan.packed_bytes == 64 * 9 * 64 * 4 + 64 * 4
    assert measured([path], "litert")[0][0] > plan.packed_bytes


def test_a_dynamic_matrix_with_a_negative_scale_is_said_to_be_refused(tmp_path):
    net = Net((1, 16), "dynamic")
    kernel = net.graph.constant(np.ones((8, 16), np.int8), np.full(8, -0.1, np.float32))
    net.add("FULLY_CONNECTED", [net.x, kernel, net.bias(np.ones(8))], (1, 8))
    plan = plan_xnnpack(read_tflite(net.write(tmp_path / "net.tflite")), "x86-64", 1, "litert")
    assert plan.notes == ("FULLY_CONNECTED: a scale of its kernel is not positive; LiteRT refuses the file",)


def test_no_file_makes_it_raise(tmp_path):
    """Shapes and inputs that no runtime would open: 500 files, each with some of its numbers changed."""
    model = read_tflite(residual(pooled(padded(Net(IMAGE).conv(64, 1))).conv(64, 3)).write(tmp_path / "net.tflite"))
    rng = np.random.default_rng(0)
    graph = model.subgraphs[0]
    tensors = [(tensor, list(tensor.shape), tensor.type) for tensor in graph.tensors if not tensor.buffer]
    nodes = [(node, list(node.inputs), list(node.outputs)) for node in graph.operators]
    for _ in range(500):
        for tensor, shape, kind in tensors:
            tensor.shape = [int(rng.choice([-1, 0, 1, n, 2**31 - 1])) if rng.random() < 0.05 else n for n in shape]
            tensor.shape = tensor.shape[: rng.integers(5)] if rng.random() < 0.03 else tensor.shape
            tensor.type = int(rng.integers(18)) if rng.random() < 0.03 else kind
        for node, inputs, outputs in nodes:
            node.inputs = [int(rng.integers(-1, len(graph.tensors))) if rng.random() < 0.03 else n for n in inputs]
            node.inputs = node.inputs[: rng.integers(4)] if rng.random() < 0.03 else node.inputs
            node.outputs = [int(rng.integers(-1, len(graph.tensors))) if rng.random() < 0.03 else n for n in outputs]
        for version in ("litert", "tflite-runtime"):
            plan = plan_xnnpack(model, "arm64", 1, version)
            assert min(plan.packed_bytes, plan.workspace_bytes, plan.heap_bytes) >= 0
