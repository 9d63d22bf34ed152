"""RAM of a Loop whose body reads a kernel of the graph around it: predicted, and measured in a fresh process."""

from functools import cache

import numpy as np
import pytest
import small_graphs as graphs
from onnx import TensorProto, helper

from edgeks.audit.onnxruntime.ram import predict_onnxruntime
from edgeks.bench.memory import measure_ram
from edgeks.model_files.onnx_file import read_model_file
from edgeks.runtime_profile import PROFILES

MEGABYTE = 1e6
TRIPS, SIZE = 6, 8
ONNX = {profile.name: profile for profile in PROFILES["onnx"]}


def network(body, constants, channels, kind, first=None):
    """x → (to u8 codes) → (first) → Loop → y; the body makes "next" of "state", and "trip" counts."""
    info, shape = helper.make_tensor_value_info, [1, channels, SIZE, SIZE]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"], "go"), *body],
        "body",
        [info("trip", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("state", kind, shape)],
        [info("go_on", TensorProto.BOOL, []), info("next", kind, shape)],
    )
    codes = kind == TensorProto.UINT8
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise")] if codes else []
    nodes += [first] if first else []
    state = first.output[0] if first else "q" if codes else "x"
    nodes.append(helper.make_node("Loop", ["trips", "", state], ["last" if codes else "y"], "loop", body=graph))
    nodes += [helper.make_node("DequantizeLinear", ["last", "s", "z"], ["y"], "dequantise")] if codes else []
    constants = [*constants, graphs.initializer("trips", np.int64(TRIPS))]
    return graphs.model(nodes, constants, 1, shape, input_shape=tuple(shape[1:]))


def integers(*, gathered="scale", outside=False, channels=512):
    """QLinearConv with zero point 0; the body gathers its "scale", and its "bias" or the "zero point" of its input."""
    floats = graphs.kernel(shape=(channels, channels, 3, 3))
    scale = np.abs(floats).max(axis=(1, 2, 3)) / np.float32(127)
    constants = {
        "kernel": np.rint(floats / scale.reshape(-1, 1, 1, 1)).astype(np.int8),
        "s": np.float32(0.05),
        "z": np.uint8(0),
        "wz": np.int8(0),
        "ws": scale,
        "scales": np.stack([scale * np.float32(1 + trip) for trip in range(TRIPS)]),
        "biases": np.ones((TRIPS, channels), np.int32),
        "zs": np.zeros(TRIPS, np.uint8),
    }
    body = [helper.make_node("Gather", ["scales", "trip"], ["scale"], "gather scale", axis=0)]
    inputs = ["state", "s", "z", "kernel", "scale", "wz", "s", "z"]
    if gathered == "bias":
        body.append(helper.make_node("Gather", ["biases", "trip"], ["bias"], "gather bias", axis=0))
        inputs.append("bias")
    if gathered == "zero point":
        body.append(helper.make_node("Gather", ["zs", "trip"], ["zero point"], "gather zero point", axis=0))
        inputs[2] = "zero point"
    body.append(helper.make_node("QLinearConv", inputs, ["next"], "conv", pads=[1] * 4))
    first = ["q", "s", "z", "kernel", "ws", "wz", "s", "z"]
    return network(
        body,
        [graphs.initializer(name, values) for name, values in constants.items()],
        channels,
        TensorProto.UINT8,
        helper.make_node("QLinearConv", first, ["q1"], "first", pads=[1] * 4) if outside else None,
    )


def floats(*, norm="gathered", outside=False, channels=256):
    """Conv → BatchNormalization → Relu; the norm's four constants are gathered, or the same in all trips."""
    rng = np.random.default_rng(0)
    constants = [graphs.initializer("kernel", graphs.kernel(shape=(channels, channels, 3, 3)))]
    body = [helper.make_node("Conv", ["state", "kernel"], ["c"], "conv", pads=[1] * 4)]
    shape = (TRIPS, channels) if norm == "gathered" else (channels,)
    names = ["gamma", "beta", "mean", "variance"]
    constants += [graphs.initializer(name, rng.uniform(0.5, 2, shape).astype(np.float32)) for name in names]
    if norm == "gathered":
        body += [helper.make_node("Gather", [name, "trip"], [f"one {name}"], f"gather {name}") for name in names]
        names = [f"one {name}" for name in names]
    body += [
        helper.make_node("BatchNormalization", ["c", *names], ["n"], "norm"),
        helper.make_node("Relu", ["n"], ["next"], "relu"),
    ]
    first = helper.make_node("Conv", ["x", "kernel"], ["f"], "first", pads=[1] * 4) if outside else None
    return network(body, constants, channels, TensorProto.FLOAT, first)


def pooled():
    """An average pool in integers, which takes a float copy of its input."""
    channels, size = 64, 96
    constants = [graphs.initializer("s", np.float32(0.05)), graphs.initializer("z", np.uint8(0))]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise")]
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantise"))
    nodes.append(helper.make_node("AveragePool", ["d"], ["p"], "pool", kernel_shape=[4, 4], strides=[4, 4]))
    nodes.append(helper.make_node("QuantizeLinear", ["p", "s", "z"], ["pq"], "quantise2"))
    nodes.append(helper.make_node("DequantizeLinear", ["pq", "s", "z"], ["y"], "dequantise2"))
    return graphs.model(nodes, constants, 1, [1, channels, size // 4, size // 4], input_shape=(channels, size, size))


# name → the file, and the copies of its kernel under ort-default on x86-64
FILES = {
    "codes, scale gathered": (integers, 1),
    "codes, bias gathered": (lambda: integers(gathered="bias"), 1),
    "codes, zero point gathered": (lambda: integers(gathered="zero point"), 1),
    "codes, read outside as well": (lambda: integers(outside=True), 2),
    "codes, bias gathered, read outside as well": (lambda: integers(gathered="bias", outside=True), 2),
    "float, norm gathered": (floats, 1),
    "float, norm constant": (lambda: floats(norm="constant"), 1),
    "float, read outside as well": (lambda: floats(outside=True), 2),
    "pool": (pooled, 0),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name → file; each is written once."""

    @cache
    def write(name):
        return graphs.save(FILES[name][0](), tmp_path_factory.mktemp("net") / "net.onnx")

    return write


def predicted(path, profile="ort-default", machine="x86-64"):
    return predict_onnxruntime(read_model_file(path), ONNX[profile].session, profile, machine)


def require_near(expected, measured, ratio=0.1):
    assert abs(expected - measured) <= max(MEGABYTE, ratio * measured), f"{expected / 1e6:.2f}, {measured / 1e6:.2f}"


# Without prepacking ONNX Runtime reserves one block that it never writes; whether the C library hands it memory that
# was in use before is left to chance where a kernel in blocks and its original both stay.
LEFT_TO_CHANCE = ("float, read outside as well", "ort-no-prepacking")
PAIRS = [(name, profile) for name in FILES for profile in ("ort-default", "ort-no-prepacking")]


@pytest.mark.parametrize(("name", "profile"), [pair for pair in PAIRS if pair != LEFT_TO_CHANCE])
def test_ram_of_a_loop_is_as_measured(files, name, profile):
    prediction, measured = predicted(files(name), profile), measure_ram(files(name), ONNX[profile])
    require_near(prediction.run_peak.total_bytes, measured.run_peak_bytes)
    require_near(prediction.loaded.total_bytes, measured.loaded_bytes)
    require_near(prediction.load_peak_bytes, measured.load_peak_bytes, 0.2)


@pytest.mark.parametrize("name", FILES)
def test_copies_that_a_loop_s_trips_read(files, name):
    expected = FILES[name][1]
    rows = predicted(files(name)).kernels
    assert sum(row.copies for row in rows) == expected
    outside = "outside" in name
    assert sum(row.layers for row in rows) == (TRIPS + outside if expected else 0)


def test_what_a_body_gathers_keeps_a_kernel_from_being_packed_for_that_node(files):
    for name, own in (("codes, scale gathered", True), ("codes, bias gathered", False)):
        path = files(name)
        temporary = predicted(path).load_peak_bytes - predicted(path, "ort-no-prepacking").load_peak_bytes
        assert (temporary > 2 * MEGABYTE) != own  # the kernel with its output channels last, while it is packed
    measured = [measure_ram(files(name), ONNX["ort-default"]).load_peak_bytes for name in list(FILES)[:2]]
    require_near(512 * 512 * 9, measured[1] - measured[0])


def test_float_kernels_of_the_graph_around_stay_out_of_blocks(files):
    loop, plain = (predicted(files("float, norm gathered"), machine=machine) for machine in ("x86-64", "arm64"))
    assert loop.run_peak.heap_bytes == plain.run_peak.heap_bytes
    outside = predicted(files("float, read outside as well"))
    assert outside.run_peak.heap_bytes - loop.run_peak.heap_bytes == 256 * 256 * 9 * 4  # one in blocks beside it
