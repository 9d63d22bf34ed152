"""onnx_ir graph, float or QDQ int8, NCHW → TFLite network, NHWC: node by node, in graph order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

import edgeks
from edgeks.errors import GraphError
from edgeks.formats.tflite.layout import NHWC, Order, held_shape, plain
from edgeks.formats.tflite.loop import lower_loop
from edgeks.formats.tflite.lowering import Lowering
from edgeks.formats.tflite.network import Tensor
from edgeks.formats.tflite.shapes import inferred_shapes
from edgeks.formats.tflite.table import LOWERINGS
from edgeks.formats.tflite.values import LOOP, Unsupported, constant_content, is_picked, makes_kernel, quantisation_of
from edgeks.wording import counted

MAP_RANK = 4
CONSTANTS = ("DequantizeLinear", "DynamicQuantizeLinear", "Constant")  # read by the operators behind them
LISTED = 20
# Keys that graph/source_lines.py writes, which this room does not import.
SOURCE = "source"  # of Node.meta: the line of the user's Python that the node comes from
CAPTURED = "captured_from"  # of Model.meta: "torch" where there is a module that another converter could take


@dataclass(frozen=True, slots=True)
class Lowered:
    """A finished file, and its operators in order."""

    content: bytes
    operators: tuple[str, ...]


def write_tflite(
    model: ir.Model, path: Path, metadata: Mapping[str, Any], *, nhwc: bool = True, sparse: bool = False
) -> None:
    """Graph → file at `path` (a temporary one: the caller renames it); `metadata` values are stored as JSON.

    `sparse`: see edgeks.model_files.tflite_sparse.
    """
    entries = {f"edgeks.{key}": json.dumps(value, separators=(",", ":")).encode() for key, value in metadata.items()}
    path.write_bytes(lower(model, entries, nhwc=nhwc, sparse=sparse).content)


def lower(model: ir.Model, metadata: Mapping[str, bytes], *, nhwc: bool = True, sparse: bool = False) -> Lowered:
    """Graph → .tflite file. A kernel is one buffer, whatever number of layers read it, each with scales of its own.

    `nhwc`: feature maps come in and go out as N×H×W×C; otherwise as N×C×H×W, for a TRANSPOSE each.

    Raises:
        GraphError: nodes that TFLite has no form for; all of them are listed.
    """
    ctx = Lowering(model.graph, inferred_shapes(model))
    faults: list[str] = []
    inputs = [(str(value.name), _input(ctx, value, nhwc=nhwc)) for value in model.graph.inputs]
    _lower_all(ctx, model.graph, faults)
    if faults:
        shown = "; ".join(faults[:LISTED]) + (f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else "")
        unrolled = "; --form unrolled writes no loop" if any(fault.startswith("Loop ") for fault in faults) else ""
        way_out = "; --converter litert-torch takes more operators" if model.meta.get(CAPTURED) == "torch" else ""
        raise GraphError(
            f"{counted(len(faults), 'node')} of the network cannot be lowered to TFLite: {shown}. "
            f"docs/tflite_ops.md lists what can{unrolled}{way_out}"
        )
    outputs = [(str(value.name), _output(ctx, value, nhwc=nhwc)) for value in model.graph.outputs]
    content = ctx.network.to_bytes(inputs, outputs, f"edgeks {edgeks.__version__}", metadata, sparse=sparse)
    return Lowered(content, tuple(ctx.network.operators))


def _lower_all(ctx: Lowering, graph: ir.Graph, faults: list[str]) -> None:
    """Every node of a graph; what cannot be lowered is added to `faults`."""
    for node in graph:
        if node in ctx.done:
            continue
        done = len(ctx.done)
        try:
            if node.op_type == LOOP and node.domain in ("", "ai.onnx"):
                lower_loop(ctx, node, lambda body, of: _lower_all(body, of, faults))
            else:
                _lower_node(ctx, node)
        except Unsupported as reason:
            faults.append(f"{describe(node)}: {reason}")
            for follower in list(ctx.done)[done:]:  # not merged into it after all
                del ctx.done[follower]
            _assume(ctx, node)


def describe(node: ir.Node) -> str:
    """A node as a user knows it: operator, layer, line of Python."""
    source = node.meta.get(SOURCE)
    return f"{node.op_type} {str(node.name)!r}" + (f" ({source})" if source else "")


def _lower_node(ctx: Lowering, node: ir.Node) -> None:
    if node.op_type == "QuantizeLinear":
        _quantize(ctx, node)
    elif node.op_type in CONSTANTS or is_picked(node) or makes_kernel(node):
        return
    elif node.domain not in ("", "ai.onnx") or node.op_type not in LOWERINGS:
        raise Unsupported("not in the table")
    elif any(len(ctx.shape(value)) > 6 for value in node.outputs):
        raise Unsupported("more than 6 axes")
    else:
        LOWERINGS[node.op_type](ctx, node)


def _quantize(ctx: Lowering, node: ir.Node) -> None:
    """QUANTIZE: of float, or of codes of another scale or type."""
    value, result = node.inputs[0], node.outputs[0]
    quantisation = quantisation_of(node)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    content = None if zero is None else constant_content(zero)
    type = "uint8" if content is None else content.dtype.name
    held = ctx.held(ctx.codes_of(value) or value)
    source = held.tensor
    if source.type == type and source.quantisation is not None and source.quantisation.same_codes(quantisation):
        ctx.hold(result, source, held.order, held.columns)
        return
    output = ctx.network.activation("", source.shape, type, quantisation)
    ctx.network.operator("QUANTIZE", [source], [output])
    ctx.hold(result, output, held.order, held.columns)


def _input(ctx: Lowering, value: ir.Value, *, nhwc: bool) -> Tensor:
    shape = ctx.shape(value)
    order: Order = NHWC if nhwc and len(shape) == MAP_RANK else plain(len(shape))
    readers = [use.node for use in value.uses() if use.node.op_type == "DequantizeLinear"]
    type = (value.dtype or ir.DataType.FLOAT).numpy().name
    if type not in ("float32", "int8", "uint8") or (type != "float32" and not readers):
        raise GraphError(f"input {value.name!r} is {type}; legal: float32, or codes that the graph dequantises")
    quantisation = quantisation_of(readers[0]) if readers and type != "float32" else None
    tensor = ctx.network.fed(str(value.name), held_shape(shape, order), type, quantisation)
    ctx.hold(value, tensor, order)
    return tensor


def _output(ctx: Lowering, value: ir.Value, *, nhwc: bool) -> Tensor:
    held = ctx.held(value)
    rank = len(held.order)
    if held.columns is not None:
        raise GraphError(f"output {value.name!r} is a flattened feature map: give the network's output its own layer")
    tensor = ctx.reordered(held, NHWC if nhwc and rank == MAP_RANK else plain(rank))
    ctx.network.name_output(tensor, str(value.name))
    return tensor


def _assume(ctx: Lowering, node: ir.Node) -> None:
    """Hold what a node that cannot be lowered would have made, so that the nodes behind it are looked at too."""
    for value in node.outputs:
        try:
            shape = ctx.shape(value)
        except Unsupported:
            continue
        if not ctx.is_held(value):
            ctx.hold(value, ctx.network.activation("", shape, "float32"), plain(len(shape)))
