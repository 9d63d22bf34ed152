"""A footprint with what was measured beside what was predicted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgeks.audit.footprint import Footprint
from edgeks.bench.local import LocalMachine
from edgeks.bench.memory import measure_ram
from edgeks.bench.place import BoardPlace
from edgeks.errors import EdgeksError, LinkLost
from edgeks.runtime_profile import MeasuredRam

MODULES = {
    "onnxruntime": "onnxruntime",
    "litert": "ai_edge_litert",
    "litert-compiled": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}


def with_measurements(footprint: Footprint, python: Path | None = None, board: BoardPlace | None = None) -> Footprint:
    """Run the file under each of its profiles, here or on a board, in a fresh process each, and add what that took.

    A profile that cannot be measured (its runtime cannot be had, or refuses the file) says so and is no failure.
    `python` is the interpreter of another environment here; it is used for runtimes that this one lacks.

    Raises:
        LinkLost: the connection to the board ended.
    """
    found: dict[str, MeasuredRam | str] = {}
    for row in footprint.ram:
        if row.unusable:
            continue
        try:
            runtime = row.profile.runtime
            here = importlib.util.find_spec(MODULES[runtime]) is not None
            machine = board.machine(runtime) if board else LocalMachine(None if here else python)
            found[row.profile.name] = measure_ram(footprint.path, row.profile, machine, dict(footprint.inputs))
        except LinkLost:
            raise
        except EdgeksError as error:
            found[row.profile.name] = str(error).removeprefix(f"{footprint.path}: ")
    return footprint.with_measured(found)
