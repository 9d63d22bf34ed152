"""Benchmark on this machine: the runner in a fresh process, with the session options of the target."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from edgeks.bench.stats import Latency, summarise
from edgeks.errors import DataError, EdgeksError, ModelFileError
from edgeks.target import Target

RUNNER = Path(__file__).with_name("runner.py")
MAX_RUNS = 10_000_000
MAX_THREADS = 1024
LAST_WORDS = 300


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the process at one stage (start, loaded, run); None where the system does not say."""

    stage: str
    rss_bytes: int | None
    anonymous_bytes: int | None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One benchmark: every sample in ms in the order of the runs, and what it was measured on and with."""

    path: Path
    target: str
    session: dict[str, Any]
    warmup: int
    facts: dict[str, Any]
    inputs: dict[str, Any]
    load_ms: float
    first_inference_ms: float
    samples_ms: tuple[float, ...]
    memory: tuple[Memory, ...]

    @property
    def latency(self) -> Latency:
        """Percentiles, mean, minimum, maximum, count of the samples."""
        return summarise(self.samples_ms)


@dataclass(slots=True)
class _Stream:
    """What the events of the runner have said so far."""

    facts: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    load_ms: float = 0.0
    first_inference_ms: float = 0.0
    samples: list[float] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    error: tuple[str, str] | None = None
    ended: bool = False

    def take(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "facts":
            self.facts = event
        elif kind == "inputs":
            self.inputs = event["inputs"]
        elif kind == "load":
            self.load_ms = event["ms"]
        elif kind == "first_inference":
            self.first_inference_ms = event["ms"]
        elif kind == "samples":
            self.samples.extend(event["ms"])
        elif kind == "memory":
            self.memory.append(Memory(event["stage"], event["rss_bytes"], event["anonymous_bytes"]))
        elif kind == "error":
            self.error = event["stage"], event["message"]
        elif kind == "end":
            self.ended = True


def bench(
    path: Path,
    target: Target,
    runs: int = 50,
    warmup: int = 5,
    *,
    threads: int | None = None,
    inputs: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> BenchResult:
    """Time `runs` inferences (after one first and `warmup` more) with the target's session options.

    `threads` overrides the target's. `inputs` is an .npz or .npy file; without it inputs are random, a symbolic batch
    is 1. `on_progress` is called with the number of runs done, about twice a second.

    Raises:
        ModelFileError: the file is missing or ONNX Runtime cannot load or run it.
        DataError: the inputs cannot be used, or a count is out of range.
        EdgeksError: the benchmark process was killed or crashed.
    """
    threads = target.session.threads if threads is None else threads
    limits = (("runs", runs, 1, MAX_RUNS), ("warmup", warmup, 0, MAX_RUNS), ("threads", threads, 1, MAX_THREADS))
    for name, value, minimum, maximum in limits:
        if not minimum <= value <= maximum:
            raise DataError(f"{name} is {value}; legal: {minimum} to {maximum}")
    if not path.is_file():
        raise ModelFileError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; name an .onnx file")
    session = {
        "threads": threads,
        "graph_optimization": target.session.graph_optimization,
        "disabled_optimizers": list(target.session.disabled_optimizers),
        "session_config": dict(target.session.config),
    }
    config = {**session, "model": str(path.resolve()), "warmup": warmup, "runs": runs}
    if inputs is not None:
        config["inputs"] = str(inputs.resolve())
    stream = _run(path, config, on_progress)
    return BenchResult(
        path=path,
        target=target.name,
        session=session,
        warmup=warmup,
        facts=stream.facts,
        inputs=stream.inputs,
        load_ms=stream.load_ms,
        first_inference_ms=stream.first_inference_ms,
        samples_ms=tuple(stream.samples),
        memory=tuple(stream.memory),
    )


def _run(path: Path, config: dict[str, Any], on_progress: Callable[[int], None] | None) -> _Stream:
    stream = _Stream()
    with tempfile.TemporaryFile() as complaints:
        # -P: this folder must not shadow modules of the standard library.
        command = [sys.executable, "-P", str(RUNNER)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints)
        try:
            for event in _events(process, config):
                stream.take(event)
                if on_progress:
                    on_progress(len(stream.samples))
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        complaints.seek(0)
        last_words = complaints.read().decode(errors="replace").strip()[-LAST_WORDS:]
    if stream.error:
        raise _error(path, *stream.error)
    if not stream.ended:
        raise EdgeksError(
            f"{path}: the benchmark process {_end(code)} before it was done; {last_words or 'no message'}"
        )
    return stream


def _events(process: subprocess.Popen[bytes], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    stdin: IO[bytes] | None = process.stdin
    stdout: IO[bytes] | None = process.stdout
    if stdin is None or stdout is None:
        raise EdgeksError("the benchmark process has no pipes")
    try:
        stdin.write(json.dumps(config).encode())
        stdin.close()
    except BrokenPipeError:
        pass  # it died at once; the stream without an end says so
    for line in stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library printed to stdout, or the last line was cut off
        if isinstance(event, dict) and "event" in event:
            yield event


def _error(path: Path, stage: str, message: str) -> EdgeksError:
    if stage == "model":
        return ModelFileError(f"{path}: ONNX Runtime cannot load it: {message}")
    if stage == "run":
        return ModelFileError(f"{path}: ONNX Runtime cannot run it: {message}")
    if stage == "input":
        return DataError(f"{path}: {message}")
    return EdgeksError(f"{path}: {message}")


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
