"""QDQ → QOperator: the int8 kernel is read by QLinearConv directly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import KernelRead, array, kernel_reads, required, sole_use
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer, replace_node


def to_qoperator(model: ir.Model) -> str:
    """Quantize(Conv(DQ x, DQ W, DQ b)) → QLinearConv(x, W, b). Other ops stay QDQ, which runtimes fuse.

    So do all layers of a kernel of which one does not have this form (a Clip that saturation does not do, a float
    input): a kernel is read in one way.
    """
    done = 0
    zero_points: dict[np.dtype[np.generic], ir.Value] = {}
    reads = list(kernel_reads(model))
    mixed = {read.kernel for read in reads if _integer_form(read) is None}
    for read in reads:
        form = None if read.kernel in mixed else _integer_form(read)
        if form is None:
            continue
        conv, (input_dq, weight_dq, quantize) = read.node, form
        codes = array(read.kernel)
        if codes.dtype not in zero_points:
            content = np.array(128 if codes.dtype == np.uint8 else 0, codes.dtype)
            zero_points[codes.dtype] = new_initializer(model, "weight_zero_point", content)
        bias = conv.inputs[2] if len(conv.inputs) > 2 else None
        bias_dq = bias.producer() if bias is not None else None
        qlinear = ir.node(
            "QLinearConv",
            [
                *input_dq.inputs[:3],
                read.kernel,
                weight_dq.inputs[1],
                zero_points[codes.dtype],
                *quantize.inputs[1:3],
                *([bias_dq.inputs[0]] if bias_dq is not None else []),
            ],
            attributes=dict(conv.attributes.items()),
            name=conv.name,
        )
        replace_node(model, quantize, [qlinear])
        model.graph.remove(conv, safe=True)
        dead = [weight_dq, bias_dq, input_dq]
        model.graph.remove([n for n in dead if n is not None and _unread(n.outputs[0])], safe=True)
        done += 1
    drop_unused_initializers(model)
    return f"{done} QLinearConv"


def _integer_form(read: KernelRead) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """DequantizeLinear of input and kernel, and the QuantizeLinear behind the Conv, where there are all three."""
    input_dq = required(read.node.inputs[0]).producer()
    quantize, _ = sole_use(read.node.outputs[0]) or (None, 0)
    if read.node.op_type != "Conv" or read.dequantize is None or input_dq is None or quantize is None:
        return None
    if input_dq.op_type != "DequantizeLinear" or quantize.op_type != "QuantizeLinear":
        return None
    return input_dq, read.dequantize, quantize


def _unread(value: ir.Value) -> bool:
    return not value.uses() and not value.is_graph_output()
