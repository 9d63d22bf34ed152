"""What ONNX Runtime's session options cost in RAM and time, per file:

python benchmarks/session_options.py FILE.onnx … > docs/results/session_options.md

Every figure is of fresh processes. The variants of a file run in turns, several rounds of them; a time is that of the
best round, relative to the first variant. With one thread it is CPU time, which other work on the machine disturbs
less.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

UNFOLDED = ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]
SECONDS, WARMUP, ROUNDS = 0.3, 3, 3
THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
SPIN = "session.intra_op.allow_spinning"
STOP = "session.force_spinning_stop"


@dataclass(frozen=True)
class Variant:
    """Options by their names in Python; `arena_config` is of a shared allocator, `run` of RunOptions."""

    name: str
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    arena_config: dict[str, int] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


NO_ARENA = {"enable_cpu_mem_arena": False, "enable_mem_pattern": False}
MEMORY = (
    Variant("as it comes"),
    Variant("no memory pattern", options={"enable_mem_pattern": False}),
    Variant("no arena", options={"enable_cpu_mem_arena": False}),
    Variant("no arena, no memory pattern", options=NO_ARENA),
    Variant(f"… and `{THRESHOLD}=131072`", options=NO_ARENA, environment={THRESHOLD: "131072"}),
    Variant("arena grows as requested (kSameAsRequested)", arena_config={"arena_extend_strategy": 1}),
    Variant("arena shrinks after each run", run={"memory.enable_memory_arena_shrinkage": "cpu:0"}),
)
THREADS = (
    Variant("1 thread"),
    Variant("2 threads", 2),
    Variant("2 threads, `allow_spinning` 0", 2, config={SPIN: "0"}),
    Variant("2 threads, `force_spinning_stop` 1", 2, config={STOP: "1"}),
    Variant("2 threads, no memory pattern", 2, options={"enable_mem_pattern": False}),
)


def child(path: str, variant: Variant) -> dict[str, float]:
    """Open and run in this process: bytes above it, ms, CPU seconds."""
    inputs: dict[str, Any] = {}
    rng = np.random.default_rng(0)  # ahead of the first reading: it takes some MB of its own
    start = reading()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads, settings.inter_op_num_threads = variant.threads, 1
    for key, value in variant.options.items():
        setattr(settings, key, value)
    for key, value in variant.config.items():
        settings.add_session_config_entry(key, value)
    if variant.arena_config:
        kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        ort.create_and_register_allocator(kind, ort.OrtArenaCfg(variant.arena_config))
        settings.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"], disabled_optimizers=UNFOLDED)
    how = ort.RunOptions()
    for key, value in variant.run.items():
        how.add_run_config_entry(key, value)
    loaded = reading()
    for value in session.get_inputs():
        sizes = [size if isinstance(size, int) else 1 for size in value.shape]
        inputs[value.name] = rng.standard_normal(sizes).astype(np.float32)
    for _ in range(WARMUP):
        session.run(None, inputs, how)
    ran = reading()
    times: list[float] = []
    begin, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < SECONDS or len(times) < 5:
        now = time.perf_counter()
        session.run(None, inputs, how)
        times.append(time.perf_counter() - now)
    used = time.process_time() - cpu
    busy = used / (time.perf_counter() - begin)
    cpu = time.process_time()
    time.sleep(1 if variant.threads > 1 else 0)
    return {
        "loaded": loaded["Anonymous"] - start["Anonymous"],
        "after": ran["Anonymous"] - start["Anonymous"],
        "rss": ran["Rss"] - start["Rss"],
        "peak": max(ran["VmHWM"], loaded["Rss"]) - start["Rss"],
        "ms": float(np.percentile(times, 10)) * 1e3,
        "cpu_ms": used / len(times) * 1e3,
        "busy": busy,
        "idle": time.process_time() - cpu,
    }


def reading() -> dict[str, int]:
    """Resident bytes, and the most since the reading before; free heap is given back first."""
    peak = values("status")["VmHWM"]
    ctypes.CDLL(None).malloc_trim(0)
    found = {**values("smaps_rollup"), "VmHWM": peak}
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return found


def values(name: str) -> dict[str, int]:
    """/proc/self/NAME → bytes by key."""
    text = Path("/proc/self", name).read_text(encoding="ascii", errors="replace")
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}


def measured(path: Path, variants: tuple[Variant, ...]) -> dict[str, dict[str, float]]:
    """The rounds of all variants of a file: medians, but of latency the best, and of the peak both ends."""
    rounds: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    for _ in range(ROUNDS):
        for variant in variants:
            command = [sys.executable, __file__, "--child", str(path), variant.name]
            environment = {**os.environ, **variant.environment}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
            rounds[variant.name].append(json.loads(done.stdout))
    found = {}
    for name, rows in rounds.items():
        found[name] = {key: float(np.median([row[key] for row in rows])) for key in rows[0]}
        found[name]["ms"] = min(row["ms"] for row in rows)
        found[name]["cpu_ms"] = min(row["cpu_ms"] for row in rows)
        found[name]["lowest"], found[name]["highest"] = (f([row["peak"] for row in rows]) for f in (min, max))
    return found


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--child"]:
        variant = next(each for each in (*MEMORY, *THREADS) if each.name == sys.argv[3])
        print(json.dumps(child(sys.argv[2], variant)))
        return
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.onnx")
    arguments = parser.parse_args()
    print("# Session options of ONNX Runtime: RAM and time\n")
    print(f"`python benchmarks/session_options.py {' '.join(path.name for path in arguments.files)}`\n")
    print(f"ONNX Runtime {ort.__version__}, {platform.machine()}, {os.cpu_count()} cores. MB above the process with")
    print("the runtime imported: anonymous memory once open and after three inferences, the most resident at one time")
    print(
        f"(of {ROUNDS} processes the lowest and the highest). CPU time of an inference, the best process, relative to"
    )
    print("the first row of the file; the machine had other work: 0.05 means nothing. All with ConvBNFusion,")
    print("ConvMulFusion and ConvAddFusion disabled.\n\n## Memory (one thread)\n")
    print("| file | options | open | after | peak | CPU time |\n|---|---|---|---|---|---|", flush=True)
    for path in arguments.files:
        rows = measured(path, MEMORY)
        base = rows[MEMORY[0].name]["cpu_ms"]
        for name, row in rows.items():
            peak = f"{row['lowest'] / 1e6:.1f}–{row['highest'] / 1e6:.1f}"
            sizes = f"{row['loaded'] / 1e6:.1f} | {row['after'] / 1e6:.1f} | {peak}"
            print(f"| {path.stem} | {name} | {sizes} | {row['cpu_ms'] / base:.2f} |", flush=True)
    print("\n## Threads and spinning\n")
    print("CPU time of an inference, of all threads, relative to the first row: what threads that wait burn. Wall: the")
    print("10th percentile of the best process, which needs both cores free. Idle: CPU seconds in the second after.\n")
    print("| file | options | after | CPU time | wall | idle |\n|---|---|---|---|---|---|", flush=True)
    for path in arguments.files:
        rows = measured(path, THREADS)
        first = rows[THREADS[0].name]
        for name, row in rows.items():
            times = f"{row['cpu_ms'] / first['cpu_ms']:.2f} | {row['ms'] / first['ms']:.2f}"
            print(f"| {path.stem} | {name} | {row['after'] / 1e6:.1f} | {times} | {row['idle']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
