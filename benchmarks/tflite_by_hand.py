"""A flatbuffer of a few operators, built by hand: what a runtime does with one form, whatever edgeks would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.model_files.tflite_file import SCHEMA_VERSION, pack

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
}
OPS = schema.BuiltinOperator
ACTIVATION = schema.ActivationFunctionType
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID


class TfliteGraph:
    """Tensors and operators in order; every method returns the index of the tensor it makes."""

    def __init__(self) -> None:
        self.buffers = [schema.BufferT()]
        self.tensors: list[schema.TensorT] = []
        self.operators: list[schema.OperatorT] = []
        self.codes: list[int] = []

    def tensor(self, shape: Any, dtype: str = "float32", scale: Any = None, zero_point: int = 0, axis: int = 0) -> int:
        """A tensor that is fed or computed; `scale` (a number, or one per slice along `axis`) where it holds codes."""
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = f"t{len(self.tensors)}", list(shape), TYPES[dtype], 0
        made.quantization = schema.QuantizationParametersT()
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization.scale = scales.tolist()
            made.quantization.zeroPoint = [zero_point] * len(scales)
            made.quantization.quantizedDimension = axis
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, content: Any, scale: Any = None, zero_point: int = 0, axis: int = 0) -> int:
        """A tensor with content, in a buffer of its own."""
        content = np.asarray(content)
        index = self.tensor(content.shape, content.dtype.name, scale, zero_point, axis)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content.tobytes(), np.uint8)
        self.buffers.append(buffer)
        self.tensors[index].buffer = len(self.buffers) - 1
        return index

    def op(self, name: str, inputs: list[int], output: int, **options: Any) -> int:
        """Operator `name` of the schema; `options` are the fields of its options table."""
        code = getattr(OPS, name)
        if code not in self.codes:
            self.codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes.index(code), inputs, [output]
        if options:
            kind = options.pop("table")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            made.builtinOptions = getattr(schema, f"{kind}T")()
            for field, value in options.items():
                if not hasattr(made.builtinOptions, field):
                    raise AttributeError(f"{kind} has no field {field}")
                setattr(made.builtinOptions, field, value)
        self.operators.append(made)
        return output

    def write(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        """The file."""
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self.tensors, self.operators
        graph.inputs, graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.description, model.subgraphs, model.buffers = SCHEMA_VERSION, "", [graph], self.buffers
        model.operatorCodes = []
        for code in self.codes:
            made = schema.OperatorCodeT()
            made.builtinCode, made.deprecatedBuiltinCode, made.version = code, min(code, 127), 1
            model.operatorCodes.append(made)
        path.write_bytes(pack(model))
        return path
