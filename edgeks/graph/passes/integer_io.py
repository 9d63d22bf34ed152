"""Integer inputs and outputs: the program on the device feeds and gets 8-bit codes instead of floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, required
from edgeks.graph.passes.quantize_activations import NUMPY_TYPE, Range
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.interface import LIMITS
from edgeks.wording import counted

IntegerType = Literal["int8", "uint8"]


@dataclass(frozen=True, slots=True)
class Codes:
    """How a graph input or output is quantised: a code stands for scale·(code − zero_point)."""

    type: IntegerType
    scale: np.float32
    zero_point: int


def known_codes(model: ir.Model, integer_type: IntegerType) -> dict[str, Codes | None]:
    """Float inputs and outputs by name → the codes that the graph itself makes of them, moved to `integer_type`.

    None where the graph has no scale for it: the input of a float layer, logits.
    """
    found: dict[str, Codes | None] = {}
    for value in model.graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            quantizers = [node for node, _ in value.uses() if node.op_type == "QuantizeLinear"]
            found[str(value.name)] = _codes(quantizers[0], integer_type) if quantizers else None
    for value in model.graph.outputs:
        if value.dtype in (ir.DataType.FLOAT, None):
            producer = value.producer()
            made_of_codes = producer is not None and producer.op_type == "DequantizeLinear"
            found[str(value.name)] = _codes(producer, integer_type) if producer is not None and made_of_codes else None
    return found


def chosen_codes(seen: Range, integer_type: IntegerType) -> Codes:
    """Calibrated range → codes over the whole of it."""
    return Codes(integer_type, *seen.parameters(integer_type))


def integer_io(model: ir.Model, inputs: Mapping[str, Codes], outputs: Mapping[str, Codes]) -> str:
    """x → DequantizeLinear(codes) for the named inputs; y → QuantizeLinear(y) for the named outputs.

    A DequantizeLinear → QuantizeLinear at the border of the graph that changes no code is left out.
    """
    for position, value in enumerate(list(model.graph.inputs)):
        codes = inputs.get(str(value.name))
        if codes is not None:
            taken = ir.Value(name=value.name, shape=value.shape, type=ir.TensorType(_dtype(codes)))
            node = ir.node("DequantizeLinear", [taken, *_parameters(model, str(value.name), codes)])
            node.outputs[0].name = f"{value.name}_real"
            node.outputs[0].shape, node.outputs[0].dtype = value.shape, ir.DataType.FLOAT
            model.graph.insert_before(model.graph[0], node)
            value.replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
            model.graph.inputs[position] = taken
    for position, value in enumerate(list(model.graph.outputs)):
        codes = outputs.get(str(value.name))
        if codes is not None:
            name = str(value.name)
            node = ir.node("QuantizeLinear", [value, *_parameters(model, name, codes)])
            value.name, node.outputs[0].name = f"{name}_real", name
            node.outputs[0].shape, node.outputs[0].dtype = value.shape, _dtype(codes)
            model.graph.append(node)
            model.graph.outputs[position] = node.outputs[0]
    idle = sum(_drop_idle_pair(model, node) for node in list(model.graph) if node.op_type == "QuantizeLinear")
    drop_unused_initializers(model)
    ends = f"{counted(len(inputs), 'input')} and {counted(len(outputs), 'output')} as 8-bit codes"
    return f"{ends}, {counted(idle, 'idle requantisation')} dropped"


def _drop_idle_pair(model: ir.Model, quantize: ir.Node) -> bool:
    """codes → DequantizeLinear → QuantizeLinear → the same codes, where either end is the graph's: read codes."""
    dequantize = required(quantize.inputs[0]).producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return False
    codes, result = required(dequantize.inputs[0]), quantize.outputs[0]
    same = all(
        array(a).dtype == array(b).dtype and np.array_equal(array(a), array(b))
        for a, b in zip(map(required, dequantize.inputs[1:3]), map(required, quantize.inputs[1:3]), strict=True)
    )
    at_input, at_output = codes in model.graph.inputs, result.is_graph_output()
    if not same or at_input == at_output or (at_output and codes.is_graph_output()):
        return False
    name = result.name
    if at_output:
        codes.shape, codes.type = result.shape, result.type  # what an output has to say
    result.replace_all_uses_with(codes, replace_graph_outputs=True)
    model.graph.remove(quantize, safe=True)
    if at_output:
        codes.name = name
    source = dequantize.outputs[0]
    if not source.uses() and not source.is_graph_output():
        model.graph.remove(dequantize, safe=True)
    return True


def _codes(node: ir.Node, integer_type: IntegerType) -> Codes:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear, the zero point moved to `integer_type`'s range."""
    scale, zero_point = (array(required(value)) for value in node.inputs[1:3])
    shift = LIMITS[integer_type][0] - LIMITS[zero_point.dtype.name][0]
    return Codes(integer_type, np.float32(scale), int(zero_point) + shift)


def _parameters(model: ir.Model, name: str, codes: Codes) -> tuple[ir.Value, ir.Value]:
    return (
        new_initializer(model, f"{name}_io_scale", np.array(codes.scale, np.float32)),
        new_initializer(model, f"{name}_io_zero_point", np.array(codes.zero_point, NUMPY_TYPE[codes.type])),
    )


def _dtype(codes: Codes) -> ir.DataType:
    return ir.DataType.INT8 if codes.type == "int8" else ir.DataType.UINT8
