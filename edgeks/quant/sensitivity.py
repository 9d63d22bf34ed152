"""Sensitivity: what int8 costs each kernel of a network, and which choices would cost less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.formats.onnx import REFERENCE, open_session, run, to_proto
from edgeks.graph.kernels import kernel_reads
from edgeks.graph.ledger import Ledger
from edgeks.parity import MAX_SQNR_DB, compare_all
from edgeks.quant.keep_float import float_layers
from edgeks.quant.options import Calibration, Int8Options, Rounding
from edgeks.quant.quantise import quantise
from edgeks.samples import Samples
from edgeks.sharing.plan import SharingGroup, SharingPlan
from edgeks.target import Int8Scheme

MAX_SAMPLES = 32
# Below these gains a choice is not worth a suggestion; 6 dB: the kernel makes three quarters of the noise.
NOTABLE_GROUP_DB = 6.0
NOTABLE_SETTING_DB = 0.5


@dataclass(frozen=True, slots=True)
class GroupSensitivity:
    """One kernel: SQNR of the network with it alone in int8, and with all kernels in int8 but it.

    `gain_db` is what keeping it in float gains over int8 everywhere. `rounding` is the one that does better where the
    kernel alone is int8.
    """

    name: str
    layers: int
    int8_bytes: int
    float_bytes: int
    alone_db: float
    without_db: float
    gain_db: float
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class SettingSensitivity:
    """SQNR of the network in int8 with one calibration method, with bias correction and without."""

    calibration: Calibration
    bias_correction: bool
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """`sqnr_db`: all kernels in int8, with the options that were asked for. Against the float graph, on `samples`."""

    samples: int
    sqnr_db: float
    groups: tuple[GroupSensitivity, ...]
    settings: tuple[SettingSensitivity, ...]
    suggestions: tuple[str, ...]


def sensitivity(
    graph: ir.Model,
    plan: SharingPlan,
    samples: Samples,
    scheme: Int8Scheme,
    options: Int8Options,
    on_step: Callable[[str], None] = lambda step: None,
) -> Sensitivity:
    """Quantise copies of the float `graph`, each in another way, and compare their outputs on up to 32 samples.

    Three int8 networks per kernel and eight for the settings, each calibrated anew. `graph` is left as it is.

    Raises:
        ConfigError, GraphError, DataError: as `quantise`.
    """
    trial = _Trial(graph, plan, replace(samples, inputs=samples.inputs[:MAX_SAMPLES]), scheme)
    on_step("sensitivity: the whole network")
    base, quantised = trial.sqnr(options)
    kept = float_layers(plan, options.keep_float)
    groups = [group for group in plan.kernels if group.layers[0] in quantised and group.layers[0] not in kept]
    found = []
    for number, group in enumerate(groups, 1):
        on_step(f"sensitivity: kernel {number} of {len(groups)}")
        found.append(_of_group(trial, group, groups, options, base))
    on_step("sensitivity: calibration methods")
    settings = tuple(
        SettingSensitivity(
            method, corrected, trial.sqnr(replace(options, calibration=method, bias_correction=corrected))[0]
        )
        for method in get_args(Calibration)
        for corrected in (False, True)
    )
    return Sensitivity(len(trial.samples.inputs), base, tuple(found), settings, _suggestions(found, settings, base))


class _Trial:
    """The float graph and its outputs, for comparing int8 forms of it."""

    def __init__(self, graph: ir.Model, plan: SharingPlan, samples: Samples, scheme: Int8Scheme) -> None:
        self.graph, self.plan, self.samples, self.scheme = graph, plan, samples, scheme
        self._expected = self._outputs(graph)

    def sqnr(self, options: Int8Options) -> tuple[float, set[str]]:
        """SQNR in dB, and the layers whose kernels are int8. QDQ whatever form is asked for: it computes the same."""
        copy = self.graph.clone()
        quantise(copy, Ledger(self.plan), self.samples, self.scheme, replace(options, form="qdq"))
        layers = {str(read.node.name) for read in kernel_reads(copy) if read.dequantize is not None}
        return compare_all(self._expected, self._outputs(copy)).sqnr_db, layers

    def _outputs(self, graph: ir.Model) -> list[NDArray[np.float32]]:
        return run(open_session(to_proto(graph).SerializeToString(), REFERENCE), self.samples.inputs)


def _of_group(
    trial: _Trial, group: SharingGroup, groups: Sequence[SharingGroup], options: Int8Options, base: float
) -> GroupSensitivity:
    others = (*options.keep_float, *(other.name for other in groups if other is not group))
    alone = {
        rounding: trial.sqnr(replace(options, rounding=rounding, keep_float=others))[0]
        for rounding in get_args(Rounding)
    }
    without = MAX_SQNR_DB
    if len(groups) > 1:
        without, _ = trial.sqnr(replace(options, keep_float=(*options.keep_float, group.name)))
    return GroupSensitivity(
        name=group.name,
        layers=len(group.layers),
        int8_bytes=group.kernel_bytes // 4,
        float_bytes=group.kernel_bytes,
        alone_db=alone[options.rounding],
        without_db=without,
        gain_db=without - base,
        rounding="adaround" if alone["adaround"] > alone["nearest"] else "nearest",
    )


def _suggestions(
    groups: Sequence[GroupSensitivity], settings: Sequence[SettingSensitivity], base: float
) -> tuple[str, ...]:
    found = []
    worst = max(groups, key=lambda group: group.gain_db)
    if worst.gain_db >= NOTABLE_GROUP_DB and len(groups) > 1:
        more = worst.float_bytes - worst.int8_bytes
        found.append(f"--keep-float {worst.name}: {worst.without_db:.1f} dB instead of {base:.1f}, {more:,} bytes more")
    best = max(settings, key=lambda setting: setting.sqnr_db)
    if best.sqnr_db >= base + NOTABLE_SETTING_DB:
        choice = f"--calibration {best.calibration}{' --bias-correction' if best.bias_correction else ''}"
        found.append(f"{choice}: {best.sqnr_db:.1f} dB instead of {base:.1f}")
    return tuple(found) or (f"none: no single choice gains much over {base:.1f} dB",)
