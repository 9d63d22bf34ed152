"""What an inference costs on an Arm core, in instructions: counted on the emulated board, the same each time.

Not time: which instructions run depends on the core (dot products, atomics) and the runtime, how long they take on
caches and memory, which are not emulated.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeks.bench.local import LAST_WORDS, RUNNER, checked_session
from edgeks.bench.stream import RunnerStream
from edgeks.emulator.cpus import CPUS, require_cpu
from edgeks.emulator.jobs import JobResult, run_jobs
from edgeks.emulator.qemu import version
from edgeks.errors import DataError, EdgeksError
from edgeks.model_files.onnx_file import data_files
from edgeks.runtime_profile import COMPILED
from edgeks.target import Target

SCHEMA = "edgeks.instructions/1"
WARMUP, RUNS, MAX_RUNS = 1, 3, 1000
SECONDS_PER_JOB = 1800.0  # of this machine's time, at most
MEMORY = "2G"
PER_MS = 1_000_000  # the board's clock goes 1 ns per instruction


@dataclass(frozen=True, slots=True)
class Counted:
    """One file to count, as a target opens it. `runtime` overrides the target's; no `inputs`: random ones."""

    path: Path
    target: Target
    runtime: str | None = None
    inputs: Path | None = None


@dataclass(frozen=True, slots=True)
class Instructions:
    """Arm instructions of one file, in one process with one thread: `load`, `first_inference`, `inferences` after it.

    They are those of the process and of the kernel on its behalf; importing the runtime is not in them. `cpu` is what
    was emulated and `emulator` what by, `machine` the system in it.
    """

    path: Path
    target: str
    session: dict[str, Any]
    cpu: str
    emulator: str
    runtime: str
    runtime_version: str
    machine: str
    load: int
    first_inference: int
    inferences: tuple[int, ...]

    @property
    def inference(self) -> int:
        """Of one inference: the median of those after the first."""
        return round(statistics.median(self.inferences))

    @property
    def spread(self) -> float:
        """How far inferences differ: the most less the least, as a share of the median."""
        return (max(self.inferences) - min(self.inferences)) / self.inference


def count_instructions(
    path: Path,
    target: Target,
    cpu: str = "cortex-a72",
    runtime: str | None = None,
    *,
    inputs: Path | None = None,
    runs: int = RUNS,
    on_step: Callable[[str], None] | None = None,
) -> Instructions:
    """Count one file on an emulated core: `runs` inferences after the first and one more, with one thread.

    Repeats to 0.1 % and better, so that a test can hold it. Takes about a minute, and the first time another to build
    the emulated board, which `on_step` tells of.

    Raises:
        ModelFileError: the file is missing, or the runtime cannot load or run it.
        ConfigError: the target or the runtime is for another format, or there is no such core.
        DataError: the inputs cannot be used, or `runs` is out of range.
        BoardError: the emulated board cannot be built or started.
        EdgeksError: the process was killed, or crashed.
    """
    counted = [Counted(path, target, runtime, inputs)]
    (found,) = count_instructions_of(counted, cpu, runs=runs, on_step=on_step)
    if isinstance(found, EdgeksError):
        raise found
    return found


def count_instructions_of(
    files: Sequence[Counted],
    cpu: str = "cortex-a72",
    *,
    runs: int = RUNS,
    on_found: Callable[[int, Instructions | EdgeksError], None] | None = None,
    on_step: Callable[[str], None] | None = None,
) -> tuple[Instructions | EdgeksError, ...]:
    """Several files on one start of the emulated board; one that fails is its error, and the others are counted.

    `on_found` gets the number and the finding of each file once it has run.

    Raises:
        As `count_instructions`, before anything runs; BoardError also in the middle.
    """
    if not 1 <= runs <= MAX_RUNS:
        raise DataError(f"runs is {runs}; legal: 1 to {MAX_RUNS}")
    require_cpu(cpu)
    jobs: list[tuple[int, dict[str, Any]]] = []  # a file's number and a configuration of the runner
    sessions: list[dict[str, Any]] = []
    for number, file in enumerate(files):
        runtime, session = checked_session(file.path, file.target, file.runtime, 1)
        sessions.append(session)
        config = {**session, "model": file.path, "runtime": runtime, "warmup": WARMUP, "runs": runs}
        if file.inputs is not None:
            config["inputs"] = file.inputs
        if runtime == COMPILED:  # a first process makes the weight cache, which the next one finds
            config["weight_cache"] = f"/tmp/weight_cache_{number}"  # noqa: S108
            jobs.append((number, {**config, "warmup": 0, "runs": 1}))
        jobs.append((number, config))
    emulator = version() if jobs else ""
    found: dict[int, Instructions | EdgeksError] = {}

    def take(index: int, result: JobResult) -> None:
        number = jobs[index][0]
        if any(later == number for later, _ in jobs[index + 1 :]):
            return
        found[number] = _finding(files[number], jobs[index][1], sessions[number], cpu, emulator, result)
        if on_found:
            on_found(number, found[number])

    configs = [config for _, config in jobs]
    beside = {file.path.resolve(): data_files(file.path) for file in files}
    limit = SECONDS_PER_JOB * len(jobs)
    if jobs:
        run_jobs(RUNNER, configs, cpu, memory=MEMORY, timeout=limit, beside=beside, on_result=take, on_line=on_step)
    return tuple(found[number] for number in range(len(files)))


def _finding(
    file: Counted, config: dict[str, Any], session: dict[str, Any], cpu: str, emulator: str, result: JobResult
) -> Instructions | EdgeksError:
    stream = RunnerStream()
    ending = f"was killed by signal {-result.code}" if result.code < 0 else f"ended with code {result.code}"
    try:
        for event in result.events:
            stream.take(event)
        stream.require_end(file.path, config, f"on the emulated board {ending}", _words(result))
    except EdgeksError as error:
        return error
    return Instructions(
        path=file.path,
        target=file.target.name,
        session=session,
        cpu=cpu,
        emulator=emulator,
        runtime=str(stream.facts["runtime"]),
        runtime_version=str(stream.facts["runtime_version"]),
        machine=str(stream.facts["platform"]),
        load=round(stream.load_ms * PER_MS),
        first_inference=round(stream.first_inference_ms * PER_MS),
        inferences=tuple(round(ms * PER_MS) for ms in stream.samples),
    )


def _words(result: JobResult) -> str:
    return " ".join(result.complaints.split())[-LAST_WORDS:]


def to_json(found: Instructions) -> dict[str, Any]:
    """Its JSON form, schema edgeks.instructions/1: counts are instructions, never time."""
    return {
        "schema": SCHEMA,
        "file": str(found.path),
        "target": found.target,
        "session": found.session,
        "cpu": found.cpu,
        "emulated": True,
        "emulator": f"QEMU {found.emulator}",
        "runtime": found.runtime,
        "runtime_version": found.runtime_version,
        "machine": found.machine,
        "threads": 1,
        "instructions": {
            "load": found.load,
            "first_inference": found.first_inference,
            "inference": found.inference,
            "inferences": list(found.inferences),
            "spread": found.spread,
        },
    }


def render(found: Instructions, console: Console) -> None:
    """Print the counts, in millions, and what they were counted with."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    many = f"median of {len(found.inferences)}, {100 * found.spread:.2g} % apart"
    for name, count, note in (
        ("one inference", found.inference, many),
        ("first inference", found.first_inference, ""),
        ("loading the file", found.load, ""),
    ):
        table.add_row(name, f"{count / 1e6:,.2f} M", note)
    title = f"{escape(str(found.path))}: Arm instructions (emulated {CPUS[found.cpu]}, one thread), not time"
    console.print(title, soft_wrap=True)
    console.print(table)
    counted = f"{found.runtime} {found.runtime_version}, target {escape(found.target)}; QEMU {found.emulator}"
    console.print(counted, soft_wrap=True)
