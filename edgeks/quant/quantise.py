"""Float graph → int8 graph: the passes of each kind of quantisation, in order (docs/arithmetic.md)."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.errors import GraphError
from edgeks.graph.kernels import kernel_reads
from edgeks.graph.ledger import Ledger
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu
from edgeks.graph.passes.move_codes import move_codes
from edgeks.graph.passes.quantize_activations import place_activations, quantize_activations
from edgeks.graph.passes.quantize_biases import quantize_biases
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.to_qoperator import to_qoperator
from edgeks.quant.calibrate import calibrate
from edgeks.quant.options import Int8Options
from edgeks.samples import Samples
from edgeks.target import Int8Scheme


def quantise(graph: ir.Model, ledger: Ledger, samples: Samples, scheme: Int8Scheme, options: Int8Options) -> None:
    """Float graph → int8 graph, in place; every pass is a verified row of `ledger`.

    Raises:
        GraphError: no layer of the network can be quantised.
        DataError: an activation is not finite on the samples.
    """
    ledger.run("quantize_kernels", graph, lambda: quantize_kernels(graph, scheme.weights))
    if all(read.dequantize is None for read in kernel_reads(graph)):
        raise GraphError(
            "int8: the network has no layer whose kernel can be quantised (Conv1d, Conv2d or Linear with a constant "
            f"float32 kernel; {ledger.rows[-1].note}); export it as --fp32"
        )
    ledger.run("absorb_batch_norm", graph, lambda: absorb_batch_norm(graph))
    placement = place_activations(graph)
    ranges = calibrate(graph, [str(value.name) for value in placement.ranged], samples.inputs)
    ledger.run(
        "quantize_activations", graph, lambda: quantize_activations(graph, placement, ranges, scheme.activations)
    )
    ledger.run("drop_saturated_relu", graph, lambda: drop_saturated_relu(graph))
    ledger.run("move_codes", graph, lambda: move_codes(graph))
    ledger.run("quantize_biases", graph, lambda: quantize_biases(graph))
    if (options.form or scheme.form) == "qoperator":
        ledger.run("to_qoperator", graph, lambda: to_qoperator(graph))
