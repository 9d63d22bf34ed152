"""A Relu or Clip in front of a QuantizeLinear that saturates at the same bounds does nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, required, sole_use
from edgeks.graph.passes.quantize_activations import FUSED
from edgeks.interface import LIMITS

HALF_A_STEP = 0.501  # a bound that lies between two codes is rounded to either; scales are rounded to float32


def drop_saturated_relu(model: ir.Model) -> str:
    """Relu → QuantizeLinear with zero point at the bottom of its range → QuantizeLinear; the same for Clip (ReLU6).

    A saturated value is then within half a step of the bound, as every rounded value is. Else the convolution before
    could not be merged with its QuantizeLinear: the runtime would compute it in float.
    """
    dropped = 0
    for quantize in list(model.graph):
        if quantize.op_type != "QuantizeLinear":
            continue
        node = required(quantize.inputs[0]).producer()
        if node is None or node.op_type not in FUSED or sole_use(node.outputs[0]) is None:
            continue
        scale, zero_point = float(array(required(quantize.inputs[1]))), array(required(quantize.inputs[2]))
        lowest, highest = ((limit - float(zero_point)) * scale for limit in LIMITS[zero_point.dtype.name])
        low, high = _bounds(node)
        if lowest < low - HALF_A_STEP * scale or highest > high + HALF_A_STEP * scale:
            continue
        quantize.replace_input_with(0, required(node.inputs[0]))
        model.graph.remove(node, safe=True)
        dropped += 1
    return f"{dropped} Relu/Clip done by saturation"


def _bounds(node: ir.Node) -> tuple[float, float]:
    """Lower and upper bound; a bound that is computed at run time is taken as one that saturation cannot do."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [-np.inf, np.inf]
    for index in (1, 2):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is not None:
            bounds[index - 1] = float(array(value)) if value.is_initializer() else (np.inf, -np.inf)[index - 1]
    return bounds[0], bounds[1]
