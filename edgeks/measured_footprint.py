"""A footprint with what was measured beside what was predicted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgeks.audit.footprint import Footprint
from edgeks.bench.local import LocalMachine
from edgeks.bench.memory import measure_ram
from edgeks.errors import EdgeksError
from edgeks.runtime_profile import MeasuredRam

MODULES = {
    "onnxruntime": "onnxruntime",
    "litert": "ai_edge_litert",
    "litert-compiled": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}


def with_measurements(footprint: Footprint, python: Path | None = None) -> Footprint:
    """Run the file here under each of its profiles, in a fresh process each, and add what that took.

    A profile that cannot be measured (its runtime is not installed, or refuses the file) says so and is no failure.
    `python` is the interpreter of another environment; it is used for runtimes that this one lacks.
    """
    found: dict[str, MeasuredRam | str] = {}
    for row in footprint.ram:
        if row.unusable:
            continue
        try:
            here = importlib.util.find_spec(MODULES[row.profile.runtime]) is not None
            found[row.profile.name] = measure_ram(
                footprint.path, row.profile, LocalMachine(None if here else python), dict(footprint.inputs)
            )
        except EdgeksError as error:
            found[row.profile.name] = str(error).removeprefix(f"{footprint.path}: ")
    return footprint.with_measured(found)
