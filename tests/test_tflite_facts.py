"""Facts about LiteRT and tflite-runtime that the design relies on: a release that changes one fails here.

What LiteRT's weight cache computes is held by tests/bench/test_weight_cache.py.
"""

import numpy as np
import pytest
from tflite_graph import TfliteGraph, interpreted
from tflite_runtime_env import needs_tflite_runtime, tflite_runtime

from edgeks.bench.local import bench
from edgeks.errors import EdgeksError, ModelFileError
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.target import LiteRtSession, load_target

KERNELS = ["xnnpack", "builtin", "reference", pytest.param("tflite-runtime", marks=needs_tflite_runtime)]
N = 8
MAPS = (1, 6, 6, N)


def outputs(path, inputs, kernels):
    """By one of LiteRT's kernel libraries, or by tflite-runtime with its default."""
    return tflite_runtime(path, inputs) if kernels == "tflite-runtime" else interpreted(path, inputs, kernels)


def random_codes(*shape, seed=0):
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)


def convolved(x, kernel):
    """NHWC float, OHWI, 3×3, stride 1, SAME → NHWC float64, as the definition says."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[1:3]
    return sum(
        padded[:, i : i + rows, j : j + columns] @ kernel[:, i, j].T.astype(np.float64)
        for i in range(3)
        for j in range(3)
    )


def sqnr_db(found, expected):
    return 10 * np.log10(np.mean(expected**2.0) / np.mean((found.astype(np.float64) - expected) ** 2))


@pytest.mark.parametrize("kernels", KERNELS)
def test_several_tensors_with_scales_of_their_own_may_read_one_buffer(kernels, tmp_path):
    """Three int8 layers in a chain, one kernel, each with its own scale per output channel and its own bias."""
    graph, codes = TfliteGraph(), random_codes(N, 3, 3, N)
    buffer = graph.buffer(codes)
    tensor, step, zero_point = graph.input(MAPS, np.int8, 0.05), 0.05, 0
    held = random_codes(*MAPS, seed=1)
    real = held * np.float32(0.05)
    for layer in range(3):
        scale = np.random.default_rng(layer).uniform(0.0005, 0.002, N).astype(np.float32) * (layer + 1)
        bias = np.random.default_rng(layer).integers(-500, 500, N).astype(np.int32)
        kernel = graph.constant(codes, scale, buffer=buffer)
        added = graph.constant(bias, scale * np.float32(step))
        expected = convolved(real, codes * scale.reshape(-1, 1, 1, 1)) + bias * scale * step
        step, zero_point = 0.05 * (layer + 2), 10 * layer
        tensor = graph.conv([tensor, kernel, added], graph.tensor(MAPS, np.int8, step, zero_point))
        expected = np.clip(np.rint(expected / step) + zero_point, -128, 127)
        real = (expected - zero_point) * step
    found = outputs(graph.write(tmp_path / "net.tflite", tensor), [held], kernels)[0]
    assert len([b for b in graph.model.buffers if b.data is not None and len(b.data) == codes.nbytes]) == 1
    assert (
        np.abs(found - expected).max() <= 3
    )  # each layer may round a tie the other way, which the next one carries on
    assert np.mean(found == expected) > 0.9


def one_conv(path, codes, scale, bias, op="CONV_2D"):
    graph = TfliteGraph()
    x = graph.input(MAPS, np.int8, 0.05)
    kernel = graph.constant(codes, scale, axis=3 if op == "DEPTHWISE_CONV_2D" else 0)
    added = graph.constant(bias, scale * np.float32(0.05))
    return graph.write(path, graph.conv([x, kernel, added], graph.tensor(MAPS, np.int8, 0.3), op))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_negative_scales_are_exact(op, kernels, tmp_path):
    """Codes and scale both negated are the same kernel, by the byte; XNNPACK leaves it to the built-in kernels."""
    codes = random_codes(*((1, 3, 3, N) if op == "DEPTHWISE_CONV_2D" else (N, 3, 3, N)))
    scale = np.random.default_rng(0).uniform(0.001, 0.004, N).astype(np.float32)
    bias = np.random.default_rng(1).integers(-500, 500, N).astype(np.int32)
    sign = np.where(np.arange(N) % 2, -1, 1)
    signs = sign if op == "DEPTHWISE_CONV_2D" else sign.reshape(-1, 1, 1, 1)
    plain = one_conv(tmp_path / "plain.tflite", codes, scale, bias, op)
    negated = one_conv(
        tmp_path / "negated.tflite",
        (codes * signs).astype(np.int8),
        (scale * sign).astype(np.float32),
        (bias * sign).astype(np.int32),
        op,
    )
    held = [random_codes(*MAPS, seed=2)]
    own = "builtin" if kernels == "xnnpack" else kernels
    np.testing.assert_array_equal(outputs(negated, held, kernels)[0], outputs(plain, held, own)[0])
    if kernels == "xnnpack":
        delegated = [
            "DELEGATE" in [node["op_name"] for node in open_interpreter(p, LiteRtSession())._get_ops_details()]
            for p in (plain, negated)
        ]
        assert delegated == [True, False]


def hybrid(path, op, codes, scale, version=5):
    """float32 → float32 by an int8 kernel: quantised on the fly."""
    graph = TfliteGraph()
    matrix = op == "FULLY_CONNECTED"
    shape = (4, N) if matrix else MAPS
    x, y = graph.input(shape, np.float32), graph.tensor((*shape[:-1], len(codes)), np.float32)
    inputs = [x, graph.constant(codes, scale), graph.constant(np.zeros(len(codes), np.float32))]
    made = graph.op(op, inputs, y, version=version) if matrix else graph.conv(inputs, y, op)
    return graph.write(path, made)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_dynamic_convolution_with_a_scale_per_channel_is_right(kernels, tmp_path):
    codes, scale = random_codes(N, 3, 3, N), np.geomspace(0.001, 0.1, N).astype(np.float32)
    x = np.random.default_rng(1).standard_normal(MAPS).astype(np.float32)
    found = outputs(hybrid(tmp_path / "net.tflite", "CONV_2D", codes, scale), [x], kernels)[0]
    expected = convolved(x, codes * scale.reshape(-1, 1, 1, 1))
    assert min(sqnr_db(found[..., n], expected[..., n]) for n in range(N)) > 30


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("count", [1, N])
def test_a_dynamic_convolution_with_equal_scales_is_wrong_in_tflite_runtime(count, kernels, tmp_path):
    """It takes equal scales for one, as of a whole tensor, and then gives the bias alone; one scale is right."""
    codes, scale = random_codes(N, 3, 3, N), np.full(count, 0.01, np.float32)
    x = np.random.default_rng(1).standard_normal(MAPS).astype(np.float32)
    found = outputs(hybrid(tmp_path / "net.tflite", "CONV_2D", codes, scale), [x], kernels)[0]
    if count > 1 and kernels == "tflite-runtime":
        assert not found.any()
    else:
        assert sqnr_db(found, convolved(x, codes * scale[0])) > 40


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_a_float_kernel_may_be_computed_at_run_time(op, kernels, tmp_path):
    """XNNPACK leaves such a convolution to the built-in kernels."""
    rng = np.random.default_rng(0)
    graph, matrix = TfliteGraph(), op == "FULLY_CONNECTED"
    kernel = rng.standard_normal({"CONV_2D": (N, 3, 3, N), "DEPTHWISE_CONV_2D": (1, 3, 3, N)}.get(op, (N, N)))
    x, kernel = rng.standard_normal(MAPS).astype(np.float32), kernel.astype(np.float32)
    first, factor = graph.input(MAPS, np.float32), graph.input((1,), np.float32)
    doubled = graph.op("MUL", [graph.constant(kernel), factor], graph.tensor(kernel.shape, np.float32), version=1)
    fed, kernel = [first, doubled], 2 * kernel
    y = graph.tensor(MAPS, np.float32)
    if matrix:
        made = graph.op(op, fed, y, version=2, keepNumDims=True)
        expected = x @ kernel.T
    else:
        made = graph.conv([*fed, graph.constant(np.zeros(N, np.float32))], y, op)
        dense = kernel if op == "CONV_2D" else np.einsum("ijko,op->ojkp", kernel, np.eye(N))
        expected = convolved(x, dense)
    found = outputs(graph.write(tmp_path / "net.tflite", made), [x, np.full(1, 2, np.float32)], kernels)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_dynamic_fully_connected_layer_per_channel_is_wrong_in_tflite_runtime(per_channel, kernels, tmp_path):
    """Such a layer gets one scale: with several, tflite-runtime 2.14 takes 0 for all and gives the bias alone.

    It only refuses what says by its version (12) that it has a scale per channel.
    """
    codes, scale = random_codes(5, N), np.geomspace(0.001, 0.1, 5).astype(np.float32)
    scale = scale if per_channel else scale[:1]
    x = np.random.default_rng(1).standard_normal((4, N)).astype(np.float32)
    found = outputs(hybrid(tmp_path / "net.tflite", "FULLY_CONNECTED", codes, scale), [x], kernels)[0]
    if per_channel and kernels == "tflite-runtime":
        assert not found.any()
        honest = hybrid(tmp_path / "honest.tflite", "FULLY_CONNECTED", codes, scale, version=12)
        with pytest.raises(AssertionError, match="Didn't find op for builtin opcode 'FULLY_CONNECTED' version '12'"):
            outputs(honest, [x], kernels)
    else:
        assert sqnr_db(found, x @ (codes * scale.reshape(-1, 1)).T) > 30


def test_xnnpack_refuses_a_file_with_a_negative_scale_in_a_dynamic_fully_connected_layer(tmp_path):
    """Not as with convolutions, which it leaves to others."""
    scale = np.full(5, -0.01, np.float32)
    path = hybrid(tmp_path / "net.tflite", "FULLY_CONNECTED", random_codes(5, N), scale)
    with pytest.raises(ModelFileError, match="unsupported scale value"):
        open_interpreter(path, LiteRtSession(1, "xnnpack"))
    open_interpreter(path, LiteRtSession(1, "builtin"))


@pytest.mark.parametrize(("op", "message"), [("CONV_2D", "has_bias was not true"), ("DEPTHWISE_CONV_2D", "SIGSEGV")])
def test_convolutions_need_a_bias(op, message, tmp_path):
    """The schema calls it optional. Without one LiteRT refuses the file, or dies while it runs it."""
    graph = TfliteGraph()
    codes = random_codes(*((1, 3, 3, N) if op == "DEPTHWISE_CONV_2D" else (N, 3, 3, N)))
    scale = np.full(N, 0.01, np.float32)
    kernel = graph.constant(codes, scale, axis=3 if op == "DEPTHWISE_CONV_2D" else 0)
    x = graph.input(MAPS, np.int8, 0.05)
    path = graph.write(tmp_path / "net.tflite", graph.conv([x, kernel], graph.tensor(MAPS, np.int8, 0.3), op))
    with pytest.raises(EdgeksError, match=message):
        bench(path, load_target("tflite"), 1, 0)
