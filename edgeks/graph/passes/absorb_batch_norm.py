"""BN moves into the weight *scale* of its layer; the weight codes stay shared (docs/arithmetic.md §1)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.batch_norm import affine, sole_batch_norm
from edgeks.graph.kernels import array, kernel_reads, required
from edgeks.graph.marks import carry_marks
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer


def absorb_batch_norm(model: ir.Model) -> str:
    """BN_l(conv(DQ(W_q, s_W)) + c) → conv(DQ(W_q, s_W·a_l)) + (b_l + a_l·c); exact in real arithmetic.

    Applies where the BN is the only reader of the layer's output. A negative a_l makes a negative scale.
    """
    absorbed, negative, kept = 0, 0, []
    for read in list(kernel_reads(model)):
        node, dequantize = read.node, read.dequantize
        norm = sole_batch_norm(node.outputs[0])
        if dequantize is None or norm is None:
            continue
        if not _takes_shift(node):
            kept.append(str(norm.name))
            continue
        a, b = affine(norm)
        old_bias = node.inputs[2] if len(node.inputs) > 2 else None
        if old_bias is not None:
            b = b + a * array(old_bias).astype(np.float64)
        scale = (array(required(dequantize.inputs[1])).astype(np.float64) * a).astype(np.float32)
        dequantize.replace_input_with(1, new_initializer(model, f"{node.name}.weight_scale", scale))
        node.resize_inputs(3)
        node.replace_input_with(2, new_initializer(model, f"{node.name}.bias_f", b.astype(np.float32)))
        _bypass(model, norm)
        absorbed += 1
        negative += int((scale < 0).sum())
    drop_unused_initializers(model)
    note = f"{absorbed} BN absorbed into weight scales"
    if negative:
        note += f", {negative} channels have a negative scale"
    return note + (f"; kept: {', '.join(kept)}" if kept else "")


def absorbed_gain(node: ir.Node) -> NDArray[np.float64] | None:
    """a_l, one per output channel, of the BN that `absorb_batch_norm` moves into this layer; None: there is none."""
    norm = sole_batch_norm(node.outputs[0])
    return None if norm is None or not _takes_shift(node) else affine(norm)[0]


def _takes_shift(node: ir.Node) -> bool:
    """MatMul has no bias to take b_l; one that is computed at run time cannot be changed."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return node.op_type != "MatMul" and (bias is None or bias.is_initializer())


def _bypass(model: ir.Model, node: ir.Node) -> None:
    """Remove `node`; its input takes over its output's name and uses."""
    source, result = required(node.inputs[0]), node.outputs[0]
    name = result.name
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    source.name = name
    carry_marks(result, source)
