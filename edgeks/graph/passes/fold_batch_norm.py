"""BN behind a float layer, for a runtime that has no BatchNormalization: folded where nobody else reads the kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.batch_norm import affine, sole_batch_norm
from edgeks.graph.kernels import array, kernel_reads, output_channels, required
from edgeks.graph.marks import carry_marks
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer, replace_node

LARGEST_BIAS = 1e15  # b/a of a channel with a gain near 0 would lose the layer's own output


def fold_batch_norm(model: ir.Model) -> str:
    """BN_l(conv(W) + c): a kernel of one layer → conv(a·W) + (b + a·c); a shared one → (conv(W) + (c + b/a))·a.

    The Mul by a_l, one number per channel, is what lets W stay one kernel (docs/arithmetic.md §5). Where a_l is 0 or
    tiny the BN stays, and becomes Mul and Add later. Only float kernels that are not made of codes.
    """
    folded, moved, kept = 0, 0, 0
    for read in list(kernel_reads(model)):
        node, norm = read.node, sole_batch_norm(read.node.outputs[0])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if norm is None or read.dequantize is not None or node.op_type == "MatMul":
            continue
        if node.inputs[1] is not read.kernel or (bias is not None and not bias.is_initializer()):
            continue
        a, b = affine(norm)
        c = np.zeros_like(a) if bias is None else array(bias).astype(np.float64).ravel()
        if len(read.kernel.uses()) == 1:
            weight = array(read.kernel).astype(np.float64)
            along = [1] * weight.ndim
            along[output_channels(read)] = -1
            if a.size != weight.shape[output_channels(read)]:
                kept += 1
                continue
            content = (weight * a.reshape(along)).astype(np.float32)
            read.kernel.const_value = ir.tensor(content, name=read.kernel.name)
            _replace(model, node, norm, b + a * c, None)
            folded += 1
        elif np.all(np.abs(b) <= LARGEST_BIAS * np.abs(a)) and a.all():
            _replace(model, node, norm, c + b / a, a)
            moved += 1
        else:
            kept += 1
    drop_unused_initializers(model)
    note = f"{folded} BN folded into kernels of one layer, {moved} behind shared kernels as bias and Mul"
    return note + (f", {kept} kept" if kept else "")


def _replace(
    model: ir.Model, node: ir.Node, norm: ir.Node, bias: NDArray[np.float64], factor: NDArray[np.float64] | None
) -> None:
    """The layer with `bias` in place of its own, then Mul(factor) or nothing in place of `norm`."""
    node.resize_inputs(3)
    node.replace_input_with(2, new_initializer(model, f"{node.name}.bias_f", bias.astype(np.float32)))
    source, result = required(norm.inputs[0]), norm.outputs[0]
    if factor is not None:
        rank = 4 if result.shape is None else len(result.shape)
        content = factor.astype(np.float32).reshape(-1, *[1] * (rank - 2))
        gain = new_initializer(model, f"{node.name}.gain", content)
        replace_node(model, norm, [ir.node("Mul", [source, gain], name=f"{node.name}.gain")])
        return
    name = result.name
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    model.graph.remove(norm, safe=True)
    source.name = name
    carry_marks(result, source)
