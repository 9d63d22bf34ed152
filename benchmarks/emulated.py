"""Files run on an emulated Arm core: instructions per inference and RAM of each, kept as they come.

What was measured stands in a file of JSON lines by all that it depends on: a run that was interrupted goes on where it
was, and both tables take what the other one measured.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeks.advice.measurements import Measurements
from edgeks.bench.local import RUNNER, session_config
from edgeks.bench.memory import ram_of
from edgeks.bench.stream import RunnerStream
from edgeks.emulator.jobs import JobResult, run_jobs
from edgeks.errors import EdgeksError
from edgeks.runtime_profile import COMPILED, PROFILES, MeasuredRam, Profile

MOST_BYTES = 300_000_000  # of files on the disk of one machine
MEMORY, SECONDS = "2G", 600.0  # of a machine; for each file at most, in this machine's time
# After the first inference: the second one counts.
RUNS = 1
KIND = "emulated"


@dataclass(frozen=True)
class Case:
    """A file under a profile of `edgeks footprint` on an emulated core. `repeat` n: measured once more."""

    path: Path
    profile: str
    cpu: str
    repeat: int = 0

    @property
    def options(self) -> Profile:
        """How the file is opened."""
        return next(each for rows in PROFILES.values() for each in rows if each.name == self.profile)

    @property
    def config(self) -> dict[str, Any]:
        """What the runner is told, but for the file."""
        profile = self.options
        return {**session_config(profile.session, 1), "runtime": profile.runtime, "warmup": 0, "runs": RUNS}

    @property
    def about(self) -> dict[str, Any]:
        """All that the figures depend on."""
        about = {"file": digest(self.path), "config": self.config, "cpu": self.cpu}
        return {**about, "repeat": self.repeat} if self.repeat else about


@dataclass(frozen=True)
class Figures:
    """What a run gave. `instructions`: of each inference after the first, one thread; `versions`: runtime and kernel.

    `failed`: why there are none.
    """

    instructions: tuple[int, ...] = ()
    ram: MeasuredRam | None = None
    versions: str = ""
    failed: str = ""


@cache
def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Emulated:
    """Measured cases, and those to come."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._kept = Measurements(folder / "emulated.jsonl")

    def found(self, case: Case) -> Figures | None:
        """What was measured; None: not yet."""
        kept = self._kept.get(KIND, case.about)
        return None if kept is None else _figures(kept, case)

    def measure(self, cases: Sequence[Case]) -> None:
        """Run those that have no figures yet, in their order, one machine for each core."""
        missing = [case for case in dict.fromkeys(cases) if self._kept.get(KIND, case.about) is None]
        for cpu in dict.fromkeys(case.cpu for case in missing):
            for load in _loads([case for case in missing if case.cpu == cpu]):
                self._boot(cpu, load)

    def _boot(self, cpu: str, cases: Sequence[Case]) -> None:
        jobs = [(case, config) for case in cases for config in _processes(case)]

        def take(index: int, result: JobResult) -> None:
            case, config = jobs[index]
            if config["runs"] == RUNS:
                found = {"events": list(result.events), "code": result.code, "last_words": result.complaints}
                self._kept.once(KIND, case.about, lambda: found)
                _say(
                    f"{cpu}, {index + 1} of {len(jobs)}: {case.path.name}, {case.profile}: {million(self.found(case))}"
                )

        _say(f"{cpu}: {len(cases)} files to run")
        configs = [config for _, config in jobs]
        run_jobs(RUNNER, configs, cpu, memory=MEMORY, timeout=SECONDS * len(jobs), on_result=take, on_line=_say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _loads(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Cases in their order, as many as one disk takes."""
    load: list[Case] = []
    for case in cases:
        if load and sum(path.stat().st_size for path in {each.path for each in (*load, case)}) > MOST_BYTES:
            yield load
            load = []
        load.append(case)
    if load:
        yield load


def _processes(case: Case) -> Iterator[dict[str, Any]]:
    """The runner's configurations, a fresh process each: where there is a weight cache, the first one makes it."""
    config = {**case.config, "model": str(case.path)}
    if case.options.runtime == COMPILED:
        config["weight_cache"] = f"/tmp/{digest(case.path)[:16]}{case.repeat}"
        yield {**config, "runs": 0}
    yield config


def _figures(found: dict[str, Any], case: Case) -> Figures:
    stream = RunnerStream()
    for event in found["events"]:
        stream.take(dict(event))
    if not stream.ended or stream.error:
        code, words = found["code"], " ".join(found["last_words"].split())
        ending = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return Figures(failed=stream.error[1] if stream.error else f"{ending}{': ' if words else ''}{words}")
    instructions = tuple(round(ms * 1e6) for ms in stream.samples)  # the guest's clock moves by 1 ns for each
    versions = f"{stream.facts['runtime']} {stream.facts['runtime_version']}"
    try:
        return Figures(instructions, ram_of(stream, case.options), versions)
    except EdgeksError as error:
        return Figures(instructions, None, versions, str(error))


def million(figures: Figures | None) -> str:
    """Million instructions, or why there are none."""
    if figures is None:
        return "not measured"
    return f"{figures.instructions[-1] / 1e6:.1f}" if figures.instructions else f"failed: {figures.failed}"


def repeatability(emulated: Emulated, cases: Sequence[Case]) -> str:
    """How far runs of one file differ, in percent of the instructions."""
    counts = [found.instructions[-1] for case in cases if (found := emulated.found(case)) and found.instructions]
    if len(counts) < 2:
        return "Not repeated."
    spread = 100 * (max(counts) / min(counts) - 1)
    shown = " and ".join(f"{count:,}" for count in counts)
    return f"`{cases[0].path.name}` on {cases[0].cpu} in two processes: {shown} instructions, {spread:.4f} % apart."


def machine_line(emulated: Emulated, cases: Sequence[Case]) -> str:
    """The emulated machine and the runtimes."""
    found = [each for case in cases if (each := emulated.found(case))]
    names = sorted({each.versions for each in found if each.versions})
    return f"emulated by QEMU under icount: {', '.join(names)}."


def arguments(doc: str, networks: Sequence[str], cpus: Sequence[str]) -> argparse.ArgumentParser:
    """What the command lines of both tables have in common."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(networks), choices=list(networks))
    parser.add_argument("--cpus", nargs="*", default=list(cpus), choices=list(cpus))
    parser.add_argument("--peer-python", type=Path, help="the Python that has litert-torch and ai-edge-quantizer")
    parser.add_argument("--keep", type=Path, help="keep files and figures here, and take those that are there")
    parser.add_argument("--measured-only", action="store_true", help="print what was measured, and measure no more")
    return parser


def command_line(name: str) -> str:
    """The command without this machine's folders."""
    own = {"--peer-python": "PYTHON", "--keep": "DIR"}
    words = [word for word in sys.argv[1:] if word != "--measured-only"]
    shown = [own.get(before, Path(word).name) for before, word in pairwise(["", *words])]
    return " ".join([f"python benchmarks/{name}.py", *shown])
