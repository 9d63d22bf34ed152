"""An average that counts padding and may reach beyond it: padding becomes a node of its own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import required
from edgeks.graph.rewrite import new_initializer


def pad_average_pool(model: ir.Model) -> str:
    """AveragePool with ceil_mode, count_include_pad and pads → Pad → AveragePool with ceil_mode; exact.

    ONNX Runtime's integer kernel divides by the wrong count there, and takes every such node between integers
    (tests/test_facts.py). What a window has beyond the padding is not counted in either form.
    """
    spelt_out = 0
    for node in model.graph:
        pads = tuple(node.attributes.get_ints("pads", ())) if node.op_type == "AveragePool" else ()
        if not any(pads) or not all(node.attributes.get_int(key, 0) for key in ("ceil_mode", "count_include_pad")):
            continue
        source, half = required(node.inputs[0]), len(pads) // 2
        amounts = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
        pad = ir.node("Pad", [source, new_initializer(model, f"{node.name}.pads", amounts)], name=f"{node.name}.pad")
        padded = pad.outputs[0]
        padded.name, padded.type = f"{source.name}_padded_{spelt_out}", source.type
        if source.shape is not None:
            sizes = [
                size + low + high if isinstance(size, int) else size
                for size, low, high in zip(
                    source.shape, amounts[: half + 2].tolist(), amounts[half + 2 :].tolist(), strict=True
                )
            ]
            padded.shape = ir.Shape(sizes)
        model.graph.insert_before(node, pad)
        node.replace_input_with(0, padded)
        for key in ("pads", "count_include_pad"):
            node.attributes.pop(key)
        spelt_out += 1
    return f"{spelt_out} AveragePool padded by a node of their own" if spelt_out else "nothing to do"
