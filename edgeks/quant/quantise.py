"""Float graph → int8 graph: the passes of each kind of quantisation, in order (docs/arithmetic.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.errors import ConfigError, GraphError
from edgeks.graph.kernels import array, kernel_reads
from edgeks.graph.ledger import Ledger
from edgeks.graph.marks import marks
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.affine_as_depthwise import affine_as_depthwise
from edgeks.graph.passes.drop_saturated_relu import drop_saturated_relu
from edgeks.graph.passes.fold_batch_norm import fold_batch_norm
from edgeks.graph.passes.move_codes import move_codes
from edgeks.graph.passes.pointwise_channels_last import pointwise_channels_last
from edgeks.graph.passes.quantize_activations import Placement, Range, place_activations, quantize_activations
from edgeks.graph.passes.quantize_biases import quantize_biases
from edgeks.graph.passes.quantize_dynamically import quantize_dynamically
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.quantize_on_the_fly import quantize_on_the_fly
from edgeks.graph.passes.raw_pixels import pixel_ranges
from edgeks.graph.passes.separate_affine import separate_affine
from edgeks.graph.passes.split_large_kernels import is_tile
from edgeks.graph.passes.store_kernels_as_int8 import store_kernels_as_int8
from edgeks.graph.passes.to_qoperator import to_qoperator
from edgeks.quant.bias_correction import correct_biases, quantised_layers
from edgeks.quant.calibrate import calibrate
from edgeks.quant.common_ranges import common_ranges
from edgeks.quant.keep_float import float_layers
from edgeks.quant.options import Int8Options
from edgeks.quant.rounding import adaround
from edgeks.quant.trained import NOTHING_TRAINED, Trained
from edgeks.samples import Samples
from edgeks.target import Int8Scheme


def quantise(
    graph: ir.Model,
    ledger: Ledger,
    samples: Samples,
    scheme: Int8Scheme,
    options: Int8Options,
    trained: Trained = NOTHING_TRAINED,
    *,
    common_scales: bool = False,
) -> tuple[str, ...]:
    """Float graph → int8 graph, in place; every pass is a verified row of `ledger`. Only static reads `samples`.

    `common_scales` (`Target.common_scales`): what differs between the layers of a kernel becomes an operator of its own
    behind each.

    What quantisation-aware training decided (`trained`, by the marks on the graph's Values) is taken as it is; the
    other ranges are calibrated, and the kernels and tensors that training knew nothing of are returned.

    Raises:
        ConfigError: `options.keep_float` names what is no kernel.
        GraphError: no layer of the network can be quantised.
        DataError: an activation is not finite on the samples.
    """
    scheme = options.scheme(scheme)
    if scheme.mode == "static":
        return _static(graph, ledger, samples, scheme, options, trained, common_scales=common_scales)
    _without_calibration(graph, ledger, scheme, options, common_scales=common_scales)
    return ()


def _without_calibration(
    graph: ir.Model, ledger: Ledger, scheme: Int8Scheme, options: Int8Options, *, common_scales: bool
) -> None:
    """int8 kernels between float activations: what can is computed in integers if dynamic, the rest in float."""
    if replace(options, keep_float=()).after_training:
        raise ConfigError(
            f"int8: calibration, bias correction and rounding are about static activations, not {scheme.mode} ones; "
            "leave them out"
        )
    layers = float_layers(ledger.plan, options.keep_float)
    kept = {read.kernel for read in kernel_reads(graph) if read.node.name in layers}
    if common_scales:
        ledger.run("separate_affine", graph, lambda: separate_affine(graph))
    if scheme.format == "tflite":
        if scheme.mode == "dynamic":
            ledger.run("quantize_on_the_fly", graph, lambda: quantize_on_the_fly(graph, kept))
            ledger.run("absorb_batch_norm", graph, lambda: absorb_batch_norm(graph))
        ledger.run("fold_batch_norm", graph, lambda: fold_batch_norm(graph))
    elif scheme.mode == "dynamic":
        ledger.run("pointwise_channels_last", graph, lambda: pointwise_channels_last(graph, kept))
        ledger.run("quantize_dynamically", graph, lambda: quantize_dynamically(graph, scheme.weights, kept))
    ledger.run("store_kernels_as_int8", graph, lambda: store_kernels_as_int8(graph, kept))
    _require_int8(graph, ledger)


def _static(
    graph: ir.Model,
    ledger: Ledger,
    samples: Samples,
    scheme: Int8Scheme,
    options: Int8Options,
    trained: Trained,
    *,
    common_scales: bool,
) -> tuple[str, ...]:
    """Integer activations with scales that were calibrated or trained."""
    keep_float = float_layers(ledger.plan, options.keep_float)
    if common_scales:
        ledger.run("separate_affine", graph, lambda: separate_affine(graph, for_integers=True))
        ledger.replan("affine_as_depthwise", graph, lambda: affine_as_depthwise(graph, ledger.plan))
    reference = graph.clone() if options.bias_correction else None
    codes: Mapping[str, NDArray[np.int8]] = {}
    if options.rounding == "adaround":
        rounding = adaround(graph, samples.inputs, keep_float)
        codes = rounding.codes
        ledger.record("adaround", graph, str(rounding))
    scales = _trained_scales(graph, trained)
    ledger.run(
        "quantize_kernels",
        graph,
        lambda: quantize_kernels(
            graph,
            scheme.weights,
            keep_float={*keep_float, *_tiles(graph)},
            codes_of=codes,
            trained=scales,
            file_format=scheme.format,
        ),
    )
    _require_int8(graph, ledger)
    untrained = [str(read.node.name) for read in kernel_reads(graph) if read.dequantize and not marks(read.kernel)]
    ledger.run("absorb_batch_norm", graph, lambda: absorb_batch_norm(graph))
    if scheme.format == "tflite":
        _store_float_layers(graph, ledger, keep_float, scales)
    layers = quantised_layers(graph)
    placement = place_activations(graph, scheme.format)
    ranges = _trained_ranges(placement, trained)
    names = [str(value.name) for value in placement.ranged if str(value.name) not in ranges]
    ranges |= calibrate(graph, names, samples.inputs, options.calibration)
    if common_scales:
        ranges = common_ranges(graph, placement, ranges)
    pixels = pixel_ranges(graph)
    untrained += [name for name in names if name not in pixels]
    ranges |= pixels
    ledger.run(
        "quantize_activations", graph, lambda: quantize_activations(graph, placement, ranges, scheme.activations)
    )
    ledger.run("drop_saturated_relu", graph, lambda: drop_saturated_relu(graph))
    if scheme.format == "onnx":
        ledger.run("move_codes", graph, lambda: move_codes(graph))
    if reference is not None:
        ledger.run("correct_biases", graph, lambda: correct_biases(graph, reference, layers, samples.inputs))
    ledger.run("quantize_biases", graph, lambda: quantize_biases(graph))
    if scheme.form == "qoperator":
        ledger.run("to_qoperator", graph, lambda: to_qoperator(graph))
    return () if trained is NOTHING_TRAINED else tuple(dict.fromkeys(untrained))


def _tiles(graph: ir.Model) -> set[str]:
    """Layers that a large kernel was cut into: sums of several in int8 cost 4 to 7 dB, and float is as fast."""
    return {str(read.node.name) for read in kernel_reads(graph) if is_tile(str(read.node.name))}


def _store_float_layers(
    graph: ir.Model, ledger: Ledger, keep_float: Collection[str], trained: Mapping[ir.Value, NDArray[np.float32]]
) -> None:
    """Layers that compute in float though nobody asked: BN folded for a runtime without it, kernels stored as codes."""
    ledger.run("fold_batch_norm", graph, lambda: fold_batch_norm(graph))
    asked = {read.kernel for read in kernel_reads(graph) if read.node.name in keep_float}
    if any(read.kernel not in asked and array(read.kernel).dtype.kind == "f" for read in kernel_reads(graph)):
        ledger.run("store_kernels_as_int8", graph, lambda: store_kernels_as_int8(graph, asked, trained))


def _require_int8(graph: ir.Model, ledger: Ledger) -> None:
    if all(array(read.kernel).dtype.kind == "f" for read in kernel_reads(graph)):
        raise GraphError(
            "int8: the network has no layer whose kernel can be quantised (Conv1d, Conv2d or Linear with a constant "
            f"float32 kernel; {ledger.rows[-1].note}); export it as --fp32"
        )


def _trained_scales(graph: ir.Model, trained: Trained) -> dict[ir.Value, NDArray[np.float32]]:
    """Kernel → the scales that training decided."""
    found = ((read.kernel, mark) for read in kernel_reads(graph) for mark in marks(read.kernel))
    return {kernel: trained.scales[mark] for kernel, mark in found if mark in trained.scales}


def _trained_ranges(placement: Placement, trained: Trained) -> dict[str, Range]:
    """Name of a quantised Value → the range that training decided."""
    found: dict[str, Range] = {}
    for value in placement.ranged:
        known = [mark for mark in placement.marks_on(value) if mark in trained.ranges]
        if known:
            found[str(value.name)] = trained.ranges[known[0]]
    return found
