"""Small .tflite files as another tool writes them: a chain of 3×3 convolutions, a copy of one kernel in each."""

from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.model_files.tflite_file import pack

SIZE = 6


def kernel(channels: int = 4, seed: int = 0) -> np.ndarray:
    """O×H×W×I float32, the largest weight of every channel 127/128: codes of W are 128·W where W is in 128ths."""
    codes = np.random.default_rng(seed).integers(-120, 121, (channels, 3, 3, channels))
    codes[:, 0, 0, 0] = 127
    return (codes / 128).astype(np.float32)


def codes_of(weights: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights → int8 codes of the same shape, and a scale per channel on `axis`, the largest weight being 127."""
    others = tuple(position for position in range(weights.ndim) if position != axis)
    scales = (np.abs(weights).max(axis=others, keepdims=True) / np.float32(127)).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales.reshape(-1)


class Graph:
    """A graph under construction: tensors and operators in order, every constant in a buffer of its own."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name, shape, kind, content=None, scales=None, zero_point=0, axis=0) -> int:
        held = schema.TensorT()
        held.name, held.shape, held.type, held.buffer = name, list(shape), kind, 0
        if content is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(content).view(np.uint8).reshape(-1)
            self.model.buffers.append(buffer)
            held.buffer = len(self.model.buffers) - 1
        if scales is not None:
            held.quantization = schema.QuantizationParametersT()
            held.quantization.scale = np.asarray(scales, np.float32)
            held.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            held.quantization.quantizedDimension = axis
        self.graph.tensors.append(held)
        return len(self.graph.tensors) - 1

    def operator(self, code, inputs, outputs, options_type=0, options=None, version=1) -> None:
        kind = schema.OperatorCodeT()
        kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, min(code, 127), version
        self.model.operatorCodes.append(kind)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes) - 1, inputs, outputs
        made.builtinOptionsType, made.builtinOptions = options_type, options
        self.graph.operators.append(made)

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        path.write_bytes(pack(self.model))
        return path


def convolutions(path: Path, kernels: Sequence[np.ndarray], int8: Sequence[tuple[np.ndarray, np.ndarray]] = ()) -> Path:
    """CONV_2D (SAME, float bias) after CONV_2D with `kernels`, or with `int8` codes and scales: then dynamic int8."""
    graph = Graph()
    channels = kernels[0].shape[0]
    shape = (1, SIZE, SIZE, channels)
    x = first = graph.tensor("input", shape, schema.TensorType.FLOAT32)
    for index, weights in enumerate(kernels):
        if int8:
            codes, scales = int8[index]
            weight = graph.tensor(f"conv{index}", codes.shape, schema.TensorType.INT8, codes, scales)
        else:
            weight = graph.tensor(f"conv{index}", weights.shape, schema.TensorType.FLOAT32, weights)
        bias_values = np.full(channels, 0.1 * (index + 1), np.float32)
        bias = graph.tensor(f"bias{index}", (channels,), schema.TensorType.FLOAT32, bias_values)
        y = graph.tensor(f"out{index}", shape, schema.TensorType.FLOAT32)
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = 1
        graph.operator(
            schema.BuiltinOperator.CONV_2D, [x, weight, bias], [y], schema.BuiltinOptions.Conv2DOptions, options, 5
        )
        x = y
    return graph.write(path, [first], [x])


def with_appended_buffers(source: Path, path: Path) -> Path:
    """The same file with all content behind the flatbuffer, as ai-edge-quantizer writes large models."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source.read_bytes(), 0))
    contents = [b"" if buffer.data is None else bytes(np.asarray(buffer.data, np.uint8)) for buffer in model.buffers]
    start = 2
    for _ in range(2):  # the first pass tells how long the flatbuffer is
        end = start
        for buffer, content in zip(model.buffers, contents, strict=True):
            if content:
                buffer.data, buffer.offset, buffer.size = None, end, len(content)
                end += len(content)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        head = bytes(builder.Output())
        start = len(head)
    path.write_bytes(head + b"".join(contents))
    return path
