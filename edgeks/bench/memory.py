"""RAM of a model file, measured: a fresh process per runtime profile, read from /proc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from edgeks.bench.local import LocalMachine, session_config
from edgeks.bench.machine import Machine
from edgeks.bench.ram_split import ram_split
from edgeks.bench.stream import RunnerStream
from edgeks.errors import EdgeksError
from edgeks.runtime_profile import MeasuredRam, Profile

# ONNX Runtime lays its activations out by what it saw in the first inference, from the second on.
WARMUP, RUNS = 1, 3


def measure_ram(
    path: Path, profile: Profile, machine: Machine | None = None, inputs: Mapping[str, tuple[int, ...]] | None = None
) -> MeasuredRam:
    """Open and run a model file in a fresh process on `machine` (this one), as `profile` says, with random inputs.

    `inputs`: sizes of inputs that the file leaves open, by name ("": of the only one). Of litert-compiled the weight
    cache is warm.

    Raises:
        ModelFileError, DataError, ConfigError: as `edgeks.bench`.
        EdgeksError: the process died, or the system does not tell the memory of a process (not Linux).
    """
    config = {
        **session_config(profile.session, profile.session.threads),
        "model": str(path.resolve()),
        "runtime": profile.runtime,
        "warmup": WARMUP,
        "runs": RUNS,
        "shapes": dict(inputs or {}),
    }
    return ram_of((machine or LocalMachine()).run(path, config), profile)


def ram_of(stream: RunnerStream, profile: Profile) -> MeasuredRam:
    """What the runner said of its memory → RAM above the process before the file was opened.

    Raises:
        EdgeksError: the system does not tell the memory of a process (not Linux).
    """
    split = ram_split(stream.memory)
    if split is None:
        raise EdgeksError("the system does not tell the memory of a process (/proc/self/smaps_rollup): use Linux")
    return MeasuredRam(
        profile=profile.name,
        runtime_version=str(stream.facts["runtime_version"]),
        machine=str(stream.facts["machine"]),
        **asdict(split),
    )
