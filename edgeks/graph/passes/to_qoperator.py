"""QDQ → QOperator: the int8 kernel is read by QLinearConv directly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads, new_initializer, required, sole_use
from edgeks.graph.passes.global_average_pool import replace_node
from edgeks.graph.passes.normalise_batch_norm import drop_unused_initializers


def to_qoperator(model: ir.Model) -> str:
    """Quantize(Conv(DQ x, DQ W, DQ b)) → QLinearConv(x, W, b). Other ops stay QDQ, which runtimes fuse."""
    done = 0
    zero_points: dict[np.dtype[np.generic], ir.Value] = {}
    for read in list(kernel_reads(model)):
        conv, weight_dq = read.node, read.dequantize
        input_dq = required(conv.inputs[0]).producer()
        if conv.op_type != "Conv" or weight_dq is None or input_dq is None or input_dq.op_type != "DequantizeLinear":
            continue
        quantize, _ = sole_use(conv.outputs[0]) or (None, 0)
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
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


def _unread(value: ir.Value) -> bool:
    return not value.uses() and not value.is_graph_output()
