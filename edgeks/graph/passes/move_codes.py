"""An op that only moves values moves their codes, where the runtime would not see that by itself."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import required, sole_use
from edgeks.graph.passes.quantize_activations import MOVED_AS_CODES
from edgeks.graph.rewrite import replace_node


def move_codes(model: ir.Model) -> str:
    """DequantizeLinear → Pad → QuantizeLinear of the same scale → Pad of the codes, with the zero point for 0.

    ONNX Runtime drops the pair around Reshape, Slice, MaxPool and their like; around these it computes in float.
    """
    moved = 0
    for node in list(model.graph):
        dequantize = required(node.inputs[0]).producer() if node.op_type in MOVED_AS_CODES and node.inputs else None
        quantize, _ = sole_use(node.outputs[0]) or (None, 0)
        if dequantize is None or quantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        if quantize.op_type != "QuantizeLinear" or quantize.inputs[1:3] != dequantize.inputs[1:3]:
            continue
        inputs = [dequantize.inputs[0], *node.inputs[1:]]
        if node.op_type == "Pad" and node.attributes.get_string("mode", "constant") == "constant":
            inputs = [*inputs[:2], dequantize.inputs[2], *inputs[3:]]
        codes = ir.node(node.op_type, inputs, attributes=dict(node.attributes.items()), name=node.name)
        replace_node(model, quantize, [codes])
        model.graph.remove(node, safe=True)
        if not dequantize.outputs[0].uses() and not dequantize.outputs[0].is_graph_output():
            model.graph.remove(dequantize, safe=True)
        moved += 1
    return f"{moved} nodes move codes"
