"""Benchmark on this machine: the runner in a fresh process, with the session options of the target."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgeks.bench.machine import Machine
from edgeks.bench.stream import BenchResult, RunnerStream
from edgeks.bench.validity import taints
from edgeks.errors import ConfigError, DataError, EdgeksError, ModelFileError
from edgeks.runtime_profile import COMPILED
from edgeks.target import RUNTIMES, LiteRtSession, Session, Target

RUNNER = Path(__file__).with_name("runner.py")
MAX_RUNS = 10_000_000
MAX_THREADS = 1024
LAST_WORDS = 300


def bench(
    path: Path,
    target: Target,
    runs: int = 50,
    warmup: int = 5,
    *,
    min_seconds: float = 0.0,
    runtime: str | None = None,
    threads: int | None = None,
    inputs: Path | None = None,
    machine: Machine | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> BenchResult:
    """Time `runs` inferences (after one first and `warmup` more) with the target's session options on `machine`.

    `min_seconds`: go on until these are over.

    `runtime` and `threads` override the target's; "litert-compiled" is LiteRT's CompiledModel with a warm weight cache.
    `inputs` is an .npz or .npy file; without it inputs are random, a symbolic batch is 1.
    `on_progress` is called with the number of runs done, about twice a second.

    Raises:
        ModelFileError: the file is missing or the runtime cannot load or run it, or a weight cache would be wrong.
        ConfigError: the target or the runtime is for another format.
        DataError: the inputs cannot be used, or a count is out of range.
        EdgeksError: the benchmark process was killed or crashed, or lacks the runtime.
    """
    threads = target.session.threads if threads is None else threads
    for name, value, minimum in (("runs", runs, 1), ("warmup", warmup, 0)):
        if not minimum <= value <= MAX_RUNS:
            raise DataError(f"{name} is {value}; legal: {minimum} to {MAX_RUNS}")
    runtime, session = checked_session(path, target, runtime, threads)
    config = {**session, "model": str(path.resolve()), "runtime": runtime, "warmup": warmup, "runs": runs}
    config["min_seconds"] = min_seconds
    if inputs is not None:
        config["inputs"] = str(inputs.resolve())
    stream = (machine or LocalMachine()).run(path, config, on_progress)
    return result_of(stream, path, target, session)


def checked_session(path: Path, target: Target, runtime: str | None, threads: int) -> tuple[str, dict[str, Any]]:
    """The runtime (the target's, unless one is named) and the runner's words for the session, once all of it fits.

    Raises:
        ModelFileError: the file is missing or contradicts itself, or its weight cache would be wrong.
        ConfigError: the target or the runtime is for another format.
        DataError: the number of threads is out of range.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise DataError(f"threads is {threads}; legal: 1 to {MAX_THREADS}")
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise ModelFileError(f"{path}: {found}; name an .onnx or .tflite file")
    runtime = _runtime(path, target, runtime)
    if target.format == "tflite":
        _require_sound(path, cached=runtime == COMPILED)
    return runtime, session_config(_prepared_session(path) or target.session, threads)


def result_of(
    stream: RunnerStream, path: Path, target: Target, session: dict[str, Any], pin: tuple[int, ...] = ()
) -> BenchResult:
    """What the runner said, as the result of one process; what disturbed it are its taints."""
    cache = {"weight_cache": "warm"} if stream.facts.get("runtime") == COMPILED else {}
    return BenchResult(
        path=path,
        target=target.name,
        session={**session, **cache},
        warmup=stream.warmup.runs if stream.warmup else 0,
        facts=stream.facts,
        inputs=stream.inputs,
        load_ms=stream.load_ms,
        first_inference_ms=stream.first_inference_ms,
        samples_ms=tuple(stream.samples),
        memory=tuple(stream.memory),
        states=tuple(stream.states),
        taints=taints(stream),
        warmup_stable=stream.warmup.stable if stream.warmup else None,
        pin=pin,
    )


class LocalMachine:
    """This machine. `python` is the interpreter of another environment, which needs numpy and the runtime only."""

    name = "local"
    is_emulated = False

    def __init__(self, python: Path | None = None) -> None:
        self._python = python

    def facts(self) -> dict[str, Any]:
        """Nothing: the runner's facts are all."""
        return {}

    def run(self, path: Path, config: dict[str, Any], on_progress: Callable[[int], None] | None = None) -> RunnerStream:
        """One fresh process; a weight cache is warm. Raises as `bench`."""
        return run_warm(path, config, self._python, on_progress)

    def outputs(self, path: Path, config: dict[str, Any]) -> list[NDArray[Any]]:
        """Every output of the file for the samples in `config`, one process. Raises as `bench`."""
        with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
            outputs = Path(folder, "outputs.npz")
            cache = {"weight_cache": folder} if config["runtime"] == COMPILED else {}
            run_runner(path, {**config, **cache, "outputs": str(outputs)}, self._python)
            with np.load(outputs, allow_pickle=False) as stored:
                return [stored[f"output_{index}"] for index in range(len(stored.files))]


def run_warm(
    path: Path,
    config: dict[str, Any],
    python: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> RunnerStream:
    """As `run_runner`; of litert-compiled behind a process that builds the weight cache, in a temporary folder.

    Raises:
        ModelFileError, DataError, ConfigError, EdgeksError: as `bench`.
    """
    if config["runtime"] != COMPILED:
        return run_runner(path, config, python, on_progress)
    with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
        config = {**config, "weight_cache": folder}
        run_runner(path, {**config, "warmup": 0, "runs": 1, "min_seconds": 0}, python)
        return run_runner(path, config, python, on_progress)


def _runtime(path: Path, target: Target, runtime: str | None) -> str:
    """The runtime that was asked for, or the target's, once file, target and runtime are known to fit."""
    suffixes = {f".{name}": name for name in RUNTIMES}
    form = suffixes.get(path.suffix, target.format)
    if form != target.format:
        raise ConfigError(f"{path}: target {target.name!r} is for {target.format} files; name one for {form}: --target")
    legal = (*RUNTIMES[form], *([COMPILED] if form == "tflite" else []))
    if runtime is not None and runtime not in legal:
        raise ConfigError(f"--runtime {runtime}: legal for {form} files: {', '.join(legal)}")
    return runtime or target.runtime


def session_config(session: Session | LiteRtSession, threads: int) -> dict[str, Any]:
    """Session options → the runner's words for them."""
    if isinstance(session, LiteRtSession):
        return {"threads": threads, "kernels": session.kernels}
    return {
        "threads": threads,
        "graph_optimization": session.graph_optimization,
        "disabled_optimizers": list(session.disabled_optimizers),
        "session_config": dict(session.config),
        "arena": session.arena,
        "memory_pattern": session.memory_pattern,
    }


def _prepared_session(path: Path) -> Session | None:
    """The session of a file that is prepared for one: it runs as it was saved, and is to be opened in no other way."""
    if path.suffix != ".onnx":
        return None
    from edgeks.model_files.onnx_file import read_model_file
    from edgeks.prepared import read_prepared

    try:
        proto = read_model_file(path).proto
    except ModelFileError:
        return None  # ONNX Runtime reads files that edgeks does not
    prepared = read_prepared(path, proto)
    return prepared.session if prepared else None


def _require_sound(path: Path, *, cached: bool) -> None:
    """Raise ModelFileError where the file contradicts itself, or XNNPACK's weight cache would compute wrong numbers."""
    from edgeks.model_files.tflite_file import read_tflite
    from edgeks.model_files.tflite_weight_cache import weight_cache_fault

    model = read_tflite(path)
    fault = weight_cache_fault(model) if cached else None
    if fault:
        raise ModelFileError(f"{path}: LiteRT's weight cache would compute wrong numbers: {fault}; use runtime litert")


def run_runner(
    path: Path,
    config: dict[str, Any],
    python: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> RunnerStream:
    """Run the runner with `config` in a fresh process of `python`, and gather what it says.

    Raises:
        ModelFileError, DataError, ConfigError, EdgeksError: as `bench`.
    """
    stream = RunnerStream()
    with tempfile.TemporaryFile() as complaints:
        # Its folder must not shadow modules of the standard library (as -P, which Python 3.10 does not know).
        safe = {**os.environ, "PYTHONSAFEPATH": "1"}
        command = [str(python or sys.executable), str(RUNNER)]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=safe
            )
        except OSError as error:
            raise ConfigError(f"--python {python}: cannot be started ({error.strerror})") from error
        try:
            for line in _lines(process, config):
                stream.take_line(line)
                if on_progress:
                    on_progress(len(stream.samples))
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        complaints.seek(0)
        last_words = complaints.read().decode(errors="replace").strip()[-LAST_WORDS:]
    stream.require_end(path, config, _end(code), last_words)
    return stream


def _lines(process: subprocess.Popen[bytes], config: dict[str, Any]) -> Iterator[bytes]:
    stdin: IO[bytes] | None = process.stdin
    stdout: IO[bytes] | None = process.stdout
    if stdin is None or stdout is None:
        raise EdgeksError("the benchmark process has no pipes")
    try:
        stdin.write(json.dumps(config).encode())
        stdin.close()
    except BrokenPipeError:
        pass  # it died at once; the stream without an end says so
    yield from stdout


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
