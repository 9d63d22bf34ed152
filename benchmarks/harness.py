"""`edgeks bench` beside the runtimes' own benchmarks, here and over SSH: the same file, in turns.

python benchmarks/harness.py model.onnx model.tflite [--loopback] > docs/results/harness.md

In each block everybody runs once, in a fresh process, in random order: `edgeks bench` on this machine, the peer, and
with `--loopback` `edgeks bench` on this same machine over SSH (an sshd on 127.0.0.1, `make .sshd`). The peers:
LiteRT's own benchmark tool (`ai_edge_litert.tools.benchmark_litert_model`, for the runtime litert-compiled); for ONNX
Runtime, whose perf test is in no package, and for LiteRT's interpreter a plain loop around the runtime's Python
interface. It takes a machine without other work; `disturbed` tells.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from edgeks.bench.local import LocalMachine, session_config
from edgeks.bench.machine import Machine
from edgeks.bench.measure import Series
from edgeks.bench.measurement import Effort, Job
from edgeks.bench.place import BoardPlace
from edgeks.bench.runner import cpu_name
from edgeks.bench.stats import percentile, ratio_of_p50
from edgeks.runtime_profile import COMPILED
from edgeks.target import load_target

ROOT = Path(__file__).resolve().parents[1]
HERE, OVER_SSH = "edgeks bench", "edgeks bench over SSH"
HEADINGS = (
    "file", "runtime", "threads", "who", "p50 ms", "against", "its p50 ms", "ratio of p50 (95 % interval)",
    "ratio of the fastest", "disturbed",
)  # fmt: skip
NOTES = """
p50: median of the processes' p50. Ratio: geometric mean over the blocks, with the interval of edgeks.bench.stats.
Fastest: the shortest inference of all processes, which other work on the machine disturbs least. Disturbed: processes
of `edgeks bench` that it calls tainted. edgeks' samples hold what an inference takes of a caller: inputs handed over,
outputs taken; LiteRT's tool leaves both out.
"""

ONNX_RUNTIME_LOOP = """
import json, sys, time
import numpy as np, onnxruntime as ort
path, threads, warmup, runs, disabled = json.load(sys.stdin)
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
given = session.get_inputs()[0]
shape = [size if isinstance(size, int) else 1 for size in given.shape]
feed = {given.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
times = []
for _ in range(warmup + runs):
    start = time.perf_counter()
    session.run(None, feed)
    times.append((time.perf_counter() - start) * 1e3)
print(json.dumps(times[warmup:]))
"""
LITERT_LOOP = """
import json, sys, time
import numpy as np
from ai_edge_litert.interpreter import Interpreter
path, threads, warmup, runs, _ = json.load(sys.stdin)
interpreter = Interpreter(path, num_threads=threads)
interpreter.allocate_tensors()
given, taken = interpreter.get_input_details()[0], interpreter.get_output_details()
array = np.random.default_rng(0).standard_normal(given["shape"]).astype(given["dtype"])
times = []
for _ in range(warmup + runs):
    start = time.perf_counter()
    interpreter.set_tensor(given["index"], array)
    interpreter.invoke()
    outputs = [interpreter.get_tensor(detail["index"]) for detail in taken]
    times.append((time.perf_counter() - start) * 1e3)
print(json.dumps(times[warmup:]))
"""


class Summary(NamedTuple):
    """Of one process, in ms."""

    p50: float
    fastest: float


@dataclass
class Contender:
    """One way to time the file: `run` gives the samples of a fresh process in ms, or p50 and the fastest."""

    name: str
    run: Callable[[], Sequence[float] | Summary]
    p50s: list[float] = field(default_factory=list)
    fastest: float = math.inf

    def take_turn(self) -> None:
        """One process more."""
        found = self.run()
        if not isinstance(found, Summary):
            found = Summary(percentile(found, 50) or found[0], min(found))
        self.p50s.append(found.p50)
        self.fastest = min(self.fastest, found.fastest)


def loop(script: str, job: Job, warmup: int, runs: int) -> Sequence[float]:
    """Samples of a plain loop in a process of its own."""
    disabled = session_config(job.target.session, job.threads).get("disabled_optimizers", [])
    given = json.dumps([str(job.path), job.threads, warmup, runs, disabled])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def litert_tool(job: Job, warmup: int, runs: int) -> Summary:
    """What LiteRT's own benchmark tool says."""
    with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
        found = Path(folder, "found.json")
        command = [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", "--model", str(job.path)]
        counts = [f"--num_runs={runs}", f"--warmup_runs={warmup}", f"--num_threads={job.threads}"]
        subprocess.run([*command, *counts, f"--result_json={found}"], capture_output=True, check=True)
        latency = json.loads(found.read_text())["latency"]
    return Summary(latency["median_ms"], latency["min_ms"])


def peer(job: Job, warmup: int, runs: int) -> Contender:
    """What the runtime itself has to be timed with, or a plain loop."""
    if job.runtime == COMPILED:
        return Contender("benchmark_litert_model", lambda: litert_tool(job, warmup, runs))
    script = ONNX_RUNTIME_LOOP if job.runtime == "onnxruntime" else LITERT_LOOP
    return Contender("a plain loop", lambda: loop(script, job, warmup, runs))


def jobs(paths: Sequence[Path], threads: int) -> Iterator[Job]:
    """Every runtime of this environment that reads the file."""
    for path in paths:
        target = load_target("tflite" if path.suffix == ".tflite" else "onnx")
        for runtime in ("litert", COMPILED) if path.suffix == ".tflite" else ("onnxruntime",):
            yield Job(path, target, runtime, threads)


def compare(job: Job, machines: dict[str, Machine], effort: Effort, rng: random.Random) -> list[tuple[str, ...]]:
    """Table rows: `edgeks bench` on each machine against the peer, and over SSH against here."""
    series = {name: Series(job, machine, effort) for name, machine in machines.items()}

    def timed(name: str) -> Callable[[], Sequence[float]]:
        return lambda: series[name].run(1, 1).samples_ms

    contenders = {name: Contender(name, timed(name)) for name in series}
    other = peer(job, effort.warmup or 0, effort.runs)
    contenders[other.name] = other
    for _ in range(effort.processes):
        for each in rng.sample(list(contenders.values()), len(contenders)):
            each.take_turn()
    pairs = [(HERE, other.name), *([(OVER_SSH, HERE)] if OVER_SSH in machines else [])]
    rows = []
    for who, against in pairs:
        a, b = contenders[against], contenders[who]
        ratio, interval = ratio_of_p50([([of_a], [of_b]) for of_a, of_b in zip(a.p50s, b.p50s, strict=True)])
        disturbed = sum(bool(process.taints) for process in series[who].repetitions)
        rows.append(
            (
                *(
                    job.path.name,
                    job.runtime,
                    str(job.threads),
                    who,
                    f"{statistics.median(b.p50s):.2f}",
                    against,
                    f"{statistics.median(a.p50s):.2f}",
                ),
                f"{ratio:.3f} ({interval.low:.3f} to {interval.high:.3f})",
                f"{b.fastest / a.fastest:.3f}",
                f"{disturbed} of {effort.processes}",
            )
        )
    return rows


def over_ssh(stack: ExitStack) -> BoardPlace:
    """This machine as a board: the device tests' sshd on 127.0.0.1, with this interpreter."""
    sys.path.append(str(ROOT / "device_tests"))
    from loopback import loopback, why_none

    if reason := why_none():
        raise SystemExit(reason)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness")))
    host = stack.enter_context(loopback(folder / "sshd")).host
    return stack.enter_context(BoardPlace(replace(host, folder=str(folder / "board"), python=sys.executable)))


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--loopback", action="store_true", help="also over SSH, to this machine (`make .sshd`)")
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    effort = Effort(processes=options.blocks, runs=options.runs, seconds=0.0, warmup=10)
    rng = random.Random(0)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as the runner does
    print("# The harness beside the runtimes' own benchmarks\n")
    words = [path.name for path in options.files] + ["--loopback"] * options.loopback
    blocks = f"{options.blocks} blocks, {options.runs} inferences in each process after {effort.warmup} more"
    print(f"`python benchmarks/harness.py {' '.join(words)}`; {cpu_name()}; {blocks}.\n")
    print(f"| {' | '.join(HEADINGS)} |")
    print("|" + "---|" * len(HEADINGS), flush=True)
    with ExitStack() as stack:
        board = over_ssh(stack) if options.loopback else None
        for job in jobs(options.files, options.threads):
            machines: dict[str, Machine] = {HERE: LocalMachine()}
            if board:
                machines[OVER_SSH] = board.machine(job.runtime)
            for row in compare(job, machines, effort, rng):
                print(f"| {' | '.join(row)} |", flush=True)
    print(NOTES, end="")


if __name__ == "__main__":
    main()
