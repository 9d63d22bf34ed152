"""Float graph → int8 graph: the passes of each kind of quantisation, in order (docs/arithmetic.md)."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.errors import GraphError
from edgeks.graph.kernels import array, kernel_reads
from edgeks.graph.ledger import Ledger
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu
from edgeks.graph.passes.pointwise_channels_last import pointwise_channels_last
from edgeks.graph.passes.quantize_activations import place_activations, quantize_activations
from edgeks.graph.passes.quantize_biases import quantize_biases
from edgeks.graph.passes.quantize_dynamically import quantize_dynamically
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.store_kernels_as_int8 import store_kernels_as_int8
from edgeks.graph.passes.to_qoperator import to_qoperator
from edgeks.quant.calibrate import calibrate
from edgeks.quant.options import Int8Options
from edgeks.samples import Samples
from edgeks.target import Int8Scheme


def quantise(graph: ir.Model, ledger: Ledger, samples: Samples, scheme: Int8Scheme, options: Int8Options) -> None:
    """Float graph → int8 graph, in place; every pass is a verified row of `ledger`. Only static reads `samples`.

    Raises:
        GraphError: no layer of the network can be quantised.
        DataError: an activation is not finite on the samples.
    """
    mode = options.scheme(scheme).mode
    if mode == "static":
        _static(graph, ledger, samples, scheme, options)
    else:
        _without_calibration(graph, ledger, scheme, options, dynamic=mode == "dynamic")


def _without_calibration(
    graph: ir.Model, ledger: Ledger, scheme: Int8Scheme, options: Int8Options, *, dynamic: bool
) -> None:
    """int8 kernels between float activations: what can is computed in integers if `dynamic`, the rest in float."""
    groups = [group for group in ledger.plan.groups if group.name in options.keep_float]
    layers = {layer for group in groups for layer in group.layers}
    kept = {read.kernel for read in kernel_reads(graph) if read.node.name in layers}
    if dynamic:
        ledger.run("pointwise_channels_last", graph, lambda: pointwise_channels_last(graph, kept))
        ledger.run("quantize_dynamically", graph, lambda: quantize_dynamically(graph, scheme.weights, kept))
    ledger.run("store_kernels_as_int8", graph, lambda: store_kernels_as_int8(graph, kept))
    _require_int8(graph, ledger)


def _static(graph: ir.Model, ledger: Ledger, samples: Samples, scheme: Int8Scheme, options: Int8Options) -> None:
    """Integer activations with calibrated scales."""
    ledger.run("quantize_kernels", graph, lambda: quantize_kernels(graph, scheme.weights))
    _require_int8(graph, ledger)
    ledger.run("absorb_batch_norm", graph, lambda: absorb_batch_norm(graph))
    placement = place_activations(graph)
    ranges = calibrate(graph, [str(value.name) for value in placement.ranged], samples.inputs)
    ledger.run(
        "quantize_activations", graph, lambda: quantize_activations(graph, placement, ranges, scheme.activations)
    )
    ledger.run("drop_saturated_relu", graph, lambda: drop_saturated_relu(graph))
    ledger.run("quantize_biases", graph, lambda: quantize_biases(graph))
    if (options.form or scheme.form) == "qoperator":
        ledger.run("to_qoperator", graph, lambda: to_qoperator(graph))


def _require_int8(graph: ir.Model, ledger: Ledger) -> None:
    if all(array(read.kernel).dtype.kind == "f" for read in kernel_reads(graph)):
        raise GraphError(
            "int8: the network has no layer whose kernel can be quantised (Conv1d, Conv2d or Linear with a constant "
            f"float32 kernel; {ledger.rows[-1].note}); export it as --fp32"
        )
