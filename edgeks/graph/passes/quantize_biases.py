"""int32 biases, one per layer, always: their scale s_x·s_W·a_l is the layer's own (docs/arithmetic.md §2)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads, required
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.wording import counted

MAX_BIAS = 2**30  # leaves the other half of int32 to the sum of products
SMALLEST_SCALE = 1e-30


def quantize_biases(model: ir.Model) -> str:
    """bias → DequantizeLinear(round(bias / (s_x·s_W)), s_x·s_W), int32, for every layer with integer input and kernel.

    Where a channel's weight scale is so small (γ near 0) that its bias would leave int32, that layer's scale is raised
    to the smallest that holds the bias: the products it multiplies are then far below one step of the output.
    """
    done, raised = 0, 0
    for read in list(kernel_reads(model)):
        node, weight_dq = read.node, read.dequantize
        input_dq = required(node.inputs[0]).producer()
        if weight_dq is None or input_dq is None or input_dq.op_type != "DequantizeLinear":
            continue
        if node.op_type == "MatMul" or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        if not required(node.inputs[2]).is_initializer():  # computed at run time
            continue
        bias = array(required(node.inputs[2])).astype(np.float64).ravel()  # 1×O in an addmm
        input_scale = float(array(required(input_dq.inputs[1])))
        weight_scale = array(required(weight_dq.inputs[1])).astype(np.float64)
        if bias.size not in (1, weight_scale.size):
            continue
        bias = np.broadcast_to(bias, weight_scale.shape)  # an addmm may have one for all
        least = np.maximum(np.abs(bias) / (input_scale * MAX_BIAS), SMALLEST_SCALE)
        too_small = np.abs(weight_scale) < least
        if too_small.any():
            weight_scale = np.where(too_small, np.copysign(least, weight_scale), weight_scale)
            raised += int(too_small.sum())
            name = f"{node.name}.weight_scale"
            weight_dq.replace_input_with(1, new_initializer(model, name, weight_scale.astype(np.float32)))
        # The runtime multiplies the two stored float32 scales: quantise with that very product.
        bias_scale = (np.float32(input_scale) * weight_scale.astype(np.float32)).astype(np.float32)
        codes = np.clip(np.rint(bias / bias_scale.astype(np.float64)), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        inputs = [
            new_initializer(model, f"{node.name}.bias_q", codes),
            new_initializer(model, f"{node.name}.bias_scale", bias_scale),
        ]
        dequantize = ir.node("DequantizeLinear", inputs, attributes={"axis": 0})
        dequantize.outputs[0].name = f"{node.name}.b"
        model.graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])
        done += 1
    drop_unused_initializers(model)
    lifted = f", weight scale raised in {counted(raised, 'channel')} of near-zero gain" if raised else ""
    return counted(done, "int32 bias", "int32 biases") + lifted
