"""What the XNNPACK delegate takes of a file, predicted, against LiteRT and tflite-runtime that open it."""

import json
import subprocess

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_graph import OPTIONS, TfliteGraph
from tflite_runtime_env import PYTHON, needs_tflite_runtime

from edgeks.audit.xnnpack.graph import read_graph
from edgeks.audit.xnnpack.partition import delegate
from edgeks.formats.tflite.delegation import partition
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.model_files.tflite_file import read_tflite
from edgeks.target import LiteRtSession

MAPS, SIDE = (1, 8, 8, 16), schema.Padding.SAME
TABLES = {
    "MUL": "Mul", "SUB": "Sub", "DIV": "Div", "AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D", "MEAN": "Reducer",
    "SUM": "Reducer", "SOFTMAX": "Softmax", "SPLIT": "Split", "CONCATENATION": "Concatenation", "GELU": "Gelu",
    "STRIDED_SLICE": "StridedSlice", "LEAKY_RELU": "LeakyRelu", "SPACE_TO_DEPTH": "SpaceToDepth", "SLICE": "Slice",
    "BATCH_MATMUL": "BatchMatMul", "RESHAPE": "Reshape", "RESIZE_BILINEAR": "ResizeBilinear", "PAD": "Pad",
    "TRANSPOSE_CONV": "TransposeConv",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _options(monkeypatch):
    for name, table in TABLES.items():
        monkeypatch.setitem(OPTIONS, name, getattr(schema, f"{table}OptionsT"))


def whole(*numbers):
    return np.array(numbers, np.int32)


POOL = {"strideH": 2, "strideW": 2, "filterHeight": 2, "filterWidth": 2}
# Operator, shape of its output, constants behind its input, options.
FORMS = {
    **{name: (name, MAPS, (), {}) for name in ("ABS", "RELU", "HARD_SWISH", "LOGISTIC", "TANH", "ELU", "NEG", "RSQRT")},
    "GELU": ("GELU", MAPS, (), {}),
    "leaky": ("LEAKY_RELU", MAPS, (), {"alpha": 0.1}),
    "softmax": ("SOFTMAX", MAPS, (), {"beta": 1.0}),
    "softmax of another beta": ("SOFTMAX", MAPS, (), {"beta": 2.0}),
    **{name: (name, MAPS, ("own",), {}) for name in ("ADD", "MUL", "DIV", "MAXIMUM")},
    "ADD with TANH": ("ADD", MAPS, ("own",), {"fusedActivationFunction": 4}),
    "average": ("AVERAGE_POOL_2D", (1, 4, 4, 16), (), POOL),
    "maximum": ("MAX_POOL_2D", (1, 4, 4, 16), (), POOL),
    "pool that skips": ("MAX_POOL_2D", (1, 4, 4, 16), (), {**POOL, "filterHeight": 1, "filterWidth": 1}),
    "mean": ("MEAN", (1, 16), (whole(1, 2),), {}),
    "mean from the end": ("MEAN", (1, 16), (whole(-3, -2),), {}),
    "mean over channels": ("MEAN", (1, 8, 8), (whole(3),), {}),
    "sum": ("SUM", (1, 16), (whole(1, 2),), {}),
    "pad": ("PAD", (1, 10, 10, 16), (whole(0, 0, 1, 1, 1, 1, 0, 0).reshape(4, 2),), {}),
    "reshape": ("RESHAPE", (1, 64, 16), (whole(1, 64, 16),), {}),
    "resize": ("RESIZE_BILINEAR", (1, 16, 16, 16), (whole(16, 16),), {}),
    "slice": ("SLICE", (1, 4, 4, 16), (whole(0, 1, 1, 0), whole(1, 4, 4, 16)), {}),
    "slice to the end": ("SLICE", (1, 4, 4, 16), (whole(0, 4, 4, 0), whole(1, -1, -1, 16)), {}),
    "strided slice": ("STRIDED_SLICE", (1, 4, 4, 16), (whole(0, 1, 1, 0), whole(1, 5, 5, 16), whole(1, 1, 1, 1)), {}),
    "steps of two": ("STRIDED_SLICE", (1, 4, 4, 16), (whole(0, 0, 0, 0), whole(1, 8, 8, 16), whole(1, 2, 2, 1)), {}),
    "concat": ("CONCATENATION", (1, 8, 8, 32), ("own",), {"axis": 3}),
    "transpose": ("TRANSPOSE", (1, 16, 8, 8), (whole(0, 3, 1, 2),), {}),
    "blocks": ("SPACE_TO_DEPTH", (1, 4, 4, 64), (), {"blockSize": 2}),
    "squeeze": ("SQUEEZE", (8, 8, 16), (), {}),
    "kernel of a matrix": ("FULLY_CONNECTED", (1, 8), ("matrix",), {}),
}  # fmt: skip
KINDS = {"float32": (np.float32, None), "int8": (np.int8, 0.05), "uint8": (np.uint8, 0.05)}


def form(path, name, kind):
    op, shape, constants, options = FORMS[name]
    dtype, scale = KINDS[kind]
    own = {"own": np.ones(MAPS), "matrix": np.ones((8, 1024))}
    graph = TfliteGraph()
    inputs = [graph.input(MAPS, dtype, scale)]
    for content in constants:
        is_number = isinstance(content, str)
        array = own[content].astype(dtype) if is_number else content
        inputs.append(graph.constant(array, scale if is_number else None))
    made = {"LOGISTIC": 1 / 256, "TANH": 1 / 128, "SOFTMAX": 1 / 256}.get(op, scale) if scale else None
    codes_of_one = (
        -128 if kind == "int8" and op in ("LOGISTIC", "SOFTMAX") else 128 if kind == "uint8" and op == "TANH" else 0
    )
    return graph.write(path, graph.op(op, inputs, graph.tensor(shape, dtype, made, codes_of_one), 1, **options))


def predicted(path, version):
    found = delegate(read_graph(read_tflite(path), 0, version))
    return len(found.pieces), sorted(found.graph.nodes[index].name for index in found.taken)


def taken_by_litert(path):
    try:
        pieces, taken, _ = partition(open_interpreter(path, LiteRtSession()))
    except Exception:  # LiteRT has no kernel for this type
        return None
    return pieces, sorted(name for name, count in taken.items() for _ in range(count))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMS)
def test_the_delegate_takes_what_it_is_said_to_take(name, kind, tmp_path):
    path = form(tmp_path / "net.tflite", name, kind)
    found = taken_by_litert(path)
    if found is None:
        pytest.skip("LiteRT does not open it")
    assert predicted(path, "litert") == found


NODES = """
import json, sys
from tflite_runtime.interpreter import Interpreter
found = []
for path in sys.argv[1:]:
    try:
        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        found.append(sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details()))
    except Exception:
        found.append(None)
print(json.dumps(found))
"""


@needs_tflite_runtime
def test_tflite_runtime_gives_its_delegate_float_operators_only(tmp_path):
    cases = [(name, kind) for name in FORMS for kind in KINDS]
    paths = [form(tmp_path / f"{index}.tflite", *case) for index, case in enumerate(cases)]
    done = subprocess.run([PYTHON, "-c", NODES, *paths], capture_output=True, text=True, check=True)
    for case, path, pieces in zip(cases, paths, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert pieces is None or (case, predicted(path, "tflite-runtime")[0]) == (case, pieces)


CONVOLVED = (1, 8, 8, 8)


def convolved(graph, x, mode, op="CONV_2D", sign=1, bias=True):
    """One more layer behind tensor `x`; `mode`: float32, int8, dynamic, float16 or stored (int8, then DEQUANTIZE)."""
    shape, axis = ((1, 3, 3, 8), 3) if op == "DEPTHWISE_CONV_2D" else ((8, 3, 3, 8), 0)
    codes = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
    scale = np.full(8, 0.01, np.float32) * sign
    dtype, step = (np.int8, 0.05) if mode == "int8" else (np.float32, None)
    if mode in ("int8", "dynamic"):
        kernel = graph.constant(codes, scale, axis)
    elif mode == "float32":
        kernel = graph.constant(codes.astype(np.float32))
    else:
        held = graph.constant(codes, scale, axis) if mode == "stored" else graph.constant(codes.astype(np.float16))
        kernel = graph.op("DEQUANTIZE", [held], graph.tensor(shape, np.float32), 3)
    added = graph.constant(np.ones(8, np.int32), scale * np.float32(0.05)) if mode == "int8" else None
    if added is None:
        added = graph.constant(np.ones(8, np.float32))
    return graph.conv([x, kernel, added if bias else -1], graph.tensor(CONVOLVED, dtype, step), op)


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("mode", ["float32", "int8", "dynamic", "float16", "stored"])
@pytest.mark.parametrize("sign", [1, -1])
def test_convolutions_of_every_precision(mode, op, sign, tmp_path):
    """A negative scale is left to the built-in kernels, a depthwise kernel of int8 on floats too."""
    graph = TfliteGraph()
    x = graph.input(CONVOLVED, *((np.int8, 0.05) if mode == "int8" else (np.float32,)))
    path = graph.write(tmp_path / "net.tflite", convolved(graph, x, mode, op, sign))
    assert predicted(path, "litert") == taken_by_litert(path)


def test_an_operator_that_is_left_cuts_the_graph_where_others_wait_for_it(tmp_path):
    """Two branches, an int8 RELU on one of them: what needs it not runs ahead of it, in one piece."""
    graph = TfliteGraph()
    x = graph.input(CONVOLVED, np.int8, 0.05)
    one = convolved(graph, x, "int8")
    left = graph.op("RELU", [one], graph.tensor(CONVOLVED, np.int8, 0.05), 1)
    other = convolved(graph, convolved(graph, x, "int8"), "int8")
    both = graph.op("ADD", [left, other], graph.tensor(CONVOLVED, np.int8, 0.05), 1)
    path = graph.write(tmp_path / "net.tflite", both)
    assert predicted(path, "litert") == taken_by_litert(path)
    assert predicted(path, "litert")[0] == 2
