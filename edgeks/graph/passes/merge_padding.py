"""Padding with zeros is done by the convolution that reads it."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import array, required
from edgeks.graph.marks import add_marks
from edgeks.graph.rewrite import drop_unused_initializers


def merge_padding(model: ir.Model) -> str:
    """Pad with zeros over H and W (L) → Conv ⇒ Conv with `pads`; exact. Each reader of the Pad is done on its own."""
    merged = 0
    for pad in list(model.graph):
        amounts = _zeros_around_map(pad)
        if amounts is None:
            continue
        rank = len(amounts) // 2
        for node, index in list(pad.outputs[0].uses()):
            if node.op_type != "Conv" or index != 0 or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
                continue
            own = node.attributes.get_ints("pads", ()) or (0,) * (2 * (rank - 2))
            around = (*amounts[2:rank], *amounts[rank + 2 :])
            node.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, around, strict=True)])
            source = required(pad.inputs[0])
            node.replace_input_with(0, source)
            add_marks(pad.outputs[0], source)
            merged += 1
        if not pad.outputs[0].uses() and not pad.outputs[0].is_graph_output():
            model.graph.remove(pad, safe=True)
    drop_unused_initializers(model)
    return f"{merged} convolutions pad for themselves" if merged else "nothing to do: no Pad of zeros ahead of a Conv"


def _zeros_around_map(node: ir.Node) -> tuple[int, ...] | None:
    """The amounts (all begins, then all ends) of a Pad that puts zeros around the feature map; None for any other."""
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return None
    amounts, value, axes = (node.inputs[i] if len(node.inputs) > i else None for i in (1, 2, 3))
    if axes is not None or amounts is None or amounts.const_value is None:
        return None
    if value is not None and (value.const_value is None or array(value).any()):
        return None
    found = tuple(int(amount) for amount in array(amounts))
    rank = len(found) // 2
    return found if not any((*found[:2], *found[rank : rank + 2])) and min(found) >= 0 else None
