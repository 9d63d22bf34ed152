"""Calibration: the ranges of activations, from what real samples show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from edgeks.errors import DataError
from edgeks.graph.passes.quantize_activations import Range
from edgeks.quant.activations import activations
from edgeks.quant.options import Calibration

BINS = 2048
LEVELS = 255  # steps between the lowest and the highest code
PERCENTILE = 99.999  # of the values, per side; 99.99 cuts what matters (6 dB on a trained ConvMixer)
ENTROPY_BINS, ENTROPY_LEVELS = 1024, 128  # levels as TensorRT has them; the search takes time ~ bins squared
# An end of a range shrinks to these shares of what was seen.
MSE_SHARES = np.linspace(1.0, 0.02, 50)

# Op → where its input says anything. Outside it the output is within 0.002 of constant (0, or for the high end of a
# sigmoid 1), so that no code is spent there.
INFORMATIVE: dict[str, tuple[float, float]] = {
    "Gelu": (-3.3, np.inf),
    "HardSwish": (-3.0, np.inf),
    "HardSigmoid": (-3.0, 3.0),
    "Sigmoid": (-8.0, 8.0),
}
TORCH_HARD_SIGMOID = 1 / 6  # the slope that saturates at ±3; ONNX's default is 0.2


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts` of BINS equal bins between `low` and `high`; 0 lies between them."""

    counts: NDArray[np.int64]
    low: float
    high: float

    @property
    def edges(self) -> NDArray[np.float64]:
        """The BINS + 1 borders of the bins."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def calibrate(
    model: ir.Model, names: Sequence[str], samples: NDArray[Any], method: Calibration = "minmax"
) -> dict[str, Range]:
    """Run the float graph on `samples` (N×C×H×W) → the range of each named Value.

    minmax: all that was seen. percentile: without the outermost 0.001 % at either end. entropy: the symmetric threshold
    whose 128 levels tell most about the values (Kullback-Leibler, as in TensorRT), cut to what was seen. mse: the two
    ends, each on its own, that leave the least mean squared error. Whatever the method, a range ends where the
    Value's readers stop telling values apart (INFORMATIVE).

    Raises:
        DataError: an activation is not finite on the samples.
    """
    seen = _seen(model, names, samples)
    if method == "minmax":
        return seen
    choose = _METHODS[method]
    return {name: choose(histogram) for name, histogram in _histograms(model, seen, samples).items()}


def _seen(model: ir.Model, names: Sequence[str], samples: NDArray[Any]) -> dict[str, Range]:
    """Smallest and largest value of each name, within what its readers can tell apart."""
    low = dict.fromkeys(names, np.inf)
    high = dict.fromkeys(names, -np.inf)
    for found in activations(model, names, samples):
        for name in names:
            low[name] = np.minimum(low[name], found[name].min())  # keeps a NaN, which min() would drop
            high[name] = np.maximum(high[name], found[name].max())
    informative = _informative(model)
    ranges = {}
    for name in names:
        if not (np.isfinite(low[name]) and np.isfinite(high[name])):
            raise DataError(f"activation {name!r} is not finite on the calibration samples; check the samples' scale")
        least, most = informative.get(name, (-np.inf, np.inf))
        ranges[name] = Range(float(np.clip(low[name], least, most)), float(np.clip(high[name], least, most)))
    return ranges


def _informative(model: ir.Model) -> dict[str, tuple[float, float]]:
    """Name → the widest of its readers' intervals in INFORMATIVE, for Values that only such ops read."""
    found = {}
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    for value in values:
        uses = list(value.uses())
        if not uses or value.is_graph_output() or not all(_saturates(node) for node, _ in uses):
            continue
        bounds = [INFORMATIVE[node.op_type] for node, _ in uses]
        found[str(value.name)] = (min(low for low, _ in bounds), max(high for _, high in bounds))
    return found


def _saturates(node: ir.Node) -> bool:
    if node.op_type == "HardSigmoid":
        slope, middle = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        return slope >= TORCH_HARD_SIGMOID - 1e-4 and middle == 0.5
    return node.op_type in INFORMATIVE and node.domain in ("", "ai.onnx")


def _histograms(model: ir.Model, seen: Mapping[str, Range], samples: NDArray[Any]) -> dict[str, Histogram]:
    """A second run: how often each value comes. What lies outside `seen` counts at its ends."""
    spans = {name: (min(found.low, 0.0), max(found.high, 0.0)) for name, found in seen.items()}
    counts = {name: np.zeros(BINS, np.int64) for name in seen}
    for found in activations(model, list(seen), samples):
        for name, values in found.items():
            low, high = spans[name]
            if high > low:  # bincount, since numpy.histogram takes five times as long
                bins = ((values.ravel() - np.float32(low)) * np.float32(BINS / (high - low))).astype(np.int64)
                counts[name] += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
    return {name: Histogram(counts[name], *spans[name]) for name in seen}


def _percentile(histogram: Histogram) -> Range:
    total = histogram.counts.sum()
    outside = total * (1 - PERCENTILE / 100)
    below, above = np.cumsum(histogram.counts), np.cumsum(histogram.counts[::-1])
    low = histogram.edges[np.searchsorted(below, outside, side="right")] if total else histogram.low
    high = histogram.edges[::-1][np.searchsorted(above, outside, side="right")] if total else histogram.high
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def _entropy(histogram: Histogram) -> Range:
    """ONNX Runtime's search. It takes a symmetric histogram: an end that reaches less far adds empty bins."""
    reach = max(-histogram.low, histogram.high)
    if not histogram.counts.any():
        return Range(histogram.low, histogram.high)
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    counts, edges = np.histogram(centres, ENTROPY_BINS, range=(-reach, reach), weights=histogram.counts)
    collector = HistogramCollector("entropy", True, ENTROPY_BINS, ENTROPY_LEVELS, PERCENTILE, "same")
    ends = np.float64(histogram.low), np.float64(histogram.high)
    low, high = collector.get_entropy_threshold((counts.astype(np.int64), edges, *ends, reach), ENTROPY_LEVELS)
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def _mse(histogram: Histogram) -> Range:
    """Grid search over both ends; the values of a bin count as its middle, and codes are those of Range.parameters."""
    filled = np.flatnonzero(histogram.counts)
    if not len(filled):
        return Range(histogram.low, histogram.high)
    values = ((histogram.edges[:-1] + histogram.edges[1:]) / 2)[filled]
    weights = histogram.counts[filled].astype(np.float64)
    highs = np.unique(MSE_SHARES * histogram.high)
    best, least = Range(histogram.low, histogram.high), np.inf
    for low in np.unique(MSE_SHARES * histogram.low):
        width = np.maximum(highs - low, 1e-30)[:, None]
        step = width / LEVELS
        zero = np.rint(-low / step)
        rounded = (np.clip(np.rint(values / step) + zero, 0, LEVELS) - zero) * step
        errors = (rounded - values) ** 2 @ weights
        index = int(np.argmin(errors))
        if errors[index] < least:
            least, best = float(errors[index]), Range(float(low), float(highs[index]))
    return best


_METHODS: dict[Calibration, Callable[[Histogram], Range]] = {
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
