"""An .ort file (ONNX Runtime's own flatbuffer format) → the same ModelFile that an .onnx file gives; nothing is run.

The tables are those of onnxruntime/core/flatbuffers/schema/ort.fbs. Field `i` of a table is at slot 4 + 2·i of its
vtable; a union takes two.
"""

from __future__ import annotations

import heapq
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from edgeks.errors import ModelFileError
from edgeks.model_files.mapped_file import MappedFile, map_file
from edgeks.model_files.onnx_file import MAX_DEPTH, ModelFile, checked_model, require_file
from edgeks.model_files.onnx_wire import MAX_INLINE_BYTES, external_content

IDENTIFIER = b"ORTM"
VERSIONS = ("1", "2", "3", "4", "5", "6")
MAX_TABLES = 1_000_000
TABLE_BYTES = 8  # the least that one takes with the offset to it
# What the texts and numbers of a graph may come to when each reader of one has a copy; weights do not count.
MAX_COPIED_BYTES = 1 << 26

FIELDS: dict[str, tuple[str, ...]] = {
    "InferenceSession": ("ort_version", "model", "session_state", "kernel_type_str_resolver"),
    "Model": (
        "ir_version", "opset_import", "producer_name", "producer_version", "domain", "model_version", "doc_string",
        "graph", "graph_doc_string", "metadata_props",
    ),
    "OperatorSetId": ("domain", "version"),
    "StringStringEntry": ("key", "value"),
    "Graph": (
        "initializers", "node_args", "nodes", "max_node_index", "node_edges", "inputs", "outputs",
        "sparse_initializers", "runtime_optimizations",
    ),
    "Node": (
        "name", "doc_string", "domain", "since_version", "index", "op_type", "type", "execution_provider_type",
        "inputs", "outputs", "attributes", "input_arg_counts", "implicit_inputs",
    ),
    "Attribute": (
        "name", "doc_string", "type", "f", "i", "s", "t", "g", "floats", "ints", "strings", "tensors", "graphs",
    ),
    "Tensor": ("name", "doc_string", "dims", "data_type", "raw_data", "string_data", "external_data_offset"),
    "ValueInfo": ("name", "doc_string", "type"),
    "TypeInfo": ("denotation", "value_type", "value"),
    "TensorTypeAndShape": ("elem_type", "shape"),
    "Shape": ("dim",),
    "Dimension": ("value", "denotation"),
    "DimensionValue": ("dim_type", "dim_value", "dim_param"),
}  # fmt: skip
TENSOR_TYPE = 1  # of the union TypeInfoValue
DIM_VALUE, DIM_PARAM = 1, 2


def read_ort(path: Path) -> ModelFile:
    """.ort file → ModelFile: the graph that ONNX Runtime saved, its nodes in an order in which they can run.

    Large constants stay in the file, which is mapped. Time and memory are bounded.

    Raises:
        ModelFileError: the file is missing, no .ort, cut short, or contradicts itself.
    """
    try:
        size = require_file(path, ".ort")
        if size < 8:
            raise ModelFileError(f"{path}: no .ort file ({size} bytes)")
        with map_file(path) as content:
            if content[4:8] != IDENTIFIER:
                raise ModelFileError(f"{path}: no .ort file (its bytes 4 to 8 are not {IDENTIFIER.decode()})")
            proto = _model(_File(content))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: a damaged .ort file ({size} bytes): {error}; save it again") from error
    return checked_model(path, proto)


class _File:
    """The file's content, and what may still be taken from it."""

    def __init__(self, content: MappedFile) -> None:
        self.content = content
        self._tables = min(len(content) // TABLE_BYTES, MAX_TABLES)
        self._copied = MAX_COPIED_BYTES
        self._texts: dict[int, str] = {}

    def root(self) -> _Fields:
        return _Fields(self, "InferenceSession", int.from_bytes(self.content[:4], "little"))

    def take_tables(self, count: int) -> None:
        self._tables -= count
        if self._tables < 0:
            raise ValueError("its lists have more entries than it has room for")

    def take_bytes(self, count: int) -> None:
        self._copied -= count
        if self._copied < 0:
            raise ValueError(f"its names and numbers come to more than {MAX_COPIED_BYTES} bytes")

    def text(self, table: Table, position: int) -> str:
        start = table.Indirect(position)
        if start not in self._texts:
            length = table.Get(number_types.UOffsetTFlags, start)
            self.take_bytes(length)
            self._texts[start] = self.slice(start + 4, length).decode()
        self.take_bytes(len(self._texts[start]))
        return self._texts[start]

    def slice(self, start: int, length: int) -> bytes:
        """Bytes of the file, all of which must be in it."""
        self.require(start, length)
        return self.content[start : start + length]

    def require(self, start: int, length: int) -> None:
        if start + length > len(self.content):
            raise ValueError(f"{length} bytes at {start}, behind the end of the file")


class _Fields:
    """One table, its fields by their names in the schema. An absent field is None, empty or 0."""

    def __init__(self, file: _File, kind: str, position: int) -> None:
        file.take_tables(1)
        self._file, self._kind = file, kind
        self._table = Table(file.content, position)

    def text(self, name: str) -> str:
        position = self._at(name)
        return self._file.text(self._table, position) if position else ""

    def texts(self, name: str) -> list[str]:
        start, length = self._vector(name, 4)
        return [self._file.text(self._table, start + 4 * index) for index in range(length)]

    def number(self, name: str, flags: Any = number_types.Int32Flags, default: int = 0) -> Any:
        position = self._at(name)
        return self._table.Get(flags, position) if position else default

    def numbers(self, name: str, dtype: type[np.generic]) -> list[Any]:
        width = np.dtype(dtype).itemsize
        start, length = self._vector(name, width)
        self._file.take_bytes(8 * length)
        found: list[Any] = np.frombuffer(self._file.slice(start, width * length), dtype).tolist()
        return found

    def table(self, name: str, kind: str) -> _Fields | None:
        position = self._at(name)
        return _Fields(self._file, kind, self._table.Indirect(position)) if position else None

    def tables(self, name: str, kind: str) -> list[_Fields]:
        start, length = self._vector(name, 4)
        return [_Fields(self._file, kind, self._table.Indirect(start + 4 * index)) for index in range(length)]

    def content(self, name: str) -> tuple[int, int]:
        """Where in the file the bytes of a vector are: offset and length."""
        return self._vector(name, 1)

    def read(self, start: int, length: int) -> bytes:
        self._file.take_bytes(length)
        return self._file.slice(start, length)

    def _at(self, name: str) -> int:
        offset = self._table.Offset(4 + 2 * FIELDS[self._kind].index(name))
        return self._table.Pos + offset if offset else 0

    def _vector(self, name: str, width: int) -> tuple[int, int]:
        """Start and number of the entries of `width` bytes; there are no more than the file has room for."""
        position = self._at(name)
        if not position:
            return 0, 0
        start = self._table.Indirect(position)
        length = self._table.Get(number_types.UOffsetTFlags, start)
        self._file.require(start + 4, width * length)
        return start + 4, length


def _model(file: _File) -> ModelProto:
    session = file.root()
    version = session.text("ort_version")
    if version not in VERSIONS:
        raise ValueError(f"format version {version[:20]!r}, known: {', '.join(VERSIONS)}")
    model = session.table("model", "Model")
    graph = model.table("graph", "Graph") if model else None
    if model is None or graph is None:
        raise ValueError("no graph in it")
    proto = ModelProto(
        ir_version=model.number("ir_version", number_types.Int64Flags),
        producer_name=model.text("producer_name"),
        producer_version=model.text("producer_version"),
        domain=model.text("domain"),
        model_version=model.number("model_version", number_types.Int64Flags),
        doc_string=model.text("doc_string"),
    )
    for entry in model.tables("opset_import", "OperatorSetId"):
        proto.opset_import.add(domain=entry.text("domain"), version=entry.number("version", number_types.Int64Flags))
    for entry in model.tables("metadata_props", "StringStringEntry"):
        proto.metadata_props.add(key=entry.text("key"), value=entry.text("value"))
    _fill_graph(proto.graph, graph, 0)
    proto.graph.doc_string = model.text("graph_doc_string")
    return proto


def _fill_graph(proto: GraphProto, graph: _Fields, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"bodies nested deeper than {MAX_DEPTH}")
    if graph.tables("sparse_initializers", "Tensor"):
        raise ValueError("a sparse constant, which edgeks does not read")
    for tensor in graph.tables("initializers", "Tensor"):
        _fill_tensor(proto.initializer.add(), tensor)
    nodes = []
    for node in graph.tables("nodes", "Node"):
        made = NodeProto(
            name=node.text("name"),
            doc_string=node.text("doc_string"),
            domain=node.text("domain"),
            op_type=node.text("op_type"),
            input=node.texts("inputs"),
            output=node.texts("outputs"),
        )
        for attribute in node.tables("attributes", "Attribute"):
            _fill_attribute(made.attribute.add(), attribute, depth)
        nodes.append((node.number("index", number_types.Uint32Flags), made, node.texts("implicit_inputs")))
    proto.node.extend(_in_order(nodes))
    values = {value.name: value for value in map(_value, graph.tables("node_args", "ValueInfo"))}
    inputs, outputs = graph.texts("inputs"), graph.texts("outputs")
    proto.input.extend(values.get(name, ValueInfoProto(name=name)) for name in inputs)
    proto.output.extend(values.get(name, ValueInfoProto(name=name)) for name in outputs)
    known = {"", *inputs, *outputs, *(tensor.name for tensor in proto.initializer)}
    proto.value_info.extend(
        value for name, value in values.items() if name not in known and value.type.tensor_type.HasField("shape")
    )


def _in_order(nodes: list[tuple[int, NodeProto, list[str]]]) -> list[NodeProto]:
    """The file has its nodes in the order in which they were made → an order in which each comes after what it reads.

    Of those that can come next the one with the lowest index does. What waits for itself comes last as it is.
    """
    nodes = sorted(nodes, key=lambda entry: entry[0])
    maker = {name: position for position, (_, node, _) in enumerate(nodes) for name in node.output if name}
    waits_for = [{maker[name] for name in (*node.input, *implicit) if name in maker} for _, node, implicit in nodes]
    readers: dict[int, list[int]] = defaultdict(list)
    for position, makers in enumerate(waits_for):
        for found in makers:
            readers[found].append(position)
    left = [len(makers) for makers in waits_for]
    ready = [position for position, count in enumerate(left) if not count]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    return [nodes[position][1] for position in (*order, *(index for index, count in enumerate(left) if count))]


def _fill_tensor(proto: TensorProto, tensor: _Fields) -> None:
    name = tensor.text("name")
    start, length = tensor.content("raw_data")
    if tensor.number("external_data_offset", number_types.Int64Flags, -1) >= 0:
        raise ValueError(f"constant {name!r} is in a data file, as of training; edgeks reads files for inference")
    if length > MAX_INLINE_BYTES:
        proto.CopyFrom(external_content(start, length))
    elif length:
        proto.raw_data = tensor.read(start, length)
    proto.name, proto.doc_string = name, tensor.text("doc_string")
    proto.dims.extend(tensor.numbers("dims", np.int64))
    proto.data_type = tensor.number("data_type")
    proto.string_data.extend(text.encode() for text in tensor.texts("string_data"))


def _fill_attribute(proto: AttributeProto, attribute: _Fields, depth: int) -> None:
    kind = attribute.number("type")
    proto.name, proto.doc_string, proto.type = attribute.text("name"), attribute.text("doc_string"), kind
    proto.f = attribute.number("f", number_types.Float32Flags)
    proto.i = attribute.number("i", number_types.Int64Flags)
    proto.s = attribute.text("s").encode()
    proto.floats.extend(attribute.numbers("floats", np.float32))
    proto.ints.extend(attribute.numbers("ints", np.int64))
    proto.strings.extend(text.encode() for text in attribute.texts("strings"))
    tensor, graph = attribute.table("t", "Tensor"), attribute.table("g", "Graph")
    if tensor is not None:
        _fill_tensor(proto.t, tensor)
    if graph is not None:
        _fill_graph(proto.g, graph, depth + 1)
    for tensor in attribute.tables("tensors", "Tensor"):
        _fill_tensor(proto.tensors.add(), tensor)
    for graph in attribute.tables("graphs", "Graph"):
        _fill_graph(proto.graphs.add(), graph, depth + 1)


def _value(value: _Fields) -> ValueInfoProto:
    """Name, type and shape; of a sequence or a map only the name."""
    proto = ValueInfoProto(name=value.text("name"), doc_string=value.text("doc_string"))
    kind = value.table("type", "TypeInfo")
    if kind is None or kind.number("value_type", number_types.Uint8Flags) != TENSOR_TYPE:
        return proto
    tensor = kind.table("value", "TensorTypeAndShape")
    if tensor is None:
        return proto
    proto.type.tensor_type.elem_type = tensor.number("elem_type")
    shape = tensor.table("shape", "Shape")
    if shape is not None:
        proto.type.tensor_type.shape.SetInParent()
        for entry in shape.tables("dim", "Dimension"):
            dim, size = proto.type.tensor_type.shape.dim.add(), entry.table("value", "DimensionValue")
            dim_type = 0 if size is None else size.number("dim_type", number_types.Int8Flags)
            if size is not None and dim_type == DIM_VALUE:
                dim.dim_value = size.number("dim_value", number_types.Int64Flags)
            elif size is not None and dim_type == DIM_PARAM:
                dim.dim_param = size.text("dim_param")
    return proto
