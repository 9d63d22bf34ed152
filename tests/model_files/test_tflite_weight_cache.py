"""weight_cache_fault says exactly where LiteRT's weight cache computes other numbers than the file."""

from dataclasses import fields

import numpy as np
import pytest
from layers_of_one_kernel import ONE, Layers
from tflite_graph import TfliteGraph, compiled, interpreted

from edgeks.bench.local import bench
from edgeks.errors import ModelFileError
from edgeks.model_files.tflite_file import read_tflite
from edgeks.model_files.tflite_weight_cache import weight_cache_fault
from edgeks.target import load_target

DIFFERENT = (1, 2, 4)
OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
RIGHT = [
    *(Layers(op=op) for op in OPS),
    *(Layers(op=op, output_zero_point=(0, 20, 40)) for op in OPS),
    *(Layers(op=op, kernel_scale=DIFFERENT, bias=DIFFERENT) for op in OPS),
    Layers(input_scale=DIFFERENT, input_zero_point=(0, 20, 40), output_scale=DIFFERENT, bias=DIFFERENT),
    Layers(kernel_scale=(-1, -2, -4)),  # not XNNPACK's
    Layers("hybrid"),
    Layers("hybrid", "FULLY_CONNECTED"),
    Layers("hybrid", bias=ONE),
    Layers("dequantised"),
    Layers("dequantised", kernel_scale=DIFFERENT, bias=DIFFERENT),
    Layers("float"),
    Layers("float", bias=DIFFERENT),
]
WRONG = [
    *(Layers(op=op, kernel_scale=DIFFERENT) for op in OPS),
    *(Layers(op=op, input_scale=DIFFERENT) for op in OPS),
    *(Layers(op=op, input_zero_point=(0, 20, 40)) for op in OPS),
    *(Layers(op=op, output_scale=DIFFERENT) for op in OPS),
    Layers("hybrid", kernel_scale=DIFFERENT),
    Layers("hybrid", "FULLY_CONNECTED", kernel_scale=DIFFERENT),
    Layers("hybrid", bias=DIFFERENT),
    Layers("hybrid", "FULLY_CONNECTED", bias=DIFFERENT),
    Layers("dequantised", kernel_scale=DIFFERENT),
]


def error_of_the_cache(layers, folder):
    """Largest difference to the same file without a cache, in per cent of the largest output."""
    path = layers.write(folder / "net.tflite")
    plain, cached = interpreted(path, layers.feed()), compiled(path, layers.feed(), folder / "cache")
    return max(
        100 * np.abs(a - b.astype(np.float64)).max() / np.abs(a).max() for a, b in zip(plain, cached, strict=True)
    )


def name(layers):
    """What is not as by default."""
    return "-".join(
        f"{f.name}={getattr(layers, f.name)}" for f in fields(Layers) if getattr(layers, f.name) != f.default
    )


@pytest.mark.parametrize("layers", RIGHT, ids=name)
def test_right_with_a_cache_and_no_fault(layers, tmp_path):
    assert error_of_the_cache(layers, tmp_path) < 0.01
    assert weight_cache_fault(read_tflite(tmp_path / "net.tflite")) is None


@pytest.mark.parametrize("layers", WRONG, ids=name)
def test_wrong_with_a_cache_and_a_fault(layers, tmp_path):
    assert error_of_the_cache(layers, tmp_path) > 1
    assert "share the buffers of their kernel" in weight_cache_fault(read_tflite(tmp_path / "net.tflite"))


def test_transposed_convolutions_are_judged_too(tmp_path):
    """Their inputs come in another order: the output's shape, the kernel, the input, the bias."""
    graph, outputs = TfliteGraph(), []
    codes, shape = np.ones((4, 2, 2, 4), np.int8), graph.constant(np.array([1, 8, 8, 4], np.int32))
    kernel_buffer, bias_buffer = graph.buffer(codes), graph.buffer(np.zeros(4, np.int32))
    for factor in (1, 2):
        x, y = graph.input((1, 4, 4, 4), np.int8, 0.1), graph.tensor((1, 8, 8, 4), np.int8, 0.1)
        kernel = graph.constant(codes, np.full(4, 0.01 * factor), buffer=kernel_buffer)
        bias = graph.constant(np.zeros(4, np.int32), np.full(4, 0.001 * factor), buffer=bias_buffer)
        outputs.append(graph.op("TRANSPOSE_CONV", [shape, kernel, x, bias], y, version=3))
    assert weight_cache_fault(read_tflite(graph.write(tmp_path / "net.tflite", *outputs)))


def test_bench_refuses_and_says_what_to_do(tmp_path):
    path = Layers(kernel_scale=DIFFERENT).write(tmp_path / "net.tflite")
    with pytest.raises(
        ModelFileError, match=r"would compute wrong numbers: 't2' and 't6' share .*; use runtime litert"
    ):
        bench(path, load_target("tflite"), 1, 0, runtime="litert-compiled")
