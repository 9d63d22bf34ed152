"""What a .tflite file holds, read with TFLite's schema and numpy alone: nothing here comes from edgeks.

A proof that shares no code with what it is about: the exporter's own one (edgeks/audit/tflite/proof.py) reads by
edgeks' reader.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
}
ALIGNMENT = 16
ALIKE = 0.9995  # cosine of two channels that are one up to a factor; rounding to 8 bits costs 0.0001


@dataclass(frozen=True)
class Tensor:
    """One tensor of the main graph: `content` is None for one that is computed."""

    name: str
    type: int
    shape: tuple[int, ...]
    buffer: int
    content: np.ndarray | None
    scales: tuple[float, ...]
    axis: int


@dataclass(frozen=True)
class Operator:
    """One node of the main graph, its tensors by their numbers."""

    name: str
    inputs: list[int]
    outputs: list[int]


class PlainTflite:
    """The main graph of a file, its signature, its metadata, and where in the file each buffer lies."""

    def __init__(self, path: Path) -> None:
        self.bytes = path.read_bytes()
        model = schema.Model.GetRootAs(self.bytes, 0)
        assert model.SubgraphsLength() == 1
        graph = model.Subgraphs(0)
        self.buffers = [_lies(model.Buffers(index)) for index in range(model.BuffersLength())]
        self.tensors = [self._tensor(graph.Tensors(index)) for index in range(graph.TensorsLength())]
        self.operators = [_operator(model, graph.Operators(index)) for index in range(graph.OperatorsLength())]
        self.inputs = [graph.Inputs(index) for index in range(graph.InputsLength())]
        self.outputs = [graph.Outputs(index) for index in range(graph.OutputsLength())]
        signatures = [model.SignatureDefs(index) for index in range(model.SignatureDefsLength())]
        self.signatures = {s.SignatureKey().decode(): _signature(s) for s in signatures}
        entries = [model.Metadata(index) for index in range(model.MetadataLength())]
        self.metadata = {e.Name().decode(): json.loads(self._content(e.Buffer())) for e in entries}

    def _content(self, buffer: int) -> bytes:
        start, size = self.buffers[buffer]
        return self.bytes[start : start + size]

    def _tensor(self, stored: schema.Tensor) -> Tensor:
        shape = tuple(stored.Shape(index) for index in range(stored.ShapeLength()))
        quantised, data, content = stored.Quantization(), self._content(stored.Buffer()), None
        if data:
            content = np.frombuffer(data, TYPES[stored.Type()]).reshape(shape)
        scales = () if quantised is None else tuple(quantised.Scale(i) for i in range(quantised.ScaleLength()))
        axis = 0 if quantised is None else quantised.QuantizedDimension()
        return Tensor(stored.Name().decode(), stored.Type(), shape, stored.Buffer(), content, scales, axis)

    def layers(self) -> dict[str, tuple[Operator, int]]:
        """Name of the tensor that a layer computes → its operator and its kernel's tensor, behind a DEQUANTIZE too."""
        made_by = {output: operator for operator in self.operators for output in operator.outputs}
        found = {}
        for operator in self.operators:
            if operator.name not in LAYERS:
                continue
            kernel = operator.inputs[1]
            if self.tensors[kernel].content is None and made_by[kernel].name == "DEQUANTIZE":
                kernel = made_by[kernel].inputs[0]
            name = self.tensors[operator.outputs[0]].name
            assert name not in found, name
            found[name] = (operator, kernel)
        return found

    def readers(self) -> dict[int, int]:
        """Number of a buffer → how many operators read it, each counted once; a DEQUANTIZE counts as its readers."""
        used = Counter(index for operator in self.operators for index in set(operator.inputs) if index >= 0)
        found: dict[int, int] = defaultdict(int)
        for operator in self.operators:
            for index in {i for i in operator.inputs if i >= 0 and self.tensors[i].content is not None}:
                count = used[operator.outputs[0]] if operator.name == "DEQUANTIZE" else 1
                found[self.tensors[index].buffer] += count
        return found

    def stored(self) -> dict[int, Tensor]:
        """Number of a buffer that holds a constant → one of its tensors."""
        return {tensor.buffer: tensor for tensor in self.tensors if tensor.content is not None}


def require_exactly_once(file: PlainTflite, groups: list[tuple[str, ...]]) -> None:
    """`groups`: names of the layers that read one kernel; a layer outside every group is a group of one."""
    layers, readers, stored = file.layers(), file.readers(), file.stored()
    assert sorted(layers) == sorted(layer for group in groups for layer in group)
    kernels = {}
    for group in groups:
        buffers = {file.tensors[layers[layer][1]].buffer for layer in group}
        assert len(buffers) == 1, f"{group}: {len(buffers)} buffers"
        buffer = buffers.pop()
        assert readers[buffer] == len(group), f"{group}: read by {readers[buffer]} operators"
        assert buffer not in kernels
        kernels[buffer] = _channels(stored[buffer], _output_axis(layers[group[0]][0]))
    for group, (buffer, kernel) in zip(groups, kernels.items(), strict=True):
        for other, tensor in stored.items():
            if len(group) > 1 and other != buffer and tensor.content.size == kernel.size:
                axes = range(len(tensor.shape))
                assert not any(alike(kernel, _channels(tensor, axis)) for axis in axes), f"{group}: {tensor.name}"


def require_sound(file: PlainTflite) -> None:
    """Alignment, unique names, one signature that names inputs and outputs, int32 biases of their own."""
    assert all(start % ALIGNMENT == 0 for start, size in file.buffers if size)
    names = [tensor.name for tensor in file.tensors]
    assert all(names) and len(names) == len(set(names))
    assert list(file.signatures) == ["serving_default"]
    inputs, outputs = file.signatures["serving_default"]
    assert sorted(inputs.values()) == sorted(file.inputs) and sorted(outputs.values()) == sorted(file.outputs)
    described = file.metadata["edgeks.interface"]
    assert [spec["name"] for spec in described["inputs"]] == list(inputs)
    assert [spec["name"] for spec in described["outputs"]] == list(outputs)
    for spec, index in zip(described["inputs"] + described["outputs"], file.inputs + file.outputs, strict=True):
        assert tuple(spec["shape"]) == file.tensors[index].shape
    biases = [operator.inputs[2] for operator, _ in file.layers().values() if len(operator.inputs) > 2]
    integers = [file.tensors[index].buffer for index in biases if file.tensors[index].type == schema.TensorType.INT32]
    assert len(integers) == len(set(integers))


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two kernels, channels × the rest, are equal up to a factor per channel."""
    if one.shape != other.shape:
        return False
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    if not np.array_equal(lengths[0] == 0, lengths[1] == 0):
        return False
    used = lengths[0] > 0
    cosines = np.abs(np.sum(one[used] * other[used], axis=1)) / (lengths[0][used] * lengths[1][used])
    return bool((cosines > ALIKE).all())


def _output_axis(operator: Operator) -> int:
    return 3 if operator.name == "DEPTHWISE_CONV_2D" else 0


def _channels(tensor: Tensor, axis: int) -> np.ndarray:
    return np.moveaxis(tensor.content.astype(np.float64), axis, 0).reshape(tensor.shape[axis], -1)


def _lies(buffer: schema.Buffer) -> tuple[int, int]:
    """First byte in the file, and bytes."""
    field = buffer._tab.Offset(4)
    return (buffer._tab.Vector(field), buffer.DataLength()) if field else (0, 0)


def _operator(model: schema.Model, node: schema.Operator) -> Operator:
    code = model.OperatorCodes(node.OpcodeIndex())
    name = OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    inputs = [node.Inputs(index) for index in range(node.InputsLength())]
    return Operator(name, inputs, [node.Outputs(index) for index in range(node.OutputsLength())])


def _signature(stored: schema.SignatureDef) -> tuple[dict[str, int], dict[str, int]]:
    inputs = [stored.Inputs(index) for index in range(stored.InputsLength())]
    outputs = [stored.Outputs(index) for index in range(stored.OutputsLength())]
    return tuple({e.Name().decode(): e.TensorIndex() for e in entries} for entries in (inputs, outputs))
