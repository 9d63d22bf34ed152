"""A .tflite file ↔ the objects of its schema: read with every claim checked, written with buffers aligned."""

from __future__ import annotations

import json
import math
import mmap
import struct
from pathlib import Path
from typing import Any, SupportsIndex

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeks.errors import GraphError, ModelFileError
from edgeks.model_files.mapped_file import MappedFile
from edgeks.model_files.tflite_sparse import densified, kept_places

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
# XNNPACK reads kernels in place with vector loads; the schema asks for it (force_align), the Python writer forgets it.
ALIGNMENT = 16
# Offsets in a flatbuffer are 32 bits, signed in some readers.
MAX_FILE_BYTES = (1 << 31) - 1
# What flatbuffers' own verifier, and so LiteRT, takes at most.
MAX_TABLES = 1_000_000
TABLE_BYTES = 8  # the least that one takes with the offset to it
MAX_RANK = 16
# Larger files are mapped.
MAX_READ_BYTES = 1 << 24


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose first byte is at a multiple of 16 in the file."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  # what it overrides
        data = None
        if self.data is not None:
            content = np.ascontiguousarray(self.data).view(np.uint8).reshape(-1).tobytes()
            builder.StartVector(1, len(content), ALIGNMENT)
            head = builder.head - len(content)
            builder.head = head
            builder.Bytes[head : head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class _Options:
    """The options of an operator, written once for all operators with the same."""

    def __init__(self, options: Any) -> None:
        self._options = options

    def Pack(self, builder: _Builder) -> int:  # noqa: N802  # what the operator calls
        content = [type(self._options).__name__, *sorted(vars(self._options).items())]
        key = json.dumps(content, default=lambda value: np.asarray(value).tolist())
        if key not in builder.options:
            builder.options[key] = int(self._options.Pack(builder))
        return builder.options[key]


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors once, since tables may point to one: the zero points of all layers are the same zeros."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.options: dict[str, int] = {}
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, values: np.ndarray[Any, Any]) -> int:  # noqa: N802  # what it overrides
        content = values.dtype.str, values.tobytes()
        if content not in self._written:
            self._written[content] = int(super().CreateNumpyVector(values))
        return self._written[content]


def pack(model: schema.ModelT) -> bytes:
    """Model → bytes of a .tflite file, every buffer aligned to 16 bytes, equal scales and zero points stored once.

    Raises:
        GraphError: it is larger than a flatbuffer can be.
    """
    size = sum(0 if buffer.data is None else np.asarray(buffer.data).nbytes for buffer in model.buffers)
    if size > MAX_FILE_BYTES - 2**20:
        raise GraphError(f"the network's weights take {size:,} bytes, more than a .tflite file holds (2 GB)")
    for index, buffer in enumerate(model.buffers):
        aligned = _AlignedBuffer()
        aligned.data = buffer.data
        model.buffers[index] = aligned
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            if not isinstance(operator.builtinOptions, _Options | None):
                operator.builtinOptions = _Options(operator.builtinOptions)
        for quantization in (tensor.quantization for tensor in graph.tensors):
            if quantization is not None and quantization.scale is not None:
                quantization.scale = np.asarray(quantization.scale, np.float32)
            if quantization is not None and quantization.zeroPoint is not None:
                quantization.zeroPoint = np.asarray(quantization.zeroPoint, np.int64)
    builder = _Builder(size + 4096)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def read_tflite(path: Path) -> schema.ModelT:
    """.tflite file → its objects. Nothing is executed; offsets, indices and sizes are checked.

    The buffers of a large file are mapped, not read. Time and memory are bounded by the file's size: what points to one
    place many times, so that the objects would be more than the file holds, is refused too.

    Raises:
        ModelFileError: the file is missing, no .tflite, cut short, or contradicts itself.
    """
    try:
        if path.is_dir():
            raise ModelFileError(f"{path}: is a folder; name the .tflite file in it")
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file; name a .tflite file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelFileError(f"{path}: {size} bytes; a .tflite file has at most {MAX_FILE_BYTES}")
        with path.open("rb") as file:
            if file.read(8)[4:] != IDENTIFIER:
                raise ModelFileError(f"{path}: no .tflite file (its bytes 4 to 8 are not {IDENTIFIER.decode()})")
            file.seek(0)
            content: _ReadContent | _MappedContent
            if size <= MAX_READ_BYTES:
                content = _ReadContent(file.read())
            else:
                content = _MappedContent(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        stored = schema.Model.GetRootAs(content, 0)
        _count_tables(stored, min(size // TABLE_BYTES, MAX_TABLES))
        model = schema.ModelT.InitFromObj(stored)
        _fetch_appended_buffers(model, content)
        _check(model, size)
    except (struct.error, IndexError, TypeError, AttributeError, ValueError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: a damaged .tflite file ({size} bytes): {error}; export it again") from error
    return model


class _Metered:
    """A file's content. Texts are copied out of it, and it holds no more text than bytes."""

    copied = 0

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)  # type: ignore[misc]
        if isinstance(found, bytes):
            self.copied += len(found)
            if self.copied > len(self):  # type: ignore[arg-type]
                raise ValueError("its names are longer than the file")
        return found


class _ReadContent(_Metered, bytes):
    """A small file, which may be replaced while its buffers are in use."""


class _MappedContent(_Metered, MappedFile):
    """A large file: its buffers are read when they are used."""


def _count_tables(model: schema.Model, limit: int) -> None:
    """Raise ValueError where the file's lists have more than `limit` entries in all. Lists of numbers are no copies."""
    count = 0

    def add(entries: int) -> None:
        nonlocal count
        count += entries
        if count > limit:
            raise ValueError(f"its lists have more than the {limit} entries that it has room for")

    add(model.OperatorCodesLength() + model.BuffersLength() + model.MetadataLength() + model.SignatureDefsLength())
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        add(signature.InputsLength() + signature.OutputsLength())
    add(model.SubgraphsLength())
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        add(graph.TensorsLength() + graph.OperatorsLength())
        for number in range(graph.TensorsLength()):
            tensor = graph.Tensors(number)
            sparsity = tensor.Sparsity()
            add(tensor.VariantTensorsLength() + (0 if sparsity is None else sparsity.DimMetadataLength()))


def metadata(model: schema.ModelT) -> dict[str, bytes]:
    """Name → content of the file's metadata entries."""
    return {
        _text(entry.name): np.asarray(model.buffers[entry.buffer].data, np.uint8).tobytes()
        for entry in model.metadata or []
        if 0 <= entry.buffer < len(model.buffers) and model.buffers[entry.buffer].data is not None
    }


def _text(name: bytes | str | None) -> str:
    """The schema's reader gives names as bytes, its objects take text."""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")


def tensor_name(tensor: schema.TensorT) -> str:
    """Name of a tensor."""
    return _text(tensor.name)


def operator_code(model: schema.ModelT, operator: schema.OperatorT) -> int:
    """Builtin operator of a node. Codes above 127 are stored in a field that old readers do not know."""
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def whole_numbers(numbers: Any) -> list[int]:
    """A vector of whole numbers of the schema, which may be absent, as a list."""
    return [] if numbers is None else [int(number) for number in numbers]


OPERATOR_NAMES: dict[int, str] = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
TYPE_NAMES: dict[int, str] = {
    value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")
}
NUMPY_TYPES: dict[int, Any] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.BOOL: np.bool_,
    schema.TensorType.FLOAT64: np.float64,
}


def is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    """Whether the file holds the content of a tensor."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def is_dense(tensor: schema.TensorT) -> bool:
    """Whether the content is an array of the tensor's shape: of a type that numpy has, and not stored sparse."""
    return tensor.type in NUMPY_TYPES and tensor.sparsity is None


def constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray[Any, Any] | None:
    """Content of a constant tensor in its own shape and type, a sparse one densified; None where it is computed.

    None also where it is of a type that numpy has not, or sparse in another way than edgeks writes.
    """
    if not is_constant(model, tensor) or tensor.type not in NUMPY_TYPES:
        return None
    if tensor.sparsity is not None:
        content = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
        return densified(content.view(NUMPY_TYPES[tensor.type]), tensor)
    return shaped(np.asarray(model.buffers[tensor.buffer].data, np.uint8), tensor)


def shaped(content: np.ndarray[Any, Any], tensor: schema.TensorT) -> np.ndarray[Any, Any]:
    """Bytes of a constant of a type that numpy has → an array of them in its shape and type, read-only, no copy."""
    shape = () if tensor.shape is None else tuple(tensor.shape)
    found = np.frombuffer(content.data, NUMPY_TYPES[tensor.type]).reshape(shape)
    found.flags.writeable = False
    return found


def _fetch_appended_buffers(model: schema.ModelT, content: _ReadContent | _MappedContent) -> None:
    """Buffers that lie behind the flatbuffer, as ai-edge-quantizer writes them → buffers like any other."""
    for buffer in model.buffers if model.buffers is not None else []:
        if buffer.offset > 1 or buffer.size > 1:  # 0 and 1 stand for "in the flatbuffer"
            if buffer.offset + buffer.size > len(content):
                raise ValueError(f"a buffer of {buffer.size} bytes at {buffer.offset}, behind the end of the file")
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    for graph in model.subgraphs if model.subgraphs is not None else []:
        for operator in graph.operators if graph.operators is not None else []:
            if operator.largeCustomOptionsOffset > 1:
                raise ValueError(
                    "a custom operator whose options lie behind the flatbuffer, which edgeks does not read"
                )


def _check(model: schema.ModelT, size: int) -> None:
    """Raise ValueError where an index points nowhere, or a constant is not as large as its shape says."""
    if not model.subgraphs:
        raise ValueError("no graph in it")
    if model.version != SCHEMA_VERSION:
        raise ValueError(f"schema version {model.version}, known: {SCHEMA_VERSION}")
    left = 4 * size  # numbers that all lists may still have; a vector may be pointed to by several
    for graph in model.subgraphs:
        count = len(graph.tensors)
        for tensor in graph.tensors:
            if not 0 <= tensor.buffer < len(model.buffers):
                raise ValueError(f"tensor {tensor.name!r} names buffer {tensor.buffer} of {len(model.buffers)}")
            _check_constant(model, tensor)
            left -= _numbers_in(tensor)
        for operator in graph.operators if graph.operators is not None else []:
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
                raise ValueError(f"an operator names code {operator.opcodeIndex} of {len(model.operatorCodes)}")
            lists = [operator.inputs, operator.outputs, operator.intermediates]
            left -= sum(len(numbers) for numbers in lists if numbers is not None)
            if left < 0:
                break
            if any(not -1 <= index < count for numbers in lists for index in whole_numbers(numbers)):
                raise ValueError("an operator names a tensor that is not there")
        if left < 0:
            raise ValueError("its lists have more numbers than it has room for")
        if any(not 0 <= index < count for index in [*whole_numbers(graph.inputs), *whole_numbers(graph.outputs)]):
            raise ValueError("the graph names an input or output that is not there")
    _check_signatures(model)


def _check_signatures(model: schema.ModelT) -> None:
    """Raise ValueError where a signature names a graph or a tensor that is not there."""
    for signature in model.signatureDefs or []:
        if not 0 <= signature.subgraphIndex < len(model.subgraphs):
            raise ValueError(f"a signature names graph {signature.subgraphIndex} of {len(model.subgraphs)}")
        count = len(model.subgraphs[signature.subgraphIndex].tensors)
        if any(entry.tensorIndex >= count for entry in [*(signature.inputs or []), *(signature.outputs or [])]):
            raise ValueError("a signature names a tensor that is not there")


def _check_constant(model: schema.ModelT, tensor: schema.TensorT) -> None:
    """Raise ValueError where a shape is none, or the buffer holds another number of bytes than it says."""
    shape = [] if tensor.shape is None else list(tensor.shape[: MAX_RANK + 1])
    data = model.buffers[tensor.buffer].data
    if len(shape) > MAX_RANK:
        raise ValueError(f"tensor {tensor.name!r} has more than {MAX_RANK} axes")
    if data is None or len(data) == 0 or tensor.type not in NUMPY_TYPES:
        return
    expected = math.prod(int(length) for length in shape) * np.dtype(NUMPY_TYPES[tensor.type]).itemsize
    fits = len(data) == expected if tensor.sparsity is None else len(data) <= expected
    if fits and tensor.sparsity is not None:
        kept_places(len(data) // np.dtype(NUMPY_TYPES[tensor.type]).itemsize, tensor)
    if any(length < 0 for length in shape) or not fits:
        raise ValueError(f"tensor {tensor.name!r} of shape {[int(n) for n in shape]} has {len(data)} bytes")


def _numbers_in(tensor: schema.TensorT) -> int:
    """How many numbers describe a tensor."""
    lists = [tensor.shape, tensor.shapeSignature]
    quantised = tensor.quantization
    if quantised is not None:
        lists += [quantised.scale, quantised.zeroPoint, quantised.min, quantised.max]
    return sum(len(numbers) for numbers in lists if numbers is not None)
