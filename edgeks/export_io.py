"""`--io`: what an artefact takes and gives, float or 8-bit codes, and how that is told to the program on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from edgeks.errors import ConfigError, DataError
from edgeks.graph.ledger import Ledger
from edgeks.graph.passes.integer_io import Codes, chosen_codes, integer_io, known_codes
from edgeks.graph.passes.raw_pixels import BRIGHTEST
from edgeks.interface import Interface, TensorSpec
from edgeks.preprocessing import Preprocessing
from edgeks.quant.calibrate import calibrate
from edgeks.samples import Samples

Io = Literal["float", "int8", "uint8"]
LAYOUTS = {2: "NC", 3: "NCL", 4: "NCHW"}


def require_io(io: Io, preprocessing: Preprocessing | None, *, int8: bool) -> None:
    """Check that the artefact can have these inputs and outputs.

    Raises:
        ConfigError: `io` is none of the legal values, or int8 for a float artefact.
        DataError: raw pixels without a preprocessing that says how they are normalised.
    """
    if io not in get_args(Io):
        raise ConfigError(f"--io {io}: legal: {', '.join(get_args(Io))}")
    if io == "int8" and not int8:
        raise ConfigError("--io int8: a float artefact has no int8 codes; add --int8, or choose --io float or uint8")
    if io == "uint8" and preprocessing is None:
        raise DataError(
            "--io uint8: raw pixels need the checkpoint's preprocessing (size, mean, std), and this checkpoint has "
            "none; train it with edgeks, save it with edgeks.save_checkpoint, or choose --io float"
        )


def as_pixels(samples: Samples, preprocessing: Preprocessing) -> tuple[Samples, str | None]:
    """Normalised samples → the raw pixels (uint8) that they come from, and a warning where they come from none."""
    pixels = preprocessing.denormalise(samples.inputs)
    beside = np.abs(preprocessing.normalise(pixels) - samples.inputs) * np.asarray(preprocessing.std).reshape(-1, 1, 1)
    share = float(np.mean(beside > 1 / BRIGHTEST))
    warning = None
    if samples.real and share > 0:
        warning = (
            f"{100 * share:.1f} % of the samples' values are no normalised pixel and were clipped; "
            "are they normalised by another mean and std than the checkpoint's?"
        )
    return replace(samples, inputs=pixels), warning


def quantise_io(graph: ir.Model, ledger: Ledger, samples: Samples, io: Literal["int8", "uint8"]) -> dict[str, Codes]:
    """Inputs and outputs of an int8 graph → 8-bit codes, in place; their parameters by name.

    A tensor that the graph itself quantises keeps that scale; the others are calibrated on `samples`.
    """
    known = known_codes(graph, io)
    ranges = calibrate(graph, [name for name, codes in known.items() if codes is None], samples.inputs)
    codes = {name: found or chosen_codes(ranges[name], io) for name, found in known.items()}
    names = {str(value.name) for value in graph.graph.inputs}
    inputs = {name: found for name, found in codes.items() if name in names}
    outputs = {name: found for name, found in codes.items() if name not in names}
    ledger.run("integer_io", graph, lambda: integer_io(graph, inputs, outputs))
    return codes


def interface_of(graph: ir.Model, codes: Mapping[str, Codes], preprocessing: Preprocessing | None) -> Interface:
    """The finished graph → what a program feeds and gets, in the order of the file."""
    classes = len(preprocessing.classes) if preprocessing else 0

    def spec(value: ir.Value, meaning: str) -> TensorSpec:
        shape = tuple(d if isinstance(d, int) else str(d) for d in value.shape or ())
        found = codes.get(str(value.name))
        return TensorSpec(
            name=str(value.name),
            type=found.type if found else (value.dtype or ir.DataType.FLOAT).numpy().name,
            shape=shape,
            layout=LAYOUTS.get(len(shape), "N…"),
            meaning=meaning,
            scale=float(found.scale) if found else None,
            zero_point=found.zero_point if found else None,
        )

    fed = "pixels, normalised: (p/255 - mean)/std" if preprocessing else "as the network takes it"
    inputs = [spec(value, fed) for value in graph.graph.inputs]
    if inputs[0].type == "uint8" and not codes.get(inputs[0].name):
        meaning = f"raw pixels, 0 to {BRIGHTEST}"
        inputs[0] = replace(inputs[0], meaning=meaning, scale=1 / BRIGHTEST, zero_point=0)
    outputs = []
    for value in graph.graph.outputs:
        scores = classes > 1 and value.shape is not None and tuple(value.shape) == (1, classes)
        outputs.append(spec(value, "one score per class" if scores else "output of the network"))
    return Interface(tuple(inputs), tuple(outputs))
