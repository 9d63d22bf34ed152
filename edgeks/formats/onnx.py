"""onnx_ir.Model → .onnx file, and running one in ONNX Runtime with a target's session options."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

import edgeks
from edgeks import runtime_profile
from edgeks.errors import GraphError, ModelFileError
from edgeks.formats.batches import in_batches
from edgeks.formats.compact_names import compact_names
from edgeks.formats.sparse_onnx import store_sparse
from edgeks.interface import Interface
from edgeks.model_files.onnx_file import all_graphs
from edgeks.target import Session

MAX_PROTO_BYTES = 2**31 - 1
INTERFACE_KEY = "interface"  # of metadata_props, with the prefix that all of edgeks' keys have
LEVELS = {level: getattr(ort.GraphOptimizationLevel, name) for level, name in runtime_profile.LEVELS.items()}
# Node by node as the file says, without the rewrites (u8×s8 among them) that depend on this machine's CPU.
REFERENCE = Session(threads=1, graph_optimization="disabled", disabled_optimizers=())


def to_proto(model: ir.Model, metadata: Mapping[str, Any] | None = None) -> onnx.ModelProto:
    """Graph → ModelProto without value_info, which doubles a small file; `metadata` values are stored as JSON.

    Raises:
        GraphError: the graph is larger than one protobuf message, or onnx finds it unsound.
    """
    if sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value) > MAX_PROTO_BYTES - 2**20:
        raise GraphError("the network's weights are above 2 GB, more than one .onnx file holds")
    proto = ir.to_proto(model)
    for _, graph in all_graphs(proto.graph):
        # ONNX Runtime does not infer the rank of what a Loop leaves, and keeps layers behind it from channels-last.
        left = {output for node in graph.node if node.op_type == "Loop" for output in node.output}
        known = [value for value in graph.value_info if value.name in left]
        del graph.value_info[:]
        graph.value_info.extend(known)
        for node in graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                node.ClearField("name")  # made up, 25 bytes each; their outputs are named after what they quantise
    proto.producer_name, proto.producer_version = "edgeks", edgeks.__version__
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=f"edgeks.{key}", value=json.dumps(value, separators=(",", ":")))
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"the graph is not sound ONNX: {str(error).splitlines()[0]}") from error
    return proto


def write_onnx(model: ir.Model, path: Path, metadata: Mapping[str, Any] | None = None, *, sparse: bool = False) -> None:
    """Graph → file at `path` (a temporary one: the caller renames it); `sparse`: see edgeks.model_files.onnx_sparse."""
    proto = to_proto(model, metadata)
    compact_names(proto)
    if sparse:
        store_sparse(proto)
    path.write_bytes(proto.SerializeToString())


def open_session(
    model: Path | bytes, options: Session, name: str = "the graph", save_as: Path | None = None
) -> ort.InferenceSession:
    """ONNX Runtime session on the CPU. `name` is what an error calls a model that is no file.

    `save_as`: where ONNX Runtime writes the graph as it has optimised it.

    Raises:
        ModelFileError: ONNX Runtime does not take the model.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.graph_optimization_level = LEVELS[options.graph_optimization]
    settings.log_severity_level = 3
    settings.enable_cpu_mem_arena, settings.enable_mem_pattern = options.arena, options.memory_pattern
    if save_as is not None:
        settings.optimized_model_filepath = str(save_as)
    for key, value in options.config:
        settings.add_session_config_entry(key, value)
    source = str(model) if isinstance(model, Path) else model
    try:
        return ort.InferenceSession(
            source, settings, providers=["CPUExecutionProvider"], disabled_optimizers=list(options.disabled_optimizers)
        )
    except Exception as error:  # ONNX Runtime has no public root of its error classes
        where = model.name if isinstance(model, Path) else name
        raise ModelFileError(f"ONNX Runtime refuses {where}: {str(error).splitlines()[0][:300]}") from error


def interface(session: ort.InferenceSession) -> Interface | None:
    """What the file says of its inputs and outputs; None for one that edgeks did not write.

    Raises:
        ModelFileError: the file's description is malformed.
    """
    return read_interface(session.get_modelmeta().custom_metadata_map.get(f"edgeks.{INTERFACE_KEY}"))


def read_interface(stored: str | None) -> Interface | None:
    """The entry of an ONNX file's metadata → what it says.

    Raises:
        ModelFileError: it is malformed.
    """
    try:
        return None if stored is None else Interface.from_dict(json.loads(stored))
    except json.JSONDecodeError as error:
        raise ModelFileError(f"the file's description of its inputs and outputs is no JSON: {error}") from error


def run(session: ort.InferenceSession, samples: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Samples N×C×H×W, in batches of the file's own size → every output, N×…; a last short batch is padded.

    Samples are real values as the network takes them, or raw pixels for a file that takes those; outputs are real
    values: codes are made and read here, as the file's interface says.
    """
    feed = session.get_inputs()[0]
    described = interface(session)
    if described is not None:
        samples = described.inputs[0].encode(samples)
    size = feed.shape[0] if feed.shape and isinstance(feed.shape[0], int) else len(samples)
    found = in_batches(lambda batch: session.run(None, {feed.name: batch}), samples, size)
    if described is None:
        return [output.astype(np.float32, copy=False) for output in found]
    return [spec.decode(output) for spec, output in zip(described.outputs, found, strict=True)]


def simplify(model: ir.Model) -> tuple[ir.Model, str]:
    """Graph → graph simplified by onnxsim, which is told not to fold BN (that would write a kernel per layer)."""
    import onnxsim  # here, since it takes a second to load and few exports ask for it

    before = len(model.graph)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its own check there, where --json goes
        proto, same = onnxsim.simplify(to_proto(model), check_n=1, skip_fuse_bn=True)
    if not same:
        return model, "onnxsim's result computes something else; not used"
    simplified = ir.from_proto(proto)
    return simplified, f"{before} → {len(simplified.graph)} nodes"
