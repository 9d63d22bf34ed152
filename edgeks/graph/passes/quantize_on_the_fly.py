"""Layers that LiteRT computes in integers between float tensors: it quantises their inputs itself."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeks.graph.kernels import KernelRead, array, reads_by_kernel, required
from edgeks.graph.passes.quantize_activations import is_network_input
from edgeks.graph.passes.quantize_kernels import quantize_kernels, why_not
from edgeks.graph.rewrite import insert_after_value

CONV_RANK, MATRIX_RANK = 4, 2


def quantize_on_the_fly(model: ir.Model, skip: Collection[ir.Value] = ()) -> str:
    """conv(x, W) → conv(DequantizeLinear(DynamicQuantizeLinear(x)), DequantizeLinear(W_q, s_W)); likewise x·W.

    TFLite has one operator for this: a CONV_2D of a float input and an int8 kernel, with a scale per output channel, so
    that the layer's BN moves into the scales as in static int8. A Value is quantised once for all layers that read it.

    Stay in float: grouped and depthwise convolutions, which the default delegate does not take in this form, and layers
    that read the network's input, where the rounding costs most, unless others that do not share the kernel.
    """
    chosen, kept = [], []
    for kernel, readers in reads_by_kernel(model).items():
        reason = "as asked" if kernel in skip else _why_not(model, kernel, readers)
        if reason:
            kept += [(str(read.node.name), reason) for read in readers]
        else:
            chosen += [read.node for read in readers]
    if not chosen:
        return "nothing to do: no layer is computed in integers"
    quantize_kernels(model, "int8", keep_float={name for name, _ in kept})
    quantised: dict[ir.Value, ir.Value] = {}
    for node in chosen:
        source = required(node.inputs[0])
        if source not in quantised:
            quantised[source] = _quantised(model, source)
        node.replace_input_with(0, quantised[source])
    note = f"{len(chosen)} layers in integers on {len(quantised)} activations quantised on the fly"
    return note + (f"; in float: {', '.join(f'{name} ({reason})' for name, reason in kept)}" if kept else "")


def _quantised(model: ir.Model, source: ir.Value) -> ir.Value:
    quantize = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name="")
    dequantize = ir.node("DequantizeLinear", quantize.outputs, name="")
    for value, suffix in zip((*quantize.outputs, dequantize.outputs[0]), ("q", "s", "z", "d"), strict=True):
        value.name = f"{source.name}_fly_{suffix}"
    dequantize.outputs[0].shape, dequantize.outputs[0].dtype = source.shape, ir.DataType.FLOAT
    insert_after_value(model, source, [quantize, dequantize])
    return dequantize.outputs[0]


def _why_not(model: ir.Model, kernel: ir.Value, readers: list[KernelRead]) -> str | None:
    """The reason why the layers of a kernel compute in float; None when they can all be integer."""
    reason = why_not(kernel, readers)
    if reason:
        return reason
    if all(is_network_input(model, required(read.node.inputs[0])) for read in readers):
        return "reads the network's input"
    for read in readers:
        node, rank = read.node, array(kernel).ndim
        if node.op_type == "Conv" and (node.attributes.get_int("group", 1) != 1 or rank != CONV_RANK):
            return "grouped" if rank == CONV_RANK else "not 2-D"
        if node.op_type != "Conv" and rank != MATRIX_RANK:
            return "not a matrix"
    return None
