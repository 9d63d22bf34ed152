"""Tensors and operators of a .tflite graph as TFLite's planner and kernels see them: shapes, bytes, constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.timeline import Activation
from edgeks.model_files.tflite_file import OPERATOR_NAMES, TYPE_NAMES, operator_code, tensor_name, whole_numbers

BITS = {
    "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "FLOAT64": 64, "FLOAT8_E4M3FN": 8, "FLOAT8_E5M2": 8,
    "INT2": 2, "INT4": 4, "INT8": 8, "INT16": 16, "INT32": 32, "INT64": 64,
    "UINT4": 4, "UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64,
    "BOOL": 8, "COMPLEX64": 64, "COMPLEX128": 128,
}  # fmt: skip
# Not in any arena: they have a size only once they have content.
SIZELESS = frozenset({"STRING", "RESOURCE", "VARIANT"})


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a graph. `kind`: its type in the schema. `scales`: of its quantisation, empty for none."""

    name: str
    shape: tuple[int, ...]
    kind: str
    scales: tuple[float, ...]
    constant: bool
    variable: bool

    @property
    def elements(self) -> int:
        """Count of its numbers."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes; types below 8 bits are packed; 0 for a type whose size only content tells."""
        return -(-self.elements * BITS.get(self.kind, 0) // 8)

    def activation(self, made_by: str = "") -> Activation:
        """The tensor in the terms of `edgeks.audit.onnx.shapes`."""
        return Activation(self.name, self.shape, self.kind.lower(), self.size_bytes, made_by)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: tensors by index, -1 for one left out. `options`: its options table of the schema, or None."""

    op_type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass(frozen=True, slots=True)
class Graph:
    """One subgraph; operators in the order in which they run."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_graphs(model: schema.ModelT) -> tuple[Graph, ...]:
    """Subgraphs of a file, in file order. A size that is known at run time only is 1, as TFLite takes it."""
    return tuple(_graph(model, graph) for graph in model.subgraphs)


def _graph(model: schema.ModelT, graph: schema.SubGraphT) -> Graph:
    operators = []
    for operator in graph.operators if graph.operators is not None else []:
        code = operator_code(model, operator)
        inputs, outputs = tuple(whole_numbers(operator.inputs)), tuple(whole_numbers(operator.outputs))
        name = OPERATOR_NAMES.get(code, f"operator {code}")
        operators.append(Operator(name, inputs, outputs, operator.builtinOptions))
    tensors = tuple(_tensor(model, tensor) for tensor in graph.tensors)
    return Graph(tensors, tuple(operators), tuple(whole_numbers(graph.inputs)), tuple(whole_numbers(graph.outputs)))


def _tensor(model: schema.ModelT, tensor: schema.TensorT) -> Tensor:
    quantised = tensor.quantization
    scales = None if quantised is None else quantised.scale
    return Tensor(
        name=tensor_name(tensor),
        shape=tuple(max(length, 0) for length in whole_numbers(tensor.shape)),
        kind=TYPE_NAMES.get(tensor.type, f"type {tensor.type}"),
        scales=() if scales is None else tuple(np.asarray(scales, np.float32).ravel().tolist()),
        constant=int(tensor.buffer) != 0 and model.buffers[tensor.buffer].data is not None,  # empty ones, too
        variable=bool(tensor.isVariable),
    )
