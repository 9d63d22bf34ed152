"""Marks, as torch.onnx.export carries them through: fake quantisations → numbers on the graph's Values."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import required
from edgeks.graph.marks import MARKS
from edgeks.graph.rewrite import drop_unused_initializers
from edgeks.wording import counted


def take_marks(model: ir.Model) -> str:
    """Remove every QuantizeLinear → DequantizeLinear; the Value in front keeps their numbers, the first mark first."""
    taken = 0
    for quantize in list(model.graph):
        if quantize.op_type != "QuantizeLinear":
            continue
        value = required(quantize.inputs[0])
        number = ir.convenience.get_const_tensor(_uncast(required(quantize.inputs[1])))
        if number is None:
            raise ValueError(f"{quantize.name}: a mark's scale is not constant")
        value.meta.setdefault(MARKS, []).append(int(number.numpy()))
        for dequantize, _ in list(quantize.outputs[0].uses()):
            name = dequantize.outputs[0].name if dequantize.outputs[0].is_graph_output() else value.name
            dequantize.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
            value.name = name
            model.graph.remove(dequantize, safe=True)
        model.graph.remove(quantize, safe=True)
        taken += 1
    drop_unused_initializers(model)
    return f"{counted(taken, 'mark')} taken"


def _uncast(value: ir.Value) -> ir.Value:
    producer = value.producer()
    return required(producer.inputs[0]) if producer is not None and producer.op_type == "Cast" else value
