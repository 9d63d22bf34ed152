"""RAM of a model file, measured: a fresh process per runtime profile, read from /proc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeks.bench.local import run_warm, session_config
from edgeks.bench.stream import Memory
from edgeks.errors import EdgeksError
from edgeks.runtime_profile import MeasuredRam, Profile

# ONNX Runtime lays its activations out by what it saw in the first inference, from the second on.
WARMUP, RUNS = 1, 3


def measure_ram(
    path: Path, profile: Profile, python: Path | None = None, inputs: Mapping[str, tuple[int, ...]] | None = None
) -> MeasuredRam:
    """Open and run a model file in a fresh process, as `profile` says, with random inputs.

    `python` is the interpreter of another environment, which needs numpy and the runtime only. `inputs`: sizes of
    inputs that the file leaves open, by name ("": of the only one). Of litert-compiled the weight cache is warm.

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
    stream = run_warm(path, config, python)
    stages = {memory.stage: memory for memory in stream.memory}
    start, loaded, fed, run = (_known(stages[name]) for name in ("start", "loaded", "fed", "run"))
    held_by_caller = fed.rss - loaded.rss
    anonymous_of_caller = fed.anonymous - loaded.anonymous
    return MeasuredRam(
        profile=profile.name,
        runtime_version=str(stream.facts["runtime_version"]),
        machine=str(stream.facts["machine"]),
        baseline_bytes=start.rss,
        load_peak_bytes=loaded.peak - start.rss,
        loaded_bytes=loaded.rss - start.rss,
        loaded_anonymous_bytes=loaded.anonymous - start.anonymous,
        loaded_mapped_bytes=loaded.mapped - start.mapped,
        run_peak_bytes=run.peak - start.rss - held_by_caller,
        run_bytes=run.rss - start.rss - held_by_caller,
        run_anonymous_bytes=run.anonymous - start.anonymous - anonymous_of_caller,
        run_mapped_bytes=run.mapped - start.mapped,
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    rss: int
    anonymous: int
    mapped: int
    peak: int


def _known(memory: Memory) -> _Reading:
    found = memory.rss_bytes, memory.anonymous_bytes, memory.mapped_bytes, memory.peak_bytes
    rss, anonymous, mapped, peak = found
    if rss is None or anonymous is None or mapped is None or peak is None:
        raise EdgeksError("the system does not tell the memory of a process (/proc/self/smaps_rollup): use Linux")
    return _Reading(rss, anonymous, mapped, peak)
