"""Run a model in ONNX Runtime in this fresh process and write what happens as JSON lines on stdout.

Self-contained: standard library, numpy and onnxruntime, Python 3.9 or newer, so that it can be copied to a board.

Input: one JSON object, on stdin or in the file named by the only argument. `model` is required:
    model                path of the .onnx file
    threads              intra-op threads (1)
    graph_optimization   disabled, basic, extended or all (all)
    disabled_optimizers  names of ONNX Runtime's graph optimisers to leave out ([])
    session_config       session config entries, text → text ({})
    warmup, runs         inferences that do not count (5), and that do (50)
    min_seconds          go on after `runs` until this many seconds of counted runs are over (0)
    seed                 of the random inputs (0)
    inputs               .npz with one array per model input, or .npy for a model with one input (none: random)

Output: one JSON object per line, `event` says which:
    facts            runtime, runtime_version, python, platform, machine, cpu, cores, numpy_version
    load             ms
    inputs           name → {shape, dtype}
    first_inference  ms
    memory           stage (start, loaded, run), rss_bytes, anonymous_bytes (null where the system does not say)
    samples          ms: every latency since the last such event
    error            stage (config, model, input, run), message: one line
    end              ok: whether all of it was done. A stream without `end` was cut off
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_EVENTS = 0.5


class Failure(Exception):
    """Something in the configuration, the model or the inputs makes the run impossible."""

    def __init__(self, stage: str, message: object) -> None:
        super().__init__(" ".join(str(message).split()))
        self.stage = stage


def emit(event: str, **fields: Any) -> None:
    """Write one JSON line, at once."""
    sys.stdout.write(json.dumps(dict(event=event, **fields)) + "\n")
    sys.stdout.flush()


def read_config(arguments: list[str]) -> dict[str, Any]:
    """JSON object from the file named on the command line, or from stdin."""
    try:
        if len(arguments) > 1:
            with Path(arguments[1]).open(encoding="utf-8") as file:
                config = json.load(file)
        else:
            config = json.load(sys.stdin)
        if not isinstance(config, dict) or not isinstance(config.get("model"), str):
            raise ValueError("it needs to be an object with the key 'model'")
    except (OSError, ValueError) as error:
        raise Failure("config", f"the configuration cannot be read: {error}") from error
    return config


def cpu_name() -> str:
    """What the system calls its processor; the board's name where the kernel gives only that."""
    for path, keys in (("/proc/cpuinfo", ("model name", "Model", "Hardware")), ("/proc/device-tree/model", ())):
        try:
            with Path(path).open(encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if not keys:
            return text.strip("\x00\n ")
        lines = (line.partition(":") for line in text.splitlines())
        found = {key.strip(): value.strip() for key, _, value in lines}
        for key in keys:
            if found.get(key):
                return found[key]
    return platform.processor() or "unknown"


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def emit_memory(stage: str) -> None:
    """Resident and anonymous bytes of this process, as the kernel has them now."""
    found: dict[str, int] = {}
    try:
        with Path("/proc/self/smaps_rollup").open(encoding="ascii") as file:
            for line in file:
                parts = line.split()
                if len(parts) == 3 and parts[2] == "kB":
                    found[parts[0].rstrip(":")] = int(parts[1]) * 1024
    except OSError:
        pass
    emit("memory", stage=stage, rss_bytes=found.get("Rss"), anonymous_bytes=found.get("Anonymous"))


def open_session(ort: Any, config: dict[str, Any]) -> Any:
    """Model file → InferenceSession with the configured options."""
    levels = {
        "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    level = config.get("graph_optimization", "all")
    if level not in levels:
        raise Failure("config", f"graph_optimization is {level!r}; legal: {', '.join(levels)}")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = int(config.get("threads", 1))
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = levels[level]
    for key, value in config.get("session_config", {}).items():
        options.add_session_config_entry(key, str(value))
    try:
        return ort.InferenceSession(
            config["model"],
            sess_options=options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(config.get("disabled_optimizers", [])),
        )
    except Exception as error:
        raise Failure("model", error) from error


def random_inputs(np: Any, session: Any, seed: int) -> dict[str, Any]:
    """One array per model input: normal floats, integers over the range of 8-bit types, 0 or 1 for wider ones."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for value in session.get_inputs():
        shape = list(value.shape)
        if shape and not isinstance(shape[0], int):
            shape[0] = 1  # the batch
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise Failure("input", f"input {value.name!r} has the shape {shape}; give inputs of a known shape")
        kind = value.type.replace("tensor(", "").rstrip(")")
        if kind in ("float", "float16", "double"):
            dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
            arrays[value.name] = rng.standard_normal(shape).astype(dtype)
        elif kind in ("int8", "uint8"):
            limits = np.iinfo(kind)
            arrays[value.name] = rng.integers(limits.min, limits.max, shape, np.dtype(kind), endpoint=True)
        elif kind in ("int16", "uint16", "int32", "uint32", "int64", "uint64"):
            arrays[value.name] = rng.integers(0, 2, shape).astype(kind)
        elif kind == "bool":
            arrays[value.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            raise Failure("input", f"input {value.name!r} has the type {value.type}; give inputs")
    return arrays


def stored_inputs(np: Any, session: Any, path: str) -> dict[str, Any]:
    """Arrays from a .npz (by the names of the model's inputs) or a .npy file (one input)."""
    names = [value.name for value in session.get_inputs()]
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {names[0]: loaded} if isinstance(loaded, np.ndarray) else dict(loaded.items())
    except (OSError, ValueError, EOFError) as error:
        raise Failure("input", f"{path}: cannot be read: {error}") from error
    if len(names) == 1 and len(arrays) == 1:
        arrays = {names[0]: next(iter(arrays.values()))}
    if sorted(arrays) != sorted(names):
        raise Failure("input", f"{path}: holds {sorted(arrays)}; the model's inputs are {sorted(names)}")
    return arrays


def timed_run(session: Any, arrays: dict[str, Any]) -> float:
    """One inference → milliseconds."""
    start = time.perf_counter_ns()
    try:
        session.run(None, arrays)
    except Exception as error:
        raise Failure("run", error) from error
    return (time.perf_counter_ns() - start) / 1e6


def measure(session: Any, arrays: dict[str, Any], config: dict[str, Any]) -> None:
    """First inference, warm-up, then counted runs, whose latencies are sent in batches between runs."""
    emit("first_inference", ms=timed_run(session, arrays))
    for _ in range(int(config.get("warmup", 5))):
        timed_run(session, arrays)
    runs, min_seconds = int(config.get("runs", 50)), float(config.get("min_seconds", 0))
    start = sent_at = time.perf_counter()
    batch: list[float] = []
    done = 0
    while done < runs or time.perf_counter() - start < min_seconds:
        batch.append(timed_run(session, arrays))
        done += 1
        if time.perf_counter() - sent_at > SECONDS_BETWEEN_EVENTS:
            emit("samples", ms=batch)
            batch, sent_at = [], time.perf_counter()
    emit("samples", ms=batch)


def run(arguments: list[str]) -> None:
    """The whole job; raises Failure."""
    config = read_config(arguments)
    try:
        import numpy as np
        import onnxruntime as ort
    except ImportError as error:
        raise Failure("config", f"onnxruntime and numpy are needed here: {error}") from error
    emit(
        "facts",
        runtime="onnxruntime",
        runtime_version=ort.__version__,
        numpy_version=np.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        machine=platform.machine(),
        cpu=cpu_name(),
        cores=cores(),
    )
    emit_memory("start")
    start = time.perf_counter_ns()
    session = open_session(ort, config)
    emit("load", ms=(time.perf_counter_ns() - start) / 1e6)
    emit_memory("loaded")
    path = config.get("inputs")
    arrays = stored_inputs(np, session, path) if path else random_inputs(np, session, config.get("seed", 0))
    emit("inputs", **{"inputs": {k: {"shape": list(v.shape), "dtype": str(v.dtype)} for k, v in arrays.items()}})
    measure(session, arrays, config)
    emit_memory("run")


def main() -> int:
    """Exit code 0 when all of it was done."""
    try:
        run(sys.argv)
    except Failure as failure:
        emit("error", stage=failure.stage, message=str(failure))
        emit("end", ok=False)
        return 1
    emit("end", ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
