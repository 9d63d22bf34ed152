"""Graphs of a .tflite file: tensors and operators as they are added one by one, and the bytes that they become."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.formats.tflite.sparse import store_sparse
from edgeks.formats.tflite.versions import version
from edgeks.model_files.tflite_file import OPERATOR_NAMES, SCHEMA_VERSION, pack

TENSOR_TYPES: dict[str, int] = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
}
OPERATOR_CODES = {name: code for code, name in OPERATOR_NAMES.items()}
PLACEHOLDER = 127  # what readers of the old 8-bit field see for a code above it
SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class Quantisation:
    """scale·(code − zero_point); vectors, with `axis`, where every slice along it has its own scale."""

    scale: NDArray[np.float32]
    zero_point: int
    axis: int = 0

    def same_codes(self, other: Quantisation) -> bool:
        """Whether a code stands for the same number in both."""
        return self.zero_point == other.zero_point and np.array_equal(self.scale, other.scale)


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a tensor that was added."""

    index: int
    shape: tuple[int, ...]
    type: str
    quantisation: Quantisation | None
    constant: bool


class _File:
    """What the graphs of one file have in common: buffers, operator codes and names."""

    def __init__(self, reserved: Collection[str]) -> None:
        self.graphs: list[schema.SubGraphT] = []
        self.codes: dict[tuple[str, int], int] = {}
        self.buffers: list[schema.BufferT] = [schema.BufferT()]
        self.buffer_of: dict[object, int] = {}
        self.names = set(reserved)
        self.reserved = set(reserved)
        self.operators: list[str] = []


class Network:
    """A graph of a .tflite file under construction, the main one or one that an operator of it runs (`inner`).

    A buffer is written once for every object that is passed as its `owner`, whichever graphs read it.
    """

    def __init__(self, reserved: Collection[str] = ()) -> None:
        """`reserved` names are given to the tensors that ask for them as activations, and to no other."""
        self._open(_File(reserved), "main")

    def inner(self, name: str) -> Network:
        """Another graph of the same file. A tensor belongs to the graph that it was added to."""
        graph = Network.__new__(Network)
        graph._open(self._file, name)
        return graph

    def _open(self, file: _File, name: str) -> None:
        self._file = file
        self.index = len(file.graphs)
        self.tensors: list[Tensor] = []
        self._graph = schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = name, [], []
        file.graphs.append(self._graph)

    @property
    def operators(self) -> list[str]:
        """Operators of all graphs of the file, in the order in which they were added."""
        return self._file.operators

    def activation(
        self, name: str, shape: Sequence[int], type: str, quantisation: Quantisation | None = None
    ) -> Tensor:
        """A tensor that an operator computes."""
        if name in self._file.reserved:
            self._file.reserved.remove(name)
            self._file.names.discard(name)
        return self._add(name, shape, type, quantisation, 0)

    def fed(self, name: str, shape: Sequence[int], type: str, quantisation: Quantisation | None = None) -> Tensor:
        """A tensor that the caller fills. The signature has its `name`, which a layer may have too."""
        return self._add(name, shape, type, quantisation, 0)

    def constant(
        self,
        name: str,
        content: NDArray[Any],
        quantisation: Quantisation | None = None,
        owner: object = None,
    ) -> Tensor:
        """A stored tensor. Tensors of one `owner` point to one buffer, whatever their scales are."""
        if owner is None or owner not in self._file.buffer_of:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
            self._file.buffers.append(buffer)
            index = len(self._file.buffers) - 1
            if owner is not None:
                self._file.buffer_of[owner] = index
        else:
            index = self._file.buffer_of[owner]
        return self._add(name, content.shape, content.dtype.name, quantisation, index)

    def operator(
        self, name: str, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], options: Any = None
    ) -> None:
        """An operator of the schema's `name`; an input that is None is left out."""
        types = {tensor.type for tensor in (*inputs, *outputs) if tensor is not None}
        key = (name, version(name, types, options, [None if t is None else t.type for t in inputs]))
        operator = schema.OperatorT()
        operator.opcodeIndex = self._file.codes.setdefault(key, len(self._file.codes))
        operator.inputs = np.array([-1 if t is None else t.index for t in inputs], np.int32)
        operator.outputs = np.array([t.index for t in outputs], np.int32)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._graph.operators.append(operator)
        self.operators.append(name)

    def bound(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Say which tensors of this graph come in and go out."""
        self._graph.inputs = np.array([tensor.index for tensor in inputs], np.int32)
        self._graph.outputs = np.array([tensor.index for tensor in outputs], np.int32)

    def to_bytes(
        self,
        inputs: Sequence[tuple[str, Tensor]],
        outputs: Sequence[tuple[str, Tensor]],
        description: str,
        metadata: Mapping[str, bytes],
        *,
        sparse: bool = False,
    ) -> bytes:
        """The file; this is its main graph. Its signature names `inputs` and `outputs`; two may be one tensor."""
        self.bound([tensor for _, tensor in inputs], [tensor for _, tensor in outputs])
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = description
        model.subgraphs = self._file.graphs
        model.operatorCodes = [_operator_code(name, number) for name, number in self._file.codes]
        model.signatureDefs = [_signature(inputs, outputs)]
        model.buffers = list(self._file.buffers)
        model.metadata = []
        for name, content in metadata.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = name, len(model.buffers)
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(content, np.uint8)
            model.buffers.append(buffer)
            model.metadata.append(entry)
        if sparse:
            store_sparse(model)
        return pack(model)

    def _add(
        self, name: str, shape: Sequence[int], type: str, quantisation: Quantisation | None, buffer: int
    ) -> Tensor:
        stored = schema.TensorT()
        stored.name = self._unique(name)
        stored.shape = np.array(shape, np.int32)
        stored.hasRank = True
        stored.type = TENSOR_TYPES[type]
        stored.buffer = buffer
        if quantisation is not None:
            parameters = schema.QuantizationParametersT()
            parameters.scale = np.atleast_1d(quantisation.scale).astype(np.float32)
            parameters.zeroPoint = np.full(parameters.scale.shape, quantisation.zero_point, np.int64)
            parameters.quantizedDimension = quantisation.axis
            stored.quantization = parameters
        self._graph.tensors.append(stored)
        tensor = Tensor(len(self.tensors), tuple(int(d) for d in shape), type, quantisation, buffer > 0)
        self.tensors.append(tensor)
        return tensor

    def name_output(self, tensor: Tensor, name: str) -> None:
        """Give a tensor that has no name of its own the name of the network's output."""
        stored = self._graph.tensors[tensor.index]
        if stored.name == self._number(tensor.index):
            stored.name = self._unique(name)

    def _number(self, index: int) -> str:
        """Name of a tensor that has none of its own."""
        return f"t{index}" if self.index == 0 else f"g{self.index}t{index}"

    def _unique(self, name: str) -> str:
        """`name`, or the first free `name_2`, `name_3` …; tools that read .tflite files know tensors by name.

        A tensor without a name gets a short one: a third of a small file would be names otherwise.
        """
        name = name or self._number(len(self.tensors))
        unique, number = name, 2
        while unique in self._file.names:
            unique, number = f"{name}_{number}", number + 1
        self._file.names.add(unique)
        return unique


def _operator_code(name: str, number: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = OPERATOR_CODES[name]
    code.deprecatedBuiltinCode = min(OPERATOR_CODES[name], PLACEHOLDER)
    code.version = number
    return code


def _signature(inputs: Sequence[tuple[str, Tensor]], outputs: Sequence[tuple[str, Tensor]]) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.inputs, signature.outputs = _named(inputs), _named(outputs)
    return signature


def _named(tensors: Sequence[tuple[str, Tensor]]) -> list[schema.TensorMapT]:
    maps = []
    for name, tensor in dict(tensors).items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, tensor.index
        maps.append(entry)
    return maps
