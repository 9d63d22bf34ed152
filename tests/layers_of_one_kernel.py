"""A .tflite file of three layers that share a kernel, with what they do not share set by hand."""

from dataclasses import dataclass

import numpy as np
from tflite_graph import TfliteGraph

ONE = (1, 1, 1)
CHANNELS = 16


@dataclass(frozen=True)
class Layers:
    """Three layers side by side that share a kernel, and what they do not share: factors of one by layer.

    LiteRT 2.3 packs a convolution that comes last anew, so two layers would not show the fault.
    """

    kind: str = "int8"  # int8, hybrid (float activations), dequantised (a float kernel, stored as int8) or float
    op: str = "CONV_2D"
    kernel_scale: tuple[float, ...] = ONE
    input_scale: tuple[float, ...] = ONE
    input_zero_point: tuple[int, ...] = (0, 0, 0)
    output_scale: tuple[float, ...] = ONE
    output_zero_point: tuple[int, ...] = (0, 0, 0)
    bias: tuple[float, ...] | None = None  # a buffer by layer; None: one for all

    def write(self, path):
        graph, outputs, rng = TfliteGraph(), [], np.random.default_rng(0)
        matrix, depthwise = self.op == "FULLY_CONNECTED", self.op == "DEPTHWISE_CONV_2D"
        n = CHANNELS
        shape = (n, n) if matrix else (1, 3, 3, n) if depthwise else (n, 3, 3, n)
        maps = (1, n) if matrix else (1, 6, 6, n)
        codes = rng.integers(-127, 128, shape).astype(np.int8)
        scale = rng.uniform(0.001, 0.005, n).astype(np.float32)
        bias = rng.integers(-500, 500, n).astype(np.int32 if self.kind == "int8" else np.float32)
        content = codes * np.float32(0.003) if self.kind == "float" else codes
        kernel_buffer, bias_buffer = graph.buffer(content), graph.buffer(bias)
        for layer in range(3):
            scales = None if self.kind == "float" else scale * self.kernel_scale[layer]
            kernel = graph.constant(content, scales, axis=3 if depthwise else 0, buffer=kernel_buffer)
            own = bias if self.bias is None else (bias * self.bias[layer]).astype(bias.dtype)
            buffer = bias_buffer if self.bias is None else None
            if self.kind == "int8":
                in_scale, out_scale = 0.05 * self.input_scale[layer], 0.05 * self.output_scale[layer]
                x = graph.input(maps, np.int8, in_scale, self.input_zero_point[layer])
                y = graph.tensor(maps, np.int8, out_scale, self.output_zero_point[layer])
                added = graph.constant(own, scales * in_scale, buffer=buffer)
            else:
                x, y = graph.input(maps, np.float32), graph.tensor(maps, np.float32)
                added = graph.constant(own, buffer=buffer)
                if self.kind == "dequantised":
                    kernel = graph.op("DEQUANTIZE", [kernel], graph.tensor(shape, np.float32), version=2)
            inputs = [x, kernel, added]
            outputs.append(
                graph.op("FULLY_CONNECTED", inputs, y, version=12) if matrix else graph.conv(inputs, y, self.op)
            )
        return graph.write(path, *outputs)

    def feed(self):
        codes = np.random.default_rng(1).integers(
            -128, 128, (3, 1, CHANNELS) if self.op == "FULLY_CONNECTED" else (3, 1, 6, 6, CHANNELS)
        )
        return list(codes.astype(np.int8) if self.kind == "int8" else (codes * 0.05).astype(np.float32))
