"""Jobs of the runner on the emulated board: on a disk, one after the other, without a network; each counts the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeks.emulator import guest, qemu, system, wheels
from edgeks.emulator.cpus import CPUS, require_cpu
from edgeks.emulator.image import OnLine, build
from edgeks.errors import BoardError

# The kernel and processes lie at the same addresses each time.
SAME_EACH_TIME = "edgeks.jobs nokaslr norandmaps"
# Of the runner's configuration: paths of files on this machine.
FILES = ("model", "inputs", "samples")
# One nanosecond of the board's time per instruction; a core that waits skips to what it waits for.
COUNTED = ("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01,clock=vm")
UNCOUNTED = ("-accel", "tcg,thread=single")


@dataclass(frozen=True, slots=True)
class JobResult:
    """What one job said on stdout, JSON objects, and on stderr. `code` is its exit code, negative for a signal."""

    events: tuple[dict[str, Any], ...]
    code: int
    complaints: str


def run_jobs(
    script: Path,
    configs: Sequence[Mapping[str, Any]],
    cpu: str = "cortex-a72",
    *,
    memory: str = "1G",
    icount: bool = True,
    timeout: float = 3600.0,
    beside: Mapping[Path, Sequence[Path]] | None = None,
    on_result: Callable[[int, JobResult], None] | None = None,
    on_line: OnLine | None = None,
) -> list[JobResult]:
    """Start the board with one core, run `script` (edgeks/bench/runner.py) once per configuration, each in a fresh
    process → their results in that order.

    A configuration is the runner's own, with paths of this machine for `model`, `inputs`, `samples`, and a `runtime`.
    Under `icount` the board's clock goes 1 ns per instruction: a millisecond that the runner reports is a million of
    them. Without it times mean nothing. `beside`: model → further files, of its folder or below. `on_result` gets a
    job's number and result as soon as it has one, `on_line` what is being done.

    Raises:
        ConfigError: no such core.
        BoardError: the board cannot be built or started, or `timeout` seconds of this machine's time were not enough.
    """
    image = build(on_line)
    options = ("-smp", "1", *(COUNTED if icount else UNCOUNTED))
    with tempfile.TemporaryDirectory(prefix="edgeks_jobs_") as work:
        folder, data = Path(work, "data"), Path(work, "data.ext4")
        _write_data(folder, script, configs, beside or {})
        system.disk(folder, data, 64)
        shutil.rmtree(folder)
        disks = (image.root, image.runtimes, data)
        words = qemu.command(
            image.kernel, image.initrd, disks, require_cpu(cpu), memory, options, parameters=SAME_EACH_TIME
        )

        def take(index: int, result: JobResult) -> None:
            if on_result:
                on_result(index, result)
            if on_line:
                on_line(f"emulated board: {index + 1} of {len(configs)} processes done")

        if on_line:
            on_line(f"emulated board: starting, with a {CPUS[cpu]}")
        return _results(words, len(configs), timeout, take)


def _write_data(
    folder: Path, script: Path, configs: Sequence[Mapping[str, Any]], beside: Mapping[Path, Sequence[Path]]
) -> None:
    """The disk of jobs: the scripts, each file once, and the configurations with the paths that files have there."""
    folder.mkdir()
    shutil.copyfile(script, folder / "runner.py")
    shutil.copyfile(guest.__file__, folder / "guest.py")
    known: dict[Path, str] = {}
    jobs = []
    for config in configs:
        there = dict(config)
        for name in FILES:
            if not isinstance(config.get(name), (str, Path)):
                continue
            path = Path(config[name]).resolve()
            if path not in known:
                place = folder / str(len(known))  # a folder each: the runner counts pages of files below the model's
                place.mkdir()
                for file in (path, *beside.get(path, ())):
                    _copy(file, place / file.resolve().relative_to(path.parent))
                known[path] = f"/data/{place.name}/{path.name}"
            there[name] = known[path]
        packages = f"/opt/{wheels.folder_of(str(config['runtime']))}"
        jobs.append({"config": there, "script": "/data/runner.py", "path": packages})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")


def _copy(source: Path, aim: Path) -> None:
    aim.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, aim)
    except OSError:
        shutil.copyfile(source, aim)


def _results(
    words: Sequence[str], count: int, timeout: float, on_result: Callable[[int, JobResult], None]
) -> list[JobResult]:
    results: list[JobResult] = []
    said: list[str] = []  # what is not the jobs': the kernel's last words, QEMU's complaints
    with qemu.running(words) as process:
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            for message in _messages(process, said):
                if "job" in message:
                    results.append(_result(message))
                    on_result(len(results) - 1, results[-1])
                if "done" in message:
                    return results
        finally:
            late = timer.finished.is_set()
            timer.cancel()
    why = f"it was stopped after {timeout:.0f} s" if late else f"it went down; {' '.join(said[-3:]) or 'no message'}"
    raise BoardError(f"the emulated board did {len(results)} of {count} jobs: {why}")


def _messages(process: subprocess.Popen[bytes], said: list[str]) -> Iterator[dict[str, Any]]:
    for raw in process.stdout or ():
        line = raw.decode(errors="replace").strip()
        _, mark, text = line.partition(guest.MARK)
        try:
            message = json.loads(text) if mark else None
        except ValueError:
            message = None
        if isinstance(message, dict):
            yield message
        elif line:
            said.append(line)


def _result(message: dict[str, Any]) -> JobResult:
    events = []
    for line in message["lines"]:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library printed to stdout, or the last line was cut off
        if isinstance(event, dict) and "event" in event:
            events.append(event)
    return JobResult(tuple(events), int(message["code"]), str(message["complaints"]).strip())
