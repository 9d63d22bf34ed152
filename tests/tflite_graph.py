"""Small TFLite networks written with the schema's own objects, and what computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.model_files.tflite_file import NUMPY_TYPES, SCHEMA_VERSION, pack
from edgeks.target import LiteRtSession

TYPES = {np.dtype(numpy_type): tflite_type for tflite_type, numpy_type in NUMPY_TYPES.items()}
OPTIONS = {
    "CONV_2D": schema.Conv2DOptionsT,
    "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptionsT,
    "FULLY_CONNECTED": schema.FullyConnectedOptionsT,
    "ADD": schema.AddOptionsT,
    "MUL": schema.MulOptionsT,
}


class TfliteGraph:
    """One graph under construction; tensors are known by their numbers."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = SCHEMA_VERSION
        self.model.description = "test"
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.model.subgraphs = [self.graph]

    def buffer(self, content: np.ndarray) -> int:
        """Constant → number of a new buffer, which several tensors may read."""
        self.model.buffers.append(schema.BufferT(data=np.frombuffer(content.tobytes(), np.uint8)))
        return len(self.model.buffers) - 1

    def tensor(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        scale: Any = None,
        zero_point: int = 0,
        axis: int = 0,
        buffer: int = 0,
        batch: bool = False,
    ) -> int:
        """New tensor; `scale` one number or a vector along `axis`; `batch`: its first dimension is symbolic."""
        made = schema.TensorT(shape=list(shape), type=TYPES[np.dtype(dtype)], buffer=buffer)
        made.name, made.hasRank = f"t{len(self.graph.tensors)}", True
        if batch:
            made.shapeSignature = [-1, *shape[1:]]
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            zero_points = np.full(len(scales), zero_point, np.int64)
            made.quantization = schema.QuantizationParametersT(
                scale=scales, zeroPoint=zero_points, quantizedDimension=axis
            )
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def constant(self, content: np.ndarray, scale: Any = None, axis: int = 0, buffer: int | None = None) -> int:
        """Tensor of a constant, in a buffer of its own or in the one that is named."""
        where = self.buffer(content) if buffer is None else buffer
        return self.tensor(content.shape, content.dtype, scale, axis=axis, buffer=where)

    def input(self, *arguments: Any, **options: Any) -> int:
        """As `tensor`, an input of the graph."""
        self.graph.inputs.append(self.tensor(*arguments, **options))
        return self.graph.inputs[-1]

    def op(self, name: str, inputs: list[int], output: int, version: int = 5, **options: Any) -> int:
        """Node with one output; absent inputs are -1. Returns `output`."""
        code = getattr(schema.BuiltinOperator, name)
        self.model.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=version)
        )
        node = schema.OperatorT(opcodeIndex=len(self.model.operatorCodes) - 1, inputs=inputs, outputs=[output])
        if name in OPTIONS:
            kind = OPTIONS[name].__name__.removesuffix("T")
            node.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            node.builtinOptions = OPTIONS[name](**options)
        self.graph.operators.append(node)
        return output

    def conv(self, inputs: list[int], output: int, name: str = "CONV_2D") -> int:
        """Stride 1, padding SAME."""
        depth = {"depthMultiplier": 1} if name == "DEPTHWISE_CONV_2D" else {}
        return self.op(name, inputs, output, padding=schema.Padding.SAME, strideW=1, strideH=1, **depth)

    def write(self, path: Path, *outputs: int) -> Path:
        """File with these outputs and one signature."""
        self.graph.outputs = list(outputs)
        maps = (
            [schema.TensorMapT(f"{kind}{n}", t) for n, t in enumerate(tensors)]
            for kind, tensors in (("in", self.graph.inputs), ("out", self.graph.outputs))
        )
        self.model.signatureDefs = [schema.SignatureDefT(*maps, "serving_default", 0)]
        path.write_bytes(pack(self.model))
        return path


def interpreted(path: Path, inputs: list[np.ndarray], kernels: str = "xnnpack") -> list[np.ndarray]:
    """Outputs of LiteRT's interpreter, in the order of the file."""
    interpreter = open_interpreter(path, LiteRtSession(1, kernels))
    for detail, content in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], content)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def compiled(path: Path, inputs: list[np.ndarray], weight_cache: Path | None = None) -> list[np.ndarray]:
    """Outputs of LiteRT's CompiledModel on the CPU."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, Options

    cpu = CpuOptions(num_threads=1, xnnpack_weight_cache_path=str(weight_cache or ""))
    model = CompiledModel.from_file(str(path), options=Options(HardwareAccelerator.CPU, cpu_options=cpu))
    fed, given = model.create_input_buffers(0), model.create_output_buffers(0)
    for buffer, content in zip(fed, inputs, strict=True):
        buffer.write(content)
    model.run_by_index(0, fed, given)
    details = model.get_output_tensor_details("serving_default").values()
    return [
        buffer.read(int(np.prod(detail["shape"])), np.dtype(detail["dtype"])).reshape(detail["shape"])
        for buffer, detail in zip(given, details, strict=True)
    ]
