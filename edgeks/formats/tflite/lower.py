"""onnx_ir graph, float or QDQ int8, NCHW → TFLite network, NHWC: node by node, in graph order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

import edgeks
from edgeks.errors import GraphError
from edgeks.formats.tflite.layout import NHWC, Order, held_shape, plain
from edgeks.formats.tflite.lowering import Lowering, Unsupported, constant_content, quantisation_of
from edgeks.formats.tflite.network import Tensor
from edgeks.formats.tflite.table import LOWERINGS

MAP_RANK = 4
LISTED = 20
# Keys that graph/source_lines.py writes, which this room does not import.
SOURCE = "source"  # of Node.meta: the line of the user's Python that the node comes from
CAPTURED = "captured_from"  # of Model.meta: "torch" where there is a module that another converter could take


@dataclass(frozen=True, slots=True)
class Lowered:
    """A finished file, and its operators in order."""

    content: bytes
    operators: tuple[str, ...]


def write_tflite(model: ir.Model, path: Path, metadata: Mapping[str, Any], *, nhwc: bool = True) -> None:
    """Graph → file at `path` (a temporary one: the caller renames it); `metadata` values are stored as JSON."""
    entries = {f"edgeks.{key}": json.dumps(value, separators=(",", ":")).encode() for key, value in metadata.items()}
    path.write_bytes(lower(model, entries, nhwc=nhwc).content)


def lower(model: ir.Model, metadata: Mapping[str, bytes], *, nhwc: bool = True) -> Lowered:
    """Graph → .tflite file. A kernel is one buffer, whatever number of layers read it, each with scales of its own.

    `nhwc`: feature maps come in and go out as N×H×W×C; otherwise as N×C×H×W, for a TRANSPOSE each.

    Raises:
        GraphError: nodes that TFLite has no form for; all of them are listed.
    """
    ctx = Lowering(model, inferred_shapes(model))
    faults: list[str] = []
    inputs = [(str(value.name), _input(ctx, value, nhwc=nhwc)) for value in model.graph.inputs]
    for node in model.graph:
        if node in ctx.done:
            continue
        done = len(ctx.done)
        try:
            _lower_node(ctx, node)
        except Unsupported as reason:
            faults.append(f"{describe(node)}: {reason}")
            for follower in list(ctx.done)[done:]:  # not merged into it after all
                del ctx.done[follower]
            _assume(ctx, node)
    if faults:
        shown = "; ".join(faults[:LISTED]) + (f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else "")
        way_out = "; --converter litert-torch takes more operators" if model.meta.get(CAPTURED) == "torch" else ""
        raise GraphError(
            f"{len(faults)} node{'s' if len(faults) > 1 else ''} of the network cannot be lowered to TFLite: {shown}. "
            f"docs/tflite_ops.md lists what can{way_out}"
        )
    outputs = [(str(value.name), _output(ctx, value, nhwc=nhwc)) for value in model.graph.outputs]
    content = ctx.network.to_bytes(inputs, outputs, f"edgeks {edgeks.__version__}", metadata)
    return Lowered(content, tuple(ctx.network.operators))


def describe(node: ir.Node) -> str:
    """A node as a user knows it: operator, layer, line of Python."""
    source = node.meta.get(SOURCE)
    return f"{node.op_type} {str(node.name)!r}" + (f" ({source})" if source else "")


def inferred_shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Name of every Value whose shape is static → that shape.

    Raises:
        GraphError: an input has a dimension that is not known.
    """
    for value in model.graph.inputs:
        if value.shape is None or not all(isinstance(d, int) for d in value.shape):
            raise GraphError(f"input {value.name!r} has the shape {value.shape}; TFLite needs numbers: fix its sizes")
    for index, node in enumerate(model.graph):  # inference goes by name
        for output in node.outputs:
            output.name = output.name or f"value_{index}_{output.index()}"
    proto = ir.to_proto(model)
    found = _static_shapes(proto)
    for node in proto.graph.node:  # in order: what is behind one that is wrong is wrong too
        if _without_ceil(node, found):
            found = _static_shapes(proto)
    return found


def _static_shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    found = {}
    for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        shape = info.type.tensor_type.shape
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in shape.dim):
            found[info.name] = tuple(d.dim_value for d in shape.dim)
    return found


def _without_ceil(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """ceil_mode of a pooling as padding, where onnx counts a window that begins beyond the map, as no runtime does.

    Only shapes are read from such a node. Gives whether it was changed.
    """
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    shape = shapes.get(node.input[0]) if node.input else None
    if node.op_type not in ("MaxPool", "AveragePool") or not given.get("ceil_mode") or shape is None:
        return False
    kernel, spatial = given["kernel_shape"], len(shape) - 2
    strides, dilations = (given.get(key, [1] * spatial) for key in ("strides", "dilations"))
    pads = list(given.get("pads", [0] * (2 * spatial)))
    wrong = False
    for axis, (size, k, s, d) in enumerate(zip(shape[2:], kernel, strides, dilations, strict=True)):
        low, high = pads[axis], pads[axis + spatial]
        reach = (k - 1) * d + 1
        outputs = -(-(size + low + high - reach) // s) + 1
        if (outputs - 1) * s >= size + low:
            outputs, wrong = outputs - 1, True
        pads[axis + spatial] = max((outputs - 1) * s + reach - size - low, 0)
    if wrong:
        kept = [attribute for attribute in node.attribute if attribute.name not in ("ceil_mode", "pads")]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
    return wrong


def _lower_node(ctx: Lowering, node: ir.Node) -> None:
    if node.op_type == "QuantizeLinear":
        _quantize(ctx, node)
    elif node.op_type in ("DequantizeLinear", "DynamicQuantizeLinear", "Constant") or _makes_kernel(node):
        return  # read by the operators behind them
    elif node.domain not in ("", "ai.onnx") or node.op_type not in LOWERINGS:
        raise Unsupported("not in the table")
    elif any(len(ctx.shape(value)) > 6 for value in node.outputs):
        raise Unsupported("more than 6 axes")
    else:
        LOWERINGS[node.op_type](ctx, node)


def _makes_kernel(node: ir.Node) -> bool:
    """Cast of stored codes or halves, and the Mul by their scale."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type == "Cast":
        return source is not None and source.is_initializer()
    if node.op_type == "Mul" and source is not None and (producer := source.producer()) is not None:
        return producer.op_type == "Cast" and _makes_kernel(producer)
    return False


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
