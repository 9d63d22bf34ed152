"""A subgraph of a .tflite file as TFLite's XNNPACK delegate sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ai_edge_litert import schema_py_generated as schema

from edgeks.model_files.tflite_file import OPERATOR_NAMES, constant, is_constant, operator_code, whole_numbers

DelegateVersion = Literal["litert", "tflite-runtime"]
FLOAT32, FLOAT16 = schema.TensorType.FLOAT32, schema.TensorType.FLOAT16
INT8, UINT8, INT32, INT64 = (getattr(schema.TensorType, name) for name in ("INT8", "UINT8", "INT32", "INT64"))
INT4, INT2 = schema.TensorType.INT4, getattr(schema.TensorType, "INT2", -1)


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the delegate asks of a tensor. `scales` and `zero_points` are empty where it is not quantised."""

    type: int
    shape: tuple[int, ...]
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int
    is_constant: bool
    buffer: int
    dense: bool

    @property
    def elements(self) -> int:
        """1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Node:
    """An operator: its name in the schema, the numbers of its tensors (-1: absent) and its options table."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    code_version: int

    def option(self, name: str, default: Any = 0) -> Any:
        """A field of the options; the schema's default where the file has none."""
        return getattr(self.options, name, default)


@dataclass(frozen=True, slots=True)
class Graph:
    """A subgraph as the delegate sees it, with `static`: tensors that it dequantises before the first inference."""

    model: schema.ModelT
    stored: schema.SubGraphT
    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    version: DelegateVersion
    made_by: dict[int, Node]
    static: set[int] = field(default_factory=set)
    halves: set[int] = field(default_factory=set)  # those of `static` that stay float16, and are packed from there

    def content(self, index: int) -> list[int] | None:
        """Whole numbers of a constant of int32 or int64."""
        if index < 0 or self.tensors[index].type not in (INT32, INT64):
            return None
        found = constant(self.model, self.stored.tensors[index])
        return None if found is None else [int(number) for number in found.ravel()]

    def known(self, index: int) -> bool:
        """Whether the content is known before the first inference."""
        return index >= 0 and (self.tensors[index].is_constant or index in self.static)


def read_graph(model: schema.ModelT, index: int, version: DelegateVersion) -> Graph:
    """Subgraph `index` of a file that `read_tflite` has checked."""
    stored = model.subgraphs[index]
    nodes = []
    for operator in stored.operators if stored.operators is not None else []:
        code = model.operatorCodes[operator.opcodeIndex]
        name = OPERATOR_NAMES.get(operator_code(model, operator), "")
        inputs, outputs = tuple(whole_numbers(operator.inputs)), tuple(whole_numbers(operator.outputs))
        nodes.append(Node(name, inputs, outputs, operator.builtinOptions, int(code.version)))
    tensors = tuple(_tensor(model, tensor) for tensor in stored.tensors)
    made_by = {output: node for node in nodes for output in node.outputs}
    return Graph(model, stored, tensors, tuple(nodes), version, made_by)


def _tensor(model: schema.ModelT, stored: schema.TensorT) -> Tensor:
    quantised = stored.quantization
    scales = () if quantised is None or quantised.scale is None else tuple(float(s) for s in quantised.scale)
    return Tensor(
        type=int(stored.type),
        shape=tuple(whole_numbers(stored.shape)),
        scales=scales,
        zero_points=tuple(whole_numbers(quantised.zeroPoint)) if scales else (),
        axis=int(quantised.quantizedDimension) if scales else 0,
        is_constant=is_constant(model, stored),
        buffer=int(stored.buffer),
        dense=stored.sparsity is None,
    )
