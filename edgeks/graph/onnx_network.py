"""An ONNX file that any tool may have made, as a network to export: read, checked, constants in memory, float32."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.checker
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from edgeks.errors import DataError, EdgeksError, ModelFileError
from edgeks.graph.float32 import OTHER_FLOATS, other_floats, to_float32
from edgeks.model_files.onnx_file import MAX_FILE_BYTES, ModelFile, SparseConstant, node_label, read_model_file
from edgeks.preprocessing import Preprocessing
from edgeks.wording import first_names

MIN_OPSET = 11
MAX_OPSET = onnx.defs.onnx_opset_version()
STANDARD_DOMAINS = ("", "ai.onnx")
CODES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
QUANTISED_OPS = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
})  # fmt: skip
IMAGE_RANK = 4
METADATA = ("edgeks.preprocessing", "edgeks.architecture")


@dataclass(frozen=True, slots=True, eq=False)
class OnnxNetwork:
    """A float network from an ONNX file; it takes the place of a Checkpoint in an export.

    `proto` holds all its constants and has one input, N×C×H×W in float32. `image_size` is C, H, W of that input; None
    where the file leaves it open. `preprocessing` and `architecture` are known of files that edgeks wrote.
    `files` are all that were read.
    """

    path: Path
    proto: ModelProto
    image_size: tuple[int | None, int | None, int | None]
    files: tuple[Path, ...]
    warnings: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    architecture: str | None = None

    @property
    def opset(self) -> int:
        """Version of the standard operators that the file is written in."""
        return int(next(entry.version for entry in self.proto.opset_import if entry.domain in STANDARD_DOMAINS))

    def input_shape(self, asked: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        """C, H, W of one input: `asked` (--input), or the file's; None where neither says it all.

        Raises:
            DataError: `asked` is not what the file takes.
        """
        if asked is None:
            channels, height, width = self.image_size
            return None if channels is None or height is None or width is None else (channels, height, width)
        if any(own not in (None, size) for own, size in zip(self.image_size, asked, strict=True)):
            taken = "×".join("?" if size is None else str(size) for size in self.image_size)
            raise DataError(f"--input {'x'.join(map(str, asked))} contradicts {self.path.name}, which takes {taken}")
        return asked


def load_onnx(path: Path) -> OnnxNetwork:
    """ONNX file of opset 11 or later → network; nothing is executed. Other float types become float32.

    Raises:
        ModelFileError: the file is missing, damaged, quantised already, has operators of other domains than ONNX's, or
            another input than one batch of images.
    """
    file = read_model_file(path)
    stored = sum(constant.stored_bytes for constant in file.all_constants())
    if stored > MAX_FILE_BYTES:
        raise ModelFileError(f"{path}: {stored:,} bytes of constants; edgeks exports networks of up to 2 GB")
    proto, warnings = file.proto, list[str]()
    data_files = {constant.data_file for constant in file.all_constants() if constant.data_file}
    try:
        _require_opset(proto)
        _require_float(proto.graph)
        _require_standard(proto.graph)
        _drop_constant_inputs(proto)
        image_size = _image_size(proto.graph)
        _load_external_data(file)
        onnx.checker.check_model(proto)
        if converted := other_floats(proto):
            to_float32(proto)
            warnings.append(f"{' and '.join(converted)} in {path.name} became float32; parity is measured after that")
        preprocessing, architecture = _metadata(proto)
    except EdgeksError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except Exception as error:  # onnx raises its own ValidationError, and protobuf's where a field is damaged
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFileError(f"{path}: is not sound ONNX: {reason[:300]}") from error
    if preprocessing is not None and any(
        own not in (None, size) for own, size in zip(image_size, preprocessing.shape, strict=True)
    ):
        raise ModelFileError(f"{path}: takes {image_size}, but its edgeks.preprocessing says {preprocessing.shape}")
    files = tuple(dict.fromkeys((path, *data_files)))
    return OnnxNetwork(path, proto, image_size, files, tuple(warnings), preprocessing, architecture)


def _require_opset(proto: ModelProto) -> None:
    version = next((entry.version for entry in proto.opset_import if entry.domain in STANDARD_DOMAINS), None)
    if version is None or not MIN_OPSET <= version <= MAX_OPSET:
        found = "no opset of the ONNX standard" if version is None else f"opset {version}"
        raise ModelFileError(f"{found}; legal: {MIN_OPSET} to {MAX_OPSET}: export it again with opset_version=20")


def _require_float(graph: GraphProto) -> None:
    """Codes of another quantisation cannot be quantised again as they were meant; edgeks starts from float."""
    found = [node_label(node) for node in graph.node if node.op_type in QUANTISED_OPS or "QLinear" in node.op_type]
    found += [tensor.name for tensor in graph.initializer if tensor.data_type in CODES and len(tensor.dims) > 1]
    if found:
        raise ModelFileError(
            f"is quantised already ({first_names(found)}); give the float network that it was made from: edgeks "
            "quantises each shared kernel once by itself"
        )


def _require_standard(graph: GraphProto) -> None:
    other = [node for node in graph.node if node.domain not in STANDARD_DOMAINS]
    if other:
        names = dict.fromkeys(f"{node.domain}.{node.op_type}" for node in other)
        raise ModelFileError(
            f"has operators outside the ONNX standard ({first_names(list(names))}); export it again without them and "
            "without optimising it for one runtime"
        )


def _drop_constant_inputs(proto: ModelProto) -> None:
    """Old files list every constant as an input too, with a value that the caller could replace: here nobody does."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 8)  # before 4 a constant had to be an input


def _load_external_data(file: ModelFile) -> None:
    for constant in file.all_constants():
        if constant.data_file is not None or isinstance(constant, SparseConstant):
            content = constant.array()
            constant.tensor.CopyFrom(onnx.numpy_helper.from_array(content, constant.name))


def _image_size(graph: GraphProto) -> tuple[int | None, int | None, int | None]:
    """C, H, W of the one input; None where the file leaves a size open."""
    read = {name for node in graph.node for name in _names_read(node)} | {value.name for value in graph.output}
    used = [value for value in graph.input if value.name in read]
    if len(used) != 1:
        named = first_names([value.name for value in used]) or "none"
        raise ModelFileError(f"has {len(used)} inputs ({named}); legal: one, a batch of images N×C×H×W")
    del graph.input[:]
    graph.input.extend(used)
    where, tensor = f"input {used[0].name!r}", used[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT and tensor.elem_type not in OTHER_FLOATS:
        kind = onnx.helper.tensor_dtype_to_string(tensor.elem_type).removeprefix("TensorProto.").lower()
        raise ModelFileError(f"{where} is {kind}; legal: float images (edgeks makes integers with --io)")
    dims = _dims(used[0])
    if dims is None or len(dims) != IMAGE_RANK:
        shape = (
            "no shape" if dims is None else f"the shape {'×'.join(str(d or '?') for d in dims) or '()'}, {len(dims)}-D"
        )
        raise ModelFileError(f"{where} has {shape}; legal: a batch of images N×C×H×W")
    batch, *image = dims
    if batch not in (None, 1):
        raise ModelFileError(
            f"{where} has a fixed batch of {batch}; edgeks writes batch 1: export it with batch 1 or a dynamic batch"
        )
    return image[0], image[1], image[2]


def _names_read(node: NodeProto) -> list[str]:
    """Names that a node reads, the bodies inside it included."""
    bodies = [inner for attribute in node.attribute for inner in (attribute.g, *attribute.graphs)]
    inside = [name for body in bodies for other in body.node for name in _names_read(other)]
    return [*node.input, *inside, *(value.name for body in bodies for value in body.output)]


def _dims(value: ValueInfoProto) -> list[int | None] | None:
    """Sizes; None for an open one, and for all where there is no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim]


def _metadata(proto: ModelProto) -> tuple[Preprocessing | None, str | None]:
    """What edgeks wrote into a file of its own."""
    stored = {entry.key: entry.value for entry in proto.metadata_props if entry.key.startswith("edgeks.")}
    try:
        found = {
            key: json.loads(stored[key]) for key in ("edgeks.preprocessing", "edgeks.architecture") if key in stored
        }
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"its edgeks metadata is no JSON: {error}") from error
    preprocessing, architecture = (found.get(key) for key in METADATA)
    return (
        None if preprocessing is None else Preprocessing.from_dict(preprocessing),
        architecture if isinstance(architecture, str) else None,
    )
