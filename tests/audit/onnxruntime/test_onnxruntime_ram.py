"""RAM in ONNX Runtime: predicted from the file, held against what a fresh process measures."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import small_graphs as graphs
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeks.audit.onnxruntime.arena import Arena, Plan
from edgeks.audit.onnxruntime.ram import predict_onnxruntime
from edgeks.bench.memory import measure_ram
from edgeks.model_files.onnx_file import read_model_file
from edgeks.model_files.ort_file import read_ort
from edgeks.runtime_profile import PROFILES, Profile
from edgeks.target import Session, load_target

LAYERS = 6
MEGABYTE = 1e6
ONNX = {profile.name: profile for profile in PROFILES["onnx"]}
NAMES = list(ONNX)


def kernel(channels):
    return graphs.kernel(shape=(channels, channels, 3, 3))


def network(nodes, constants, channels, size):
    shape = [1, channels, size, size]
    return graphs.model(nodes, constants, 1, shape, input_shape=tuple(shape[1:]))


def fp32(channels=256, size=8, layers=LAYERS):
    """conv(W) → BN → Relu, one W."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [graphs.initializer("kernel", kernel(channels))], "x"
    for index in range(layers):
        names = [f"{which}{index}" for which in "gbmv"]
        constants += [graphs.initializer(n, rng.uniform(0.5, 2, channels).astype(np.float32)) for n in names]
        out = "y" if index == layers - 1 else f"r{index}"
        nodes += [
            helper.make_node("Conv", [value, "kernel"], [f"c{index}"], f"conv{index}", pads=[1] * 4),
            helper.make_node("BatchNormalization", [f"c{index}", *names], [f"n{index}"], f"bn{index}"),
            helper.make_node("Relu", [f"n{index}"], [out], f"relu{index}"),
        ]
        value = out
    return network(nodes, constants, channels, size)


def int8(channels=512, size=8, zero_point=0, form="qdq", weights=np.int8):
    """u8 activations, one kernel of codes, a scale per layer."""
    floats = kernel(channels)
    scale = np.abs(floats).max(axis=(1, 2, 3)) / np.float32(126)
    codes = (np.rint(floats / scale.reshape(-1, 1, 1, 1)) + zero_point).astype(weights)
    constants = [
        graphs.initializer("kernel", codes),
        graphs.initializer("s", np.float32(0.05)),
        graphs.initializer("z", np.uint8(0)),
        graphs.initializer("wz", np.full(channels, zero_point, weights)),
    ]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"], "quantise")]
    for index in range(LAYERS):
        constants.append(graphs.initializer(f"ws{index}", scale * np.float32(1 + index)))
        kernel_inputs, now, then = ["kernel", f"ws{index}", "wz"], f"q{index}", f"q{index + 1}"
        if form == "qoperator":
            inputs = [now, "s", "z", *kernel_inputs, "s", "z"]
            nodes.append(helper.make_node("QLinearConv", inputs, [then], f"conv{index}", pads=[1] * 4))
            continue
        nodes += [
            helper.make_node("DequantizeLinear", [now, "s", "z"], [f"d{index}"], f"dequantise{index}"),
            helper.make_node("DequantizeLinear", kernel_inputs, [f"w{index}"], f"weight{index}", axis=0),
            helper.make_node("Conv", [f"d{index}", f"w{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"),
            helper.make_node("QuantizeLinear", [f"r{index}", "s", "z"], [then], f"quantise{index}"),
        ]
    nodes.append(helper.make_node("DequantizeLinear", [f"q{LAYERS}", "s", "z"], ["y"], "dequantise"))
    return network(nodes, constants, channels, size)


def residual():
    """Stem, two blocks with residuals, Gelu, resized to twice the size: large activations, hardly any weights."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "k0"], ["a0"], "stem", pads=[1] * 4)]
    constants = [graphs.initializer("k0", rng.standard_normal((48, 16, 3, 3)).astype(np.float32) * 0.1)]
    for index in range(2):
        constants.append(graphs.initializer(f"k{index + 1}", kernel(48)))
        nodes += [
            helper.make_node("Conv", [f"a{index}", f"k{index + 1}"], [f"c{index}"], f"conv{index}", pads=[1] * 4),
            helper.make_node("Add", [f"c{index}", f"a{index}"], [f"s{index}"], f"add{index}"),
            helper.make_node("Relu", [f"s{index}"], [f"a{index + 1}"], f"relu{index}"),
        ]
    constants.append(graphs.initializer("scales", np.array([1, 1, 2, 2], np.float32)))
    nodes += [
        helper.make_node("Gelu", ["a2"], ["g"], "gelu"),
        helper.make_node("Resize", ["g", "", "scales"], ["u"], "resize", mode="nearest"),
        helper.make_node("GlobalAveragePool", ["u"], ["y"], "pool"),
    ]
    return graphs.model(nodes, constants, 1, [1, 48, 1, 1], input_shape=(16, 128, 128))


FILES = {
    "fp32": fp32,
    "fp32, 66 channels": lambda: fp32(66, 48),
    "fp32, large activations": lambda: fp32(64, 112),
    "QDQ": int8,
    "QDQ, zero point 1": lambda: int8(zero_point=1),
    "QDQ, u8 kernels": lambda: int8(zero_point=128, weights=np.uint8),
    "QDQ, large activations": lambda: int8(64, 112),
    "QOperator": lambda: int8(form="qoperator"),
    "residual": residual,
    "loop": graphs.loop,
    "tiny": graphs.fp32_shared,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name → file; each name is written once, in a folder of its own."""

    @cache
    def write(name) -> Path:
        return graphs.save(FILES[name](), tmp_path_factory.mktemp("net") / "net.onnx")

    return write


needs_avx512 = pytest.mark.skipif(
    "avx512f" not in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else True,
    reason="a block has 16 channels with AVX-512",
)


def narrow():
    """Conv, pool and depthwise Conv on 24 channels: one and a half blocks."""
    rng = np.random.default_rng(0)

    def conv(source, out, shape, groups=1):
        constants.append(graphs.initializer(f"k {out}", rng.standard_normal(shape).astype(np.float32) * 0.1))
        sides = {"group": groups, "pads": [shape[2] // 2] * 4}
        return helper.make_node("Conv", [source, f"k {out}"], [out], f"conv {out}", **sides)

    constants = []
    nodes = [
        conv("x", "a", (24, 3, 3, 3)),
        helper.make_node("MaxPool", ["a"], ["p"], "pool", kernel_shape=[3, 3], pads=[1] * 4),
        conv("p", "b", (24, 1, 3, 3), groups=24),
        conv("b", "c", (24, 24, 1, 1)),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], "mean"),
    ]
    return graphs.model(nodes, constants, 1, [1, 24, 1, 1], input_shape=(3, 224, 224))


def half():
    """Two float16 convolutions with large activations."""
    constants = [graphs.initializer(f"k{i}", kernel(64).astype(np.float16)) for i in range(2)]
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["a"], "conv0", pads=[1] * 4),
        helper.make_node("Conv", ["a", "k1"], ["b"], "conv1", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["b"], ["y"], "mean"),
    ]
    proto = graphs.model(nodes, constants, 1, [1, 64, 1, 1], input_shape=(64, 128, 128))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


def s8_residual():
    """q → Conv → q, added to what the Conv read: two ops read it. All s8, as ONNX Runtime's quantiser writes."""
    channels = 64
    constants = [
        graphs.initializer("s", np.float32(0.05)),
        graphs.initializer("z", np.int8(0)),
        graphs.initializer("codes", np.ones((channels, channels, 3, 3), np.int8)),
    ]
    nodes, now = [], "x"

    def quantised(source, out):
        nodes.append(helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{out} q"], f"q {out}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{out} q", "s", "z"], [out], f"dq {out}"))
        return out

    for index in range(2):
        now = quantised(now, f"in{index}")
        nodes.append(helper.make_node("DequantizeLinear", ["codes", "s", "z"], [f"k{index}"], f"kernel{index}"))
        nodes.append(helper.make_node("Conv", [now, f"k{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4))
        added = quantised(f"c{index}", f"out{index}")
        nodes.append(helper.make_node("Add", [added, now], [f"sum{index}"], f"add{index}"))
        now = f"sum{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [now], ["y"], "mean"))
    return graphs.model(nodes, constants, 1, [1, channels, 1, 1], input_shape=(channels, 96, 96))


def upsampled():
    """Resize to a size that the graph computes, as torch's legacy exporter writes interpolation."""
    constants = [
        graphs.initializer("k", kernel(32)),
        *(graphs.initializer(name, np.array([n], np.int64)) for name, n in (("zero", 0), ("two", 2))),
        graphs.initializer("size", np.array([192, 192], np.int64)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], "conv", pads=[1] * 4),
        helper.make_node("Shape", ["a"], ["shape"], "shape"),
        helper.make_node("Slice", ["shape", "zero", "two", "zero"], ["outer"], "slice"),
        helper.make_node("Concat", ["outer", "size"], ["sizes"], "concat", axis=0),
        helper.make_node("Resize", ["a", "", "", "sizes"], ["u"], "resize", mode="linear"),
        helper.make_node("GlobalAveragePool", ["u"], ["y"], "mean"),
    ]
    return graphs.model(nodes, constants, 1, [1, 32, 1, 1], input_shape=(32, 96, 96))


def require_run_peak(proto, path, profile="ort-default"):
    measured = measure_ram(graphs.save(proto, path), ONNX[profile])
    prediction = predicted(path, profile)
    require_near(prediction.run_peak.total_bytes, measured.run_peak_bytes)
    return prediction


@needs_avx512
@pytest.mark.parametrize("profile", NAMES)
def test_channels_are_rounded_up_to_blocks(tmp_path, profile):
    require_run_peak(narrow(), tmp_path / "net.onnx", profile)


def test_float16_is_computed_as_float32(tmp_path):
    prediction = require_run_peak(half(), tmp_path / "net.onnx")
    assert [row.copy_bytes for row in prediction.kernels] == [64 * 64 * 9 * 4] * 2


def test_s8_activations_that_two_read_stay_float(tmp_path):
    prediction = require_run_peak(s8_residual(), tmp_path / "net.onnx")
    assert prediction.run_peak.packed_bytes == 0  # neither convolution runs on codes
    on_arm = predicted(tmp_path / "net.onnx", machine="arm64")
    assert on_arm.run_peak.packed_bytes > 0


def test_an_integer_average_pool_takes_a_float_copy(tmp_path):
    constants = [graphs.initializer("s", np.float32(0.05)), graphs.initializer("z", np.uint8(128))]
    kinds = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantise"),
        helper.make_node("AveragePool", ["d"], ["p"], "pool", **kinds),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["pq"], "quantise2"),
        helper.make_node("DequantizeLinear", ["pq", "s", "z"], ["pd"], "dequantise2"),
        helper.make_node("GlobalAveragePool", ["pd"], ["y"], "mean"),
    ]
    proto = graphs.model(nodes, constants, 1, [1, 64, 1, 1], input_shape=(64, 224, 224))
    require_run_peak(proto, tmp_path / "net.onnx")


def test_sizes_that_the_graph_computes_are_known(tmp_path):
    require_run_peak(upsampled(), tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["fp32, large activations", "QDQ, large activations"])
def test_an_ort_file_runs_as_it_was_saved(files, tmp_path, name):
    path, options = tmp_path / "net.ort", onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(files(name)), options, providers=["CPUExecutionProvider"])
    for profile in ("ort-default", "ort-unfolded"):
        prediction = predict_onnxruntime(read_ort(path), ONNX[profile].session, profile, "x86-64")
        measured = measure_ram(path, ONNX[profile])
        require_near(prediction.run_peak.total_bytes, measured.run_peak_bytes)
        expected, found = prediction.load_peak_bytes, measured.load_peak_bytes
        assert abs(expected - found) <= max(MEGABYTE, 0.15 * found)


def predicted(path, profile="ort-default", machine="x86-64"):
    return predict_onnxruntime(read_model_file(path), ONNX[profile].session, profile, machine)


def require_near(expected, measured):
    assert abs(expected - measured) <= max(MEGABYTE, 0.1 * measured), f"{expected / 1e6:.2f} for {measured / 1e6:.2f}"


@pytest.mark.parametrize("profile", NAMES)
@pytest.mark.parametrize("name", FILES)
def test_peak_is_within_a_tenth_or_a_megabyte(files, name, profile):
    prediction = predicted(files(name), profile)
    measured = measure_ram(files(name), ONNX[profile])
    require_near(prediction.run_peak.total_bytes, measured.run_peak_bytes)
    require_near(prediction.loaded.total_bytes, measured.loaded_bytes)
    require_near(prediction.run_peak.mapped_bytes, measured.run_mapped_bytes)
    require_near(prediction.baseline_bytes, measured.baseline_bytes)


@pytest.mark.parametrize("profile", NAMES)
def test_kernels_in_external_data_are_copied_too(tmp_path, profile):
    path = tmp_path / "net.onnx"
    onnx.save(fp32(), path, save_as_external_data=True, location="net.bin", size_threshold=1024)
    measured = measure_ram(path, ONNX[profile])
    require_near(predicted(path, profile).run_peak.total_bytes, measured.run_peak_bytes)


@pytest.mark.parametrize("name", ["fp32, large activations", "QDQ, large activations", "residual"])
def test_without_an_arena_activations_go_and_the_peak_is_a_lower_bound(files, name):
    session = replace(load_target("onnx").session, arena=False)
    prediction = predict_onnxruntime(read_model_file(files(name)), session, "no arena", "x86-64")
    measured = measure_ram(files(name), Profile("no arena", "", "onnxruntime", session))
    parts = prediction.run_peak
    assert any("the peak is a lower bound" in note for note in prediction.notes)
    assert parts.total_bytes - MEGABYTE <= measured.run_peak_bytes  # at times by several arenas
    require_near(parts.total_bytes - parts.arena_bytes, measured.run_bytes)


def test_the_targets_session_holds_one_kernel_and_one_block_of_activations(tmp_path):
    """Twelve layers that read one kernel of 9.44 MB, on 8×8."""
    path = graphs.save(fp32(512, 8, 12), tmp_path / "net.onnx")
    measured = measure_ram(path, Profile("onnx", "", "onnxruntime", load_target("onnx").session))
    kernel_bytes = 512 * 512 * 9 * 4
    assert measured.run_anonymous_bytes <= 1.5 * kernel_bytes, measured  # how much more depends on the machine's heap
    assert measured.run_anonymous_bytes - measured.loaded_anonymous_bytes <= 3 * MEGABYTE


def test_default_holds_a_copy_per_layer_and_unfolded_one(files):
    kernel_bytes = 256 * 256 * 9 * 4
    default, unfolded = (predicted(files("fp32"), name) for name in ("ort-default", "ort-unfolded"))
    (row,) = (row for row in default.kernels if row.kernel == "kernel")
    assert (row.layers, row.copies, row.copy_bytes) == (LAYERS, LAYERS, kernel_bytes)
    (row,) = (row for row in unfolded.kernels if row.kernel == "kernel")
    assert (row.layers, row.copies, row.copy_bytes) == (LAYERS, 1, kernel_bytes)
    measured = [measure_ram(files("fp32"), ONNX[name]) for name in ("ort-default", "ort-unfolded")]
    saved = measured[0].run_anonymous_bytes - measured[1].run_anonymous_bytes
    require_near((LAYERS - 1) * kernel_bytes, saved)


@pytest.mark.parametrize(
    ("name", "profile", "copies"),
    [
        ("QDQ", "ort-default", LAYERS),
        ("QDQ, zero point 1", "ort-default", 1),
        ("QDQ, u8 kernels", "ort-default", 1),
        ("QOperator", "ort-default", LAYERS),
        ("QDQ", "ort-no-prepacking", 1),
    ],
)
def test_a_kernel_with_zero_point_0_is_packed_for_every_node(files, name, profile, copies):
    prediction = predicted(files(name), profile)
    (row,) = (row for row in prediction.kernels if row.kernel == "kernel")
    assert row.copies == copies
    parts, measured = prediction.loaded, measure_ram(files(name), ONNX[profile])
    code = 7.9 * MEGABYTE  # of the runtime itself, mapped from its own file
    anonymous = parts.total_bytes - parts.mapped_bytes - code
    require_near(anonymous, measured.loaded_anonymous_bytes)


def test_on_arm64_no_kernel_is_laid_out_in_blocks(files):
    default = predicted(files("fp32"), machine="arm64")
    assert [row.copies for row in default.kernels] == [LAYERS]  # BN folds there as well
    assert [row.copies for row in predicted(files("fp32"), "ort-unfolded", "arm64").kernels] == [1]
    arm, x86 = (predicted(files("fp32, 66 channels"), machine=machine) for machine in ("arm64", "x86-64"))
    parts = [(found.run_peak.heap_bytes, found.run_peak.arena_bytes) for found in (arm, x86)]
    assert parts[0] == parts[1]  # 66 channels fit no blocks
    assert arm.run_peak.library_bytes < x86.run_peak.library_bytes


def test_levels_that_fold_nothing(files):
    model = read_model_file(files("fp32"))
    for level, copies in (("disabled", 1), ("basic", LAYERS)):
        prediction = predict_onnxruntime(model, Session(1, level, ()), level, "x86-64")
        assert [row.copies for row in prediction.kernels] == [copies]


def test_a_size_that_the_file_does_not_say_is_no_prediction(tmp_path):
    nodes = [
        helper.make_node("Mystery", ["x"], ["m"], "mystery", domain="nobody"),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    proto = graphs.model(nodes, [], 1, [1, 8, 6, 6])
    proto.opset_import.append(helper.make_opsetid("nobody", 1))
    assert predicted(graphs.save(proto, tmp_path / "net.onnx")) is None


def test_strange_graphs_do_not_raise(tmp_path):
    half = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])
    empty = graphs.model([], [], 1, [1, 8, 6, 6])
    empty.graph.output[0].name = "x"
    conv_of_a_vector = graphs.model(
        [helper.make_node("Conv", ["x", "k"], ["y"], "conv")], [graphs.initializer("k", np.zeros(8, np.float32))]
    )
    conv_of_a_vector.graph.output[0].CopyFrom(half)
    for number, proto in enumerate((empty, conv_of_a_vector)):
        predicted(graphs.save(proto, tmp_path / f"{number}.onnx"))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5_000_000)), max_size=40))
def test_arena_chunks_do_not_overlap(requests):
    arena, held = Arena(), []
    for keep, size in requests:
        address = arena.allocate(size)
        assert all(address + size <= other or other + length <= address for other, length in held)
        held.append((address, size))
        if not keep:
            arena.free(held.pop(0)[0])
    assert arena.touched_bytes() >= sum(size for _, size in held)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5_000_000)), max_size=40))
def test_planned_tensors_are_in_the_block(requests):
    plan, held, most = Plan(), [], 0
    for number, (keep, size) in enumerate(requests):
        plan.allocate(str(number), size)
        held.append((str(number), size))
        most = max(most, sum(length for _, length in held))
        if not keep:
            plan.free(held.pop(0)[0])
    assert plan.size >= most


def after_each_layer(op, shape, channels=256, size=8):
    """conv(W) → op with a constant → Relu, one W."""
    nodes, constants, value = [], [graphs.initializer("kernel", kernel(channels))], "x"
    for index in range(LAYERS):
        constants.append(graphs.initializer(f"c{index}", np.full(shape, 1 + index, np.float32)))
        out = "y" if index == LAYERS - 1 else f"r{index}"
        nodes += [
            helper.make_node("Conv", [value, "kernel"], [f"a{index}"], f"conv{index}", pads=[1] * 4),
            helper.make_node(op, [f"a{index}", f"c{index}"], [f"b{index}"], f"op{index}"),
            helper.make_node("Relu", [f"b{index}"], [out], f"relu{index}"),
        ]
        value = out
    return network(nodes, constants, channels, size)


@pytest.mark.parametrize(
    ("op", "shape", "copies"),
    [
        ("Mul", (256, 1, 1), LAYERS),
        ("Mul", (1, 256, 1, 1), LAYERS),
        ("Mul", (), LAYERS),
        ("Mul", (1, 256, 8, 8), 1),
        ("Add", (256, 1, 1), 1),  # into the bias
        ("Add", (1, 256, 8, 8), 1),
    ],
)
def test_only_a_factor_per_channel_makes_a_kernel_of_a_layer_s_own(tmp_path, op, shape, copies):
    path = graphs.save(after_each_layer(op, shape), tmp_path / "net.onnx")
    prediction = predicted(path)
    assert [row.copies for row in prediction.kernels] == [copies]
    require_near(prediction.run_peak.total_bytes, measure_ram(path, ONNX["ort-default"]).run_peak_bytes)


def test_nodes_and_kernels_of_one_name_in_two_bodies_are_different(tmp_path):
    branches = {}
    for name, seed in (("then_branch", 1), ("else_branch", 2)):
        conv = helper.make_node("Conv", ["x", "w"], ["inner"], "conv", pads=[1] * 4)
        norm = helper.make_node("Mul", ["inner", "factor"], ["outer"], "mul")
        weights = graphs.kernel(seed, (16, 16, 3, 3))
        constants = [graphs.initializer("w", weights), graphs.initializer("factor", np.full((16, 1, 1), 2, np.float32))]
        output = helper.make_tensor_value_info("outer", TensorProto.FLOAT, [1, 16, 6, 6])
        branches[name] = helper.make_graph([conv, norm], name, [], [output], constants)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], "most", keepdims=0),
        helper.make_node("Cast", ["most"], ["yes"], "cast", to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["y"], "if", **branches),
    ]
    path = graphs.save(graphs.model(nodes, [], 1, [1, 16, 6, 6]), tmp_path / "net.onnx")
    graphs.check_runs(path)
    rows = [(row.kernel, row.layers, row.copies, row.copy_bytes) for row in predicted(path).kernels]
    assert rows == [("w", 1, 1, 16 * 16 * 9 * 4)] * 2


def tightest_gap(live, top, size):
    """Where ONNX Runtime's planner puts a block: it looks at every gap between those that live, and behind the last."""
    ends = [0, *(start + held for start, held in sorted(live))]
    gaps = zip(ends, [*(start for start, _ in sorted(live)), top], strict=True)
    fitting = [(stop - start, start) for start, stop in gaps if stop - start >= size]
    return min(fitting)[1] if fitting else ends[-1]


@given(sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=40))
def test_the_plan_takes_the_tightest_gap(sizes):
    plan, live, top = Plan(), {}, 0
    for index, (blocks, ending) in enumerate(sizes):
        size = 64 * blocks
        plan.allocate(str(index), size)
        if size:  # what has no bytes lies nowhere
            live[index] = tightest_gap(live.values(), top, size), size
            top = max(top, sum(live[index]))
        assert plan.size == top
        for name in list(live)[:1] if ending == 0 else []:
            plan.free(str(name))
            del live[name]
