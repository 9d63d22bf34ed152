"""Reading an ONNX file that anybody may have made: nothing is executed, and every claim it makes is checked first."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from edgeks.errors import ModelFileError
from edgeks.model_files.mapped_file import map_file, pieces
from edgeks.model_files.onnx_sparse import SparseKernel, dense_kernel, take_out
from edgeks.model_files.onnx_wire import CONTENT_AT, WireError, small_parts

# Protobuf cannot hold more in one message; larger models keep their constants in external data.
MAX_FILE_BYTES = (1 << 31) - 1
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_RANK = 32  # of numpy 1; numpy 2 takes 64
# Model-local functions may call each other: what they come to when every call is written out.
MAX_INLINED_BYTES = 1 << 26

BITS = {
    "FLOAT": 32, "DOUBLE": 64, "FLOAT16": 16, "BFLOAT16": 16, "COMPLEX64": 64, "COMPLEX128": 128, "BOOL": 8,
    "INT8": 8, "UINT8": 8, "INT16": 16, "UINT16": 16, "INT32": 32, "UINT32": 32, "INT64": 64, "UINT64": 64,
    "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8,
    "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2,
}  # fmt: skip
KINDS: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}


# Name of a constant → its bits and values.
Sparse = Mapping[str, tuple[TensorProto, TensorProto]]


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """One tensor stored in the file: a graph initializer, or the value of a Constant node.

    `stored_bytes` is what its data takes in the file (or in its external data file). Large content stays where it is
    until it is asked for: in `data_file` (the model itself, or an external data file) at `data_offset`. Compared by
    identity.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int
    tensor: TensorProto
    data_file: Path | None
    data_offset: int = 0

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Type of the array."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.tensor.data_type))

    def array(self) -> NDArray[Any]:
        """The values. What `data_file` holds is mapped, not read; types of less than a byte are unpacked."""
        if self.data_file is None:
            return np.asarray(onnx.numpy_helper.to_array(self.tensor))
        stored = self._mapped()
        if BITS[KINDS[self.tensor.data_type]] < 8:
            inline = TensorProto(dims=self.shape, data_type=self.tensor.data_type, raw_data=stored.tobytes())
            return np.asarray(onnx.numpy_helper.to_array(inline))
        return stored.view(self.numpy_dtype).reshape(self.shape)

    def content(self) -> NDArray[np.uint8]:
        """The values as bytes, in one way however they are stored: what is compared byte for byte."""
        if self.data_file is not None:
            return self._mapped()
        if self.dtype == "string":
            return np.frombuffer(repr([bytes(text) for text in self.tensor.string_data]).encode(), np.uint8)
        if BITS[KINDS[self.tensor.data_type]] < 8:
            packed = self.tensor.raw_data or bytes(number & 255 for number in self.tensor.int32_data)
            return np.frombuffer(packed, np.uint8)
        return np.ascontiguousarray(self.array()).reshape(-1).view(np.uint8)

    def digest(self) -> bytes:
        """The same for two constants exactly when type, shape and every byte are the same."""
        digest = hashlib.sha256(f"{self.dtype}{self.shape}".encode())
        for piece in pieces(self.content()):
            digest.update(piece)
        return digest.digest()

    def _mapped(self) -> NDArray[np.uint8]:
        if self.data_file is None or self.stored_bytes == 0:
            return np.empty(0, np.uint8)
        try:
            return np.frombuffer(map_file(self.data_file), np.uint8, self.stored_bytes, self.data_offset)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{self.data_file}: cannot be read any more: {error}; was it replaced?") from error


@dataclass(frozen=True, slots=True, eq=False)
class SparseConstant(Constant):
    """A kernel that the file holds as a bit per weight and the weights that are kept (`onnx_sparse`)."""

    bits: Constant = field(kw_only=True)
    values: Constant = field(kw_only=True)

    def array(self) -> NDArray[Any]:
        """The kernel, dense, as a runtime holds it."""
        try:
            return dense_kernel(SparseKernel(self.bits.array(), self.values.array(), self.shape))
        except ValueError as error:
            raise ModelFileError(f"constant {self.name!r}: {error}; the file is damaged, export it again") from error

    def content(self) -> NDArray[np.uint8]:
        """The dense kernel as bytes."""
        return self.array().reshape(-1).view(np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class ModelFile:
    """A file that was read and found sound: names are unique, nodes are in order, constants have the size they claim.

    `proto` has model-local functions inlined. `file_bytes` includes external data files.
    """

    path: Path
    proto: ModelProto
    file_bytes: int
    # Of every graph, the main one and the bodies of If, Loop and Scan: GraphProtos have no identity, so by path.
    constants: dict[str, dict[str, Constant]]

    def all_constants(self) -> list[Constant]:
        """Every constant of every graph, in file order."""
        return [constant for graph in self.constants.values() for constant in graph.values()]


def read_model_file(path: Path) -> ModelFile:
    """ONNX file → ModelFile, without reading large constants and without running anything.

    Memory is bounded by what the graph takes, not by the file's size.

    Raises:
        ModelFileError: the file is missing, not ONNX, cut short, or contradicts itself.
    """
    proto = _parse(path)
    sparse = take_out(proto)
    if proto.functions:
        _require_finite_functions(path, proto)
        try:
            proto = onnx.inliner.inline_local_functions(proto)
        except Exception as error:
            raise ModelFileError(f"{path}: its functions cannot be inlined: {error}") from error
    return checked_model(path, proto, sparse)


def data_files(path: Path) -> tuple[Path, ...]:
    """Files in or below the folder of an .onnx file that hold its external data, absolute.

    None for a file of another kind, and for one that edgeks cannot read, though a runtime may.
    """
    if path.suffix != ".onnx":
        return ()
    try:
        constants = read_model_file(path).all_constants()
    except ModelFileError:
        return ()
    files = {constant.data_file.resolve() for constant in constants if constant.data_file}
    return tuple(sorted(files - {path.resolve()}))


def checked_model(path: Path, proto: ModelProto, sparse: Sparse = MappingProxyType({})) -> ModelFile:
    """A model that was parsed → ModelFile, if it is sound. `proto` has no functions; `sparse`: of `take_out`.

    Raises:
        ModelFileError: it contradicts itself.
    """
    constants: dict[str, dict[str, Constant]] = {}
    nodes = _count_nodes(proto.graph)
    if nodes > MAX_NODES:
        raise ModelFileError(f"{path}: {nodes:,} nodes; edgeks reads networks of up to {MAX_NODES:,}")
    _read_graph(path, proto.graph, "", frozenset(), constants, sparse)
    files = {constant.data_file for graph in constants.values() for constant in graph.values() if constant.data_file}
    size = sum(file.stat().st_size for file in {path, *files})
    return ModelFile(path, proto, size, constants)


def node_label(node: NodeProto) -> str:
    """The node's name, or for a nameless node what it computes."""
    return node.name or f"{node.op_type} → {first_output(node)}"


def first_output(node: NodeProto) -> str:
    """The first output that has a name: one that is not wanted, such as the sequence of an LSTM, has none."""
    return next(filter(None, node.output), "")


def subgraphs(node: NodeProto, graph_path: str) -> Iterator[tuple[str, GraphProto]]:
    """The bodies of a node of the graph at `graph_path`, each with its own path (a node is known by what it makes)."""
    made = ",".join(node.output)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield f"{graph_path}/{made}.{attribute.name}", attribute.g
        for position, graph in enumerate(attribute.graphs):
            yield f"{graph_path}/{made}.{attribute.name}.{position}", graph


def all_graphs(graph: GraphProto, graph_path: str = "") -> Iterator[tuple[str, GraphProto]]:
    """A graph and the bodies inside it, however deep, each with its path."""
    yield graph_path, graph
    for node in graph.node:
        for body_path, body in subgraphs(node, graph_path):
            yield from all_graphs(body, body_path)


def require_file(path: Path, suffix: str) -> int:
    """Size of a regular file.

    Raises:
        ModelFileError: it is a folder, is missing, or is larger than a model of that format can be.
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; name the {suffix} file in it")
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; name a file of the kind {suffix}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ModelFileError(
            f"{path}: {size} bytes; a file of the kind {suffix} has at most {MAX_FILE_BYTES} (ONNX: use external data)"
        )
    return size


def _parse(path: Path) -> ModelProto:
    try:
        size = require_file(path, ".onnx")
        proto = ModelProto()
        if size:
            with map_file(path) as content:
                proto.ParseFromString(small_parts(content))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    except WireError as error:
        raise ModelFileError(f"{path}: not an ONNX model, or cut short ({size} bytes): {error}") from error
    except DecodeError as error:
        raise ModelFileError(f"{path}: not an ONNX model, or cut short ({size} bytes); export it again") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelFileError(f"{path}: no graph in it ({size} bytes), so not an ONNX model; name an .onnx file")
    return proto


def _count_nodes(graph: GraphProto) -> int:
    """Nodes of a graph and of the bodies in it. Protobuf does not nest deeper than Python."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    bodies = [body for attribute in attributes for body in (attribute.g, *attribute.graphs) if body.node]
    return len(graph.node) + sum(map(_count_nodes, bodies))


def _require_finite_functions(path: Path, proto: ModelProto) -> None:
    """Functions of functions can double at every level, and could call themselves."""
    own = {(function.domain, function.name, function.overload): function for function in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def size_of(nodes: Any, within: tuple[tuple[str, str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in within or len(within) > MAX_DEPTH:
                raise ModelFileError(f"{path}: its function {node.op_type!r} calls itself, or through too many others")
            if key in own and key not in sizes:
                sizes[key] = own[key].ByteSize() + size_of(own[key].node, (*within, key))
            total += sizes.get(key, 0) + sum(size_of(body.node, within) for _, body in subgraphs(node, ""))
        return total

    if size_of(proto.graph.node, ()) > MAX_INLINED_BYTES:
        raise ModelFileError(f"{path}: its functions call each other so often that they come to more than 64 MB")


def _read_graph(
    path: Path,
    graph: GraphProto,
    graph_path: str,
    outer: frozenset[str],
    found: dict[str, dict[str, Constant]],
    sparse: Sparse = MappingProxyType({}),
    depth: int = 0,
) -> None:
    """Check one graph and collect its constants; then the bodies inside it, which see `outer` names too."""
    if depth > MAX_DEPTH:
        raise ModelFileError(f"{path}: bodies nested deeper than {MAX_DEPTH}")
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelFileError(f"{path}: constant {name!r} is sparse; edgeks reads dense constants only")
    _require_text(path, graph)
    constants = found.setdefault(graph_path, {})
    for tensor in graph.initializer:
        if tensor.name in constants:
            raise ModelFileError(f"{path}: two constants are named {tensor.name!r}; names must be unique")
        parts = sparse.get(tensor.name)
        made = _constant(path, tensor.name, tensor) if parts is None else _sparse_constant(path, tensor, *parts)
        constants[tensor.name] = made
    known = {value.name for value in graph.input}
    if len(known) < len(graph.input):
        raise ModelFileError(f"{path}: two graph inputs have the same name; names must be unique")
    known |= set(constants) | outer
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise ModelFileError(
                    f"{path}: node {node_label(node)!r} reads {name!r}, which nothing before it produces "
                    "(a cycle, nodes out of order, or a damaged file)"
                )
        for body_path, body in subgraphs(node, graph_path):
            _read_graph(path, body, body_path, frozenset(known), found, depth=depth + 1)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and (len(node.input) < 2 or len(node.output) != 1):
            raise ModelFileError(
                f"{path}: {node.op_type} {node_label(node)!r} needs two inputs or three, and one output"
            )
        if not any(node.output):
            raise ModelFileError(
                f"{path}: {node.op_type} {node.name!r} has no output; the file is damaged, export it again"
            )
        for name in filter(None, node.output):
            if name in known:
                raise ModelFileError(f"{path}: {name!r} is produced twice, the second time by {node_label(node)!r}")
            known.add(name)
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            constants[node.output[0]] = _constant_of_node(path, node)
    for value in graph.output:
        if value.name not in known:
            raise ModelFileError(f"{path}: nothing produces the graph output {value.name!r}")


def _require_text(path: Path, graph: GraphProto) -> None:
    """Protobuf hands over text that is not UTF-8 as bytes; nothing after this expects that."""
    texts: list[object] = [graph.name]
    for node in graph.node:
        texts += (node.op_type, node.name, node.domain, *node.input, *node.output)
        texts += (attribute.name for attribute in node.attribute)
    for tensor in graph.initializer:
        texts.append(tensor.name)
        texts += (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for value in (*graph.input, *graph.output, *graph.value_info):
        texts.append(value.name)
        texts += (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    damaged = next((text for text in texts if not isinstance(text, str)), None)
    if damaged is not None:
        raise ModelFileError(f"{path}: the name {damaged!r} is not UTF-8 text; the file is damaged, export it again")


def _constant_of_node(path: Path, node: NodeProto) -> Constant:
    attribute = node.attribute[0] if len(node.attribute) == 1 else AttributeProto()
    name = node.output[0] if node.output else ""
    values: dict[str, tuple[int, Any, list[int]]] = {
        "value_float": (TensorProto.FLOAT, [attribute.f], []),
        "value_floats": (TensorProto.FLOAT, attribute.floats, [len(attribute.floats)]),
        "value_int": (TensorProto.INT64, [attribute.i], []),
        "value_ints": (TensorProto.INT64, attribute.ints, [len(attribute.ints)]),
        "value_string": (TensorProto.STRING, [attribute.s], []),
        "value_strings": (TensorProto.STRING, attribute.strings, [len(attribute.strings)]),
    }
    if attribute.name == "value":
        return _constant(path, name, attribute.t)
    if attribute.name not in values:
        raise ModelFileError(f"{path}: Constant node {node_label(node)!r} has no dense value")
    data_type, data, dims = values[attribute.name]
    return _constant(path, name, onnx.helper.make_tensor(name, data_type, dims, data))


def _constant(path: Path, name: str, tensor: TensorProto) -> Constant:
    """Check that a tensor holds as much data as its shape and type say, before anything is allocated for it."""
    where = f"{path}: constant {name!r}"
    shape = tuple(tensor.dims)
    kind = KINDS.get(tensor.data_type, "UNDEFINED")
    if kind != "STRING" and kind not in BITS:
        raise ModelFileError(f"{where} has the unknown data type {tensor.data_type}")
    if len(shape) > MAX_RANK:
        raise ModelFileError(f"{where} has {len(shape)} axes; edgeks reads up to {MAX_RANK}")
    if any(size < 0 for size in shape):
        raise ModelFileError(f"{where} has the shape {shape}; sizes cannot be negative")
    dtype = "string" if kind == "STRING" else onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    elements = math.prod(shape)
    if kind == "STRING":
        held, needed = len(tensor.string_data), elements
        stored = sum(map(len, tensor.string_data))
        unit = "texts"
    elif tensor.data_location == TensorProto.EXTERNAL:
        needed = -(-elements * BITS[kind] // 8)
        if not any(entry.key == CONTENT_AT for entry in tensor.external_data):
            data_file, offset = _external_data(where, path, tensor, needed)
            return Constant(name, dtype, shape, needed, tensor, data_file, offset)
        offset, held = _content_in_model(where, path, tensor)
        if held == needed:
            return Constant(name, dtype, shape, needed, tensor, path, offset)
        unit = "bytes"
    elif tensor.HasField("raw_data") or not elements:
        held, needed = len(tensor.raw_data), -(-elements * BITS[kind] // 8)
        stored, unit = held, "bytes"
    else:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        per_element = {"COMPLEX64": 2.0, "COMPLEX128": 2.0}.get(kind, 0.5 if BITS[kind] == 4 else 1.0)
        per_element = 0.25 if BITS[kind] == 2 else per_element
        data = getattr(tensor, field)
        held, needed = len(data), math.ceil(elements * per_element)
        head = TensorProto(dims=shape, data_type=tensor.data_type, name=tensor.name, doc_string=tensor.doc_string)
        stored, unit = tensor.ByteSize() - head.ByteSize(), "values"
    if held != needed:
        raise ModelFileError(f"{where} has shape {shape} and needs {needed} {unit}, but the file holds {held}")
    return Constant(name, dtype, shape, stored, tensor, None)


def _sparse_constant(path: Path, head: TensorProto, bits: TensorProto, values: TensorProto) -> SparseConstant:
    """Check that there is a bit for every weight of the shape; a kernel is at most as large as a file may be."""
    where = f"{path}: constant {head.name!r}"
    kept, held = _constant(path, bits.name, bits), _constant(path, values.name, values)
    shape = tuple(head.dims)
    weights = math.prod(shape)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape) or weights * held.numpy_dtype.itemsize > MAX_FILE_BYTES:
        raise ModelFileError(f"{where} has the shape {shape}; edgeks reads kernels of up to 2 GB")
    if kept.dtype != "uint8" or math.prod(kept.shape) != -(-weights // 8) or BITS.get(KINDS[values.data_type], 0) < 8:
        raise ModelFileError(f"{where} of shape {shape} has {math.prod(kept.shape)} bytes of bits; the file is damaged")
    stored = kept.stored_bytes + held.stored_bytes
    return SparseConstant(head.name, held.dtype, shape, stored, head, None, bits=kept, values=held)


def _content_in_model(where: str, path: Path, tensor: TensorProto) -> tuple[int, int]:
    """Offset and length of the content that `small_parts` left in the model's own file."""
    entry = next(entry.value for entry in tensor.external_data if entry.key == CONTENT_AT)
    try:
        field, offset, length = entry.split(" ")
        found = int(offset), int(length)
    except ValueError as error:
        raise ModelFileError(f"{where}: its entry {CONTENT_AT} is malformed: {entry[:40]!r}") from error
    if field != "raw_data" and field != onnx.helper.tensor_dtype_to_field(tensor.data_type):
        raise ModelFileError(f"{where} has its values in {field}, which its type {tensor.data_type} does not use")
    if min(found) < 0 or sum(found) > path.stat().st_size:
        raise ModelFileError(f"{where}: its entry {CONTENT_AT} points behind the file: {entry[:40]!r}")
    return found


def _external_data(where: str, path: Path, tensor: TensorProto, needed: int) -> tuple[Path, int]:
    """File and offset of a tensor's external data, which must lie in the folder of the model."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(needed)))
        folder = path.resolve().parent
        data_file = (folder / location).resolve()
        size = data_file.stat().st_size if location and data_file.is_file() else None
    except (ValueError, TypeError, OSError) as error:
        raise ModelFileError(f"{where}: its external data entry is malformed: {error}") from error
    if not data_file.is_relative_to(folder):
        raise ModelFileError(
            f"{where}: its data is in {location!r}, outside the model's folder; edgeks does not read it"
        )
    if size is None:
        raise ModelFileError(f"{where}: its data file {location!r} is not beside the model; copy it there")
    if length != needed or offset < 0 or offset + length > size:
        raise ModelFileError(
            f"{where}: needs {needed} bytes, its entry says {length} at {offset} of {location!r} ({size} bytes)"
        )
    return data_file, offset
