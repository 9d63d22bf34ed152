"""RAM of .tflite files as predicted, held against what a fresh process takes."""

import contextlib
import random

import numpy as np
import pytest
import rolled_graphs
from test_tflite_arena import FLOAT32, INT8, INT32, SAME, Graph, rolled
from tflite_runtime_env import PYTHON, needs_tflite_runtime

from edgeks.audit.tflite.gemm import products, ruy_block
from edgeks.audit.tflite.ram import predict_litert
from edgeks.audit.tflite.tensors import read_graphs
from edgeks.bench.local import LocalMachine
from edgeks.bench.memory import measure_ram
from edgeks.errors import ModelFileError
from edgeks.formats.tflite.lower import lower
from edgeks.model_files.tflite_file import read_tflite
from edgeks.runtime_profile import PROFILES

PROFILE = {profile.name: profile for profile in PROFILES["tflite"]}
LITERT = ("litert-xnnpack", "litert-builtin", "litert-reference")
MB = 1_000_000


def chain(path, kind, layers=4, channels=256, side=8, shared=False):
    """3×3 convolutions, `kind` float, static or dynamic (int8); `shared`: all read one kernel."""
    graph = Graph()
    rng = np.random.default_rng(0)
    shape = (1, side, side, channels)
    static = kind == "static"
    maps = {"kind": INT8, "scales": [0.1]} if static else {"kind": FLOAT32}
    x = first = graph.tensor("x", shape, **maps)
    kernel = None
    for layer in range(layers):
        scales = np.linspace(0.001, 0.002, channels) * (layer + 1)
        if kernel is None or not shared:
            codes = rng.integers(-99, 99, (channels, 3, 3, channels)).astype(np.int8)
            kernel = (
                graph.constant((codes / 1000).astype(np.float32), FLOAT32)
                if kind == "float"
                else graph.constant(codes, INT8, scales)
            )
        bias = graph.constant(np.zeros(channels, np.int32 if static else np.float32), INT32 if static else FLOAT32)
        if static:
            graph.graph.tensors[bias].quantization = graph.graph.tensors[kernel].quantization
        y = graph.tensor(f"y{layer}", shape, **maps)
        x = graph.node("CONV_2D", [x, kernel, bias], [y], padding=SAME, strideH=1, strideW=1)
    return graph.write(path, [first], [x])


def predicted(path, profile, machine="x86-64"):
    return predict_litert(read_tflite(path), path.stat().st_size, PROFILE[profile], machine)


def assert_as_measured(path, profile, python=None):
    """The issue's bound for the run peak, and a closer one for each part."""
    prediction = predicted(path, profile)
    measured = measure_ram(path, PROFILE[profile], LocalMachine(python))
    peak = measured.run_peak_bytes
    assert abs(prediction.run_peak.total_bytes - peak) <= max(0.1 * peak, MB)
    assert abs(prediction.run_peak.mapped_bytes - measured.run_mapped_bytes) <= 0.1 * MB
    return prediction, measured


@pytest.mark.parametrize("profile", LITERT)
@pytest.mark.parametrize("kind", ["float", "static", "dynamic"])
def test_parts_are_as_measured(tmp_path, kind, profile):
    prediction, measured = assert_as_measured(chain(tmp_path / "net.tflite", kind), profile)
    peak, loaded = prediction.run_peak, prediction.loaded
    data = peak.heap_bytes + peak.packed_bytes + peak.arena_bytes
    own = measured.run_anonymous_bytes - data  # the runtime's own
    assert 0.8 * MB <= own <= 1.6 * MB
    own = measured.loaded_anonymous_bytes - loaded.heap_bytes - loaded.packed_bytes - loaded.arena_bytes
    assert 0.3 * MB <= own <= 1.1 * MB
    assert 0 <= peak.library_bytes - MB <= 5 * MB
    assert prediction.notes == ()


@needs_tflite_runtime
@pytest.mark.parametrize("kind", ["float", "static", "dynamic"])
def test_tflite_runtime_is_as_measured(tmp_path, kind):
    assert_as_measured(chain(tmp_path / "net.tflite", kind), "tflite-runtime", PYTHON)


@pytest.mark.parametrize("profile", LITERT)
def test_a_loop_is_as_measured(tmp_path, profile):
    assert_as_measured(rolled(tmp_path / "net.tflite", True), profile)


def test_kernels_read_in_place_have_no_copies(tmp_path):
    path = chain(tmp_path / "net.tflite", "static", shared=True)
    for profile in ("litert-builtin", "litert-reference"):
        (kernel,) = predicted(path, profile).kernels
        assert (kernel.layers, kernel.copies, kernel.copy_bytes) == (4, 0, 0)
    (kernel,) = predicted(path, "litert-xnnpack").kernels
    assert (kernel.layers, kernel.copies) == (4, 4)
    assert 256 * 9 * 256 <= kernel.copy_bytes <= 1.1 * 256 * 9 * 256


@pytest.mark.parametrize("profile", LITERT)
def test_a_shared_kernel_is_held_as_measured(tmp_path, profile):
    assert_as_measured(chain(tmp_path / "net.tflite", "static", shared=True), profile)


def test_a_kernel_dequantised_for_several_layers_is_one_copy(tmp_path):
    graph = Graph()
    x = first = graph.maps(64)
    stored = graph.constant(np.ones((64, 3, 3, 64), np.int8), INT8, np.full(64, 0.1))
    kernel = graph.node("DEQUANTIZE", [stored], [graph.tensor("w", (64, 3, 3, 64), FLOAT32)])
    for _ in range(3):
        bias = graph.constant(np.zeros(64, np.float32), FLOAT32)
        x = graph.node("CONV_2D", [x, kernel, bias], [graph.maps(64)], padding=SAME, strideH=1, strideW=1)
    prediction = predicted(graph.write(tmp_path / "net.tflite", [first], [x]), "litert-builtin")
    (held,) = prediction.kernels
    assert (held.layers, held.copies, held.copy_bytes) == (3, 1, 4 * 9 * 64 * 64)
    assert prediction.run_peak.heap_bytes == 4 * 9 * 64 * 64
    assert prediction.loaded.heap_bytes == 0


def test_on_arm64_float_products_are_packed(tmp_path):
    path = chain(tmp_path / "net.tflite", "float")
    kernel_bytes = 4 * 256 * 9 * 256
    x86, arm = (predicted(path, "litert-builtin", machine) for machine in ("x86-64", "arm64"))
    assert arm.run_peak.arena_bytes - x86.run_peak.arena_bytes > kernel_bytes


def test_ruy_s_block_is_the_largest_product_and_more_while_it_grows(tmp_path):
    graph = Graph()
    x = first = graph.tensor("x", (1, 5, 5, 8), INT8, None, [0.1])
    for layer, channels in enumerate((64, 256)):
        scales = np.full(channels, 0.01)
        shape = (channels, 3, 3, graph.channels(x))
        kernel = graph.constant(np.ones(shape, np.int8), INT8, scales)
        bias = graph.constant(np.zeros(channels, np.int32), INT32, scales * 0.1)
        y = graph.tensor(f"y{layer}", (1, 5, 5, channels), INT8, None, [0.1])
        x = graph.node("CONV_2D", [x, kernel, bias], [y], padding=SAME, strideH=1, strideW=1)
    (read,) = read_graphs(read_tflite(graph.write(tmp_path / "net.tflite", [first], [x])))
    block = ruy_block(products(read), "x86-64", "litert")
    # 256 × 576 codes and 32 × 576 of the input (25 positions), with sums and room to move.
    assert block.used_bytes == (256 + 32) * 576 + 2 * 1024 + 4 * (256 + 32) + 1024
    assert block.peak_bytes >= block.used_bytes


def test_another_runtime_s_profile_is_no_business_of_this(tmp_path):
    path = chain(tmp_path / "net.tflite", "float", layers=1, channels=4)
    assert predict_litert(read_tflite(path), path.stat().st_size, PROFILES["onnx"][0], "x86-64") is None


@pytest.mark.parametrize("profile", [*LITERT, "tflite-runtime"])
def test_a_strange_operator_is_said_and_counted_as_far_as_it_is_known(tmp_path, profile):
    graph = Graph()
    x = graph.maps(4)
    y = graph.maps(4)
    graph.node("UNIDIRECTIONAL_SEQUENCE_RNN", [x], [y])
    empty = graph.tensor("empty", (), FLOAT32)
    z = graph.node("CONV_2D", [y, x, empty], [graph.maps(4)])
    prediction = predicted(graph.write(tmp_path / "net.tflite", [x], [z]), profile)
    assert any("UNIDIRECTIONAL_SEQUENCE_RNN" in note for note in prediction.notes)
    assert prediction.run_peak.arena_bytes >= 2 * 4 * 4 * 25


def test_a_damaged_file_that_can_be_read_is_predicted(tmp_path):
    """Whatever the reader lets through: nothing is raised, sizes stay sizes."""
    good = rolled(tmp_path / "net.tflite", True).read_bytes()
    path, rng, read = tmp_path / "damaged.tflite", random.Random(0), 0
    for _ in range(200):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.choice((0, 1, 127, 128, 255))
        path.write_bytes(content)
        with contextlib.suppress(ModelFileError):
            model = read_tflite(path)
            read += 1
            for profile in PROFILES["tflite"]:
                prediction = predict_litert(model, len(content), profile, "x86-64")
                assert min(prediction.run_peak.total_bytes, prediction.loaded.total_bytes) > 0
    assert read > 20


@pytest.mark.parametrize("profile", LITERT)
@pytest.mark.parametrize("block", ["float", "dynamic", "squeeze-excite"])
def test_rolled_networks_as_they_are_lowered(block, profile, tmp_path):
    """XNNPACK takes the convolution of the body, and packs its kernel once."""
    trips, channels, path = 8, 256, tmp_path / "net.tflite"
    made = {
        "float": rolled_graphs.conv_affine(trips, channels),
        "dynamic": rolled_graphs.conv_affine(trips, channels, dynamic=True),
        "squeeze-excite": rolled_graphs.squeeze_excite(trips, channels, stored="codes"),
    }
    model = rolled_graphs.graph_of(made[block], (1, channels, 8, 8), trips, rolled=True)
    path.write_bytes(lower(model, {}).content)
    shared = max(predicted(path, profile).kernels, key=lambda kernel: kernel.layers)
    assert (shared.layers, shared.copies) == (trips, 1 if profile == "litert-xnnpack" else 0)
    assert_as_measured(path, profile)
