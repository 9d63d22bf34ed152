"""Every form of a network and every way to run it, in one run: RAM, flash, time, error.

python benchmarks/forms.py --peer-python .venv-litert-torch/bin/python --json forms.json > docs/results/forms.md

Networks, files and profiles are those of `form_files.py`. Each RAM figure and each round of a time is of a fresh
process with one thread; rounds go through all rows in random order. `ram_plot.py` draws the JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
import onnxruntime
import torch
from cpu_turns import cpu_times, opened
from form_files import PLAIN, SUBJECTS, Files, Network, Row, rows
from numpy.typing import NDArray

from edgeks.audit.footprint import ProfileRam, footprint
from edgeks.bench.local import bench, run_runner, session_config
from edgeks.bench.memory import measure_ram
from edgeks.bench.runner import cpu_name
from edgeks.errors import EdgeksError
from edgeks.formats.onnx import REFERENCE, open_session, run
from edgeks.formats.tflite import runtime as litert
from edgeks.graph.from_torch import torch_outputs
from edgeks.parity import compare
from edgeks.runtime_profile import COMPILED, MeasuredRam
from edgeks.target import Layers, LiteRtSession, load_target

RUNS, WARMUP, SECONDS, TURNS = 3, 2, 0.3, 25
FORMS: tuple[Layers, ...] = ("unrolled", "rolled")
HEADINGS = (
    "form", "profile", "file bytes", "copies in RAM", "anonymous, loaded", "**anonymous, after run**", "RSS, after run",
    "… above the libraries", "p50 ms", "ratio", "CPU ms", "ratio", "SQNR dB",
)  # fmt: skip
NOTES = """
Rows in blocks. *p50*: median of the rounds, each in a fresh process; *CPU*: of one inference, all rows in turns in one
process, which a machine with other work disturbs less; *ratio*: to the first row of the block in the same round or
turn, median (quartiles). RAM in MB above the process that has imported the runtime. *Anonymous* is what no file
backs: heap and packed kernels; *RSS* adds what is mapped, of the model and of the runtime's libraries; *above the
libraries* is RSS less that of the same form of two layers of 8 channels: their pages are in every figure, and hardly
anything else is in that one. *Copies*: of the largest kernel, packed or on the heap, as `edgeks footprint` predicts
them, of its layers. *SQNR*: against torch in float, as the profile computes. Weights are random, so compare rows, not
networks. Files of `litert-cached` have the packed kernels beside them, which takes flash, too.
"""


@dataclass
class Measured:
    """A row with its figures, or why there are none (`failed`).

    `p50_ms` has one median per round, `cpu_ms` one time per turn.
    """

    row: Row
    found: ProfileRam
    file_bytes: int
    loaded_anonymous: int = 0
    anonymous: int = 0
    rss: int = 0
    peak: int = 0
    rss_of_plain: int = 0
    anonymous_of_plain: int = 0
    sqnr_db: float = 0.0
    p50_ms: tuple[float, ...] = ()
    cpu_ms: tuple[float, ...] = ()
    failed: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it within its network."""
        return self.row.block, self.row.name, self.row.profile

    @property
    def copies(self) -> str:
        """`12 of 12`, of the largest kernel (in the public chains' files of the largest ones)."""
        kernels = self.found.predicted.kernels if self.found.predicted else ()
        shared = [kernel for kernel in kernels if kernel.layers > 1] or list(kernels)
        if not shared:
            return "–"
        largest = max(kernel.copy_bytes for kernel in shared)
        alike = [kernel for kernel in shared if kernel.copy_bytes == largest]
        if all(kernel.layers == 1 for kernel in alike):
            return f"{sum(kernel.copies for kernel in alike)} of {len(alike)}"
        return max((f"{kernel.copies} of {kernel.layers}" for kernel in alike), key=len)


def profile_ram(path: Path, profile: str) -> tuple[ProfileRam, int]:
    """What is predicted of a file under a profile, and the file's bytes."""
    found = footprint(path)
    return next(each for each in found.ram if each.profile.name == profile), found.flash.file_bytes


@cache
def read_ram(path: Path, profile: str) -> MeasuredRam:
    """In a fresh process; the plain network's serve every table."""
    return measure_ram(path, profile_ram(path, profile)[0].profile)


def measure(row: Row, network: Network, reference: NDArray[np.float32]) -> Measured:
    """RAM and error."""
    found, file_bytes = profile_ram(row.path, row.profile)
    measured = Measured(row, found, file_bytes)
    try:
        ram, plain = read_ram(row.path, row.profile), read_ram(row.plain, row.profile)
        measured.sqnr_db = compare(reference, outputs(row, found, network.probes, reference)).sqnr_db
    except EdgeksError as error:
        measured.failed = " ".join(str(error).split())
        return measured
    measured.loaded_anonymous, measured.anonymous = ram.loaded_anonymous_bytes, ram.run_anonymous_bytes
    measured.rss, measured.peak = ram.run_bytes, ram.run_peak_bytes
    measured.rss_of_plain, measured.anonymous_of_plain = plain.run_bytes, plain.run_anonymous_bytes
    return measured


def outputs(
    row: Row, found: ProfileRam, probes: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The file's outputs under the profile, shaped as the reference; TFLite takes and mostly gives N×H×W×C."""
    session, channels_last = found.profile.session, np.ascontiguousarray(probes.transpose(0, 2, 3, 1))
    if found.profile.runtime == COMPILED:
        output = outputs_of_compiled(row.path, session_config(session, 1), channels_last)
    elif isinstance(session, LiteRtSession):
        output = litert.run(litert.open_interpreter(row.path, session), channels_last)[0]
    else:
        output = run(open_session(row.path, session), probes)[0]
    if output.shape == reference.shape or reference.ndim != 4:
        return output.reshape(reference.shape)
    return output.transpose(0, 3, 1, 2)


def outputs_of_compiled(path: Path, session: dict[str, Any], samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What CompiledModel gives, in the file's layout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "samples.npy", samples)
        files = {"model": str(path.resolve()), "samples": f"{folder}/samples.npy", "outputs": f"{folder}/outputs.npz"}
        run_runner(path, {**session, **files, "runtime": COMPILED, "weight_cache": f"{folder}/cache"})
        with np.load(folder / "outputs.npz") as stored:
            found: NDArray[np.float32] = stored["output_0"]
    return found


def time_round(measured: Measured) -> float:
    """Median ms in a fresh process."""
    profile = measured.found.profile
    target = load_target(measured.row.path.suffix.removeprefix("."))
    target = replace(target, session=profile.session)
    result = bench(measured.row.path, target, RUNS, WARMUP, min_seconds=SECONDS, runtime=profile.runtime, threads=1)
    return statistics.median(result.samples_ms)


def time_all(measured: list[Measured], rounds: int) -> None:
    """Rounds through all rows in random order, so that all see the same machine."""
    order = random.Random(0)
    times: dict[tuple[str, str, str], list[float]] = {each.key: [] for each in measured}
    for number in range(rounds):
        print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for each in order.sample(measured, len(measured)):
            times[each.key].append(time_round(each))
    inferences = {each.key: opened(each.row.path, each.found.profile) for each in measured}
    cpu = cpu_times({key: inference for key, inference in inferences.items() if inference}, TURNS)
    for each in measured:
        each.p50_ms, each.cpu_ms = tuple(times[each.key]), cpu.get(each.key, ())


def ratio(these: Sequence[float], those: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles of the ratios in the same round or turn: the median first."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(these, those, strict=True)], n=4)
    return middle, low, high


def shown_ratio(these: Sequence[float], those: Sequence[float]) -> str:
    """`0.98 (0.95 to 1.02)`."""
    middle, low, high = ratio(these, those)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def shown_times(these: Sequence[float], those: Sequence[float]) -> tuple[str, str]:
    """Median ms, and the ratio."""
    if not these or not those:
        return "–", "–"
    ms = statistics.median(these)
    return f"{ms:.1f}" if ms >= 1 else f"{ms:.3f}", "1" if these is those else shown_ratio(these, those)


def line(measured: Measured, first: Measured) -> str:
    """One line of the table; megabytes."""
    if measured.failed:
        return f"| {measured.row.name} | {measured.row.profile} | failed: {measured.failed} |" + " |" * (
            len(HEADINGS) - 3
        )
    cells = [
        measured.row.name,
        measured.row.profile,
        f"{measured.file_bytes:,}",
        measured.copies,
        f"{measured.loaded_anonymous / 1e6:.1f}",
        f"**{measured.anonymous / 1e6:.1f}**",
        f"{measured.rss / 1e6:.1f}",
        f"{(measured.rss - measured.rss_of_plain) / 1e6:.1f}",
        *shown_times(measured.p50_ms, first.p50_ms),
        *shown_times(measured.cpu_ms, first.cpu_ms),
        f"{measured.sqnr_db:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(network: Network, files: Files, plain: Files, rounds: int) -> list[Measured]:
    """Measure a network and print its table."""
    reference = torch_outputs(network.checkpoint.model, network.probes)[0]
    measured, left_out = [], []
    for row in rows(files, plain):
        if isinstance(row, Row):
            print(f"{network.name}: {row.block}, {row.name}, {row.profile}", file=sys.stderr, flush=True)
            measured.append(measure(row, network, reference))
        else:
            (block, name, profile, _), reason = row
            left_out.append(f"{block}, {name}, {profile}: {reason}")
    working = [each for each in measured if not each.failed]
    time_all(working, rounds)
    print(f"\n## {network.name}\n\n| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for block in dict.fromkeys(each.row.block for each in measured):
        print(f"| **{block}** |{' |' * (len(HEADINGS) - 1)}")
        of_block = [each for each in measured if each.row.block == block]
        first = next(each for each in of_block if not each.failed)
        print("\n".join(line(each, first) for each in of_block), flush=True)
    print("".join(f"\n{each}\n" for each in left_out))
    same = bit_equal(network, files)
    print(
        f"int8 ONNX as QLinearConv nodes, reference session, {len(network.probes)} inputs: rolled and unrolled {same}."
    )
    return working


def bit_equal(network: Network, files: Files) -> str:
    """Integer nodes give the same bits rolled and unrolled.

    Raises:
        SystemExit: they do not.
    """
    paths = (files.exported("onnx", layers, "static", "qoperator") for layers in FORMS)
    unrolled, rolled = (run(open_session(path, REFERENCE), network.probes)[0] for path in paths)
    if not np.array_equal(unrolled, rolled):
        raise SystemExit(f"{network.name}: rolled and unrolled differ by up to {np.abs(unrolled - rolled).max()}")
    return f"agree bit for bit ({rolled.size:,} outputs of {len(network.probes)} inputs)"


def promises(measured: list[Measured]) -> Iterator[str]:
    """What big is to show, and whether it does."""
    by_key = {each.key: each for each in measured}
    unrolled = by_key["int8 ONNX", "unrolled, zero point −1", "ort-lean"]
    private = by_key["int8 ONNX", "unrolled, zero point 0", "ort-lean"]
    rolled = by_key["int8 ONNX", "rolled", "ort-lean"]
    lean = by_key["fp32 ONNX", "unrolled", "ort-lean"]
    static = by_key["int8 TFLite", "static, unrolled", "litert-xnnpack"]
    loop = by_key["int8 TFLite", "dynamic, rolled", "litert-xnnpack"]

    def promise(what: str, value: float, most: float, shown: str) -> str:
        return f"| {what} | {shown} | {'holds' if value <= most else '**does not hold**'} |"

    def ram(what: str, these: Measured, most: float) -> str:
        own = f"{these.anonymous_of_plain / 1e6:.1f} of them the runtime's own"
        resident = f"RSS {these.rss / 1e6:.1f}, {these.rss_of_plain / 1e6:.1f} of them the runtime and its library"
        shown = f"{these.anonymous / 1e6:.1f} MB, {own}; {resident}"
        return promise(f"{what}: anonymous after run ≤ {most:g} MB", round(these.anonymous / 1e6, 1), most, shown)

    def speed(what: str, these: Measured, those: Measured, most: float) -> Iterator[str]:
        pairs = ("p50", these.p50_ms, those.p50_ms), ("CPU time", these.cpu_ms, those.cpu_ms)
        for kind, mine, other in pairs:
            value = round(ratio(mine, other)[0], 2)
            yield promise(f"{what}: {kind} ≤ {most:.2f} ×", value, most, shown_ratio(mine, other))

    yield ram("int8 ONNX rolled", rolled, 6)
    yield from speed("int8 ONNX rolled, over unrolled with zero point −1", rolled, unrolled, 1.05)
    yield from speed("int8 ONNX rolled, over unrolled with zero point 0", rolled, private, 1.05)
    yield ram("fp32 ONNX unrolled, the target's options", lean, 12)
    yield ram("dynamic int8 TFLite rolled, XNNPACK", loop, 5)
    yield from speed("dynamic int8 TFLite rolled, over static unrolled", loop, static, 1.0)
    shown = f"{loop.sqnr_db:.1f} dB, {static.sqnr_db:.1f} dB"
    yield promise("dynamic int8 TFLite rolled: SQNR ≥ that of static unrolled", static.sqnr_db, loop.sqnr_db, shown)


def as_json(measured: Measured) -> dict[str, Any]:
    """For `ram_plot.py`; bytes."""
    parts = measured.found.predicted.run_peak if measured.found.predicted else None
    return {
        "block": measured.row.block,
        "name": measured.row.name,
        "profile": measured.row.profile,
        "predicted": asdict(parts) if parts else None,
        "run_peak_bytes": measured.peak,
    }


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--peer-python", type=Path, help="the Python that has litert-torch and ai-edge-quantizer")
    parser.add_argument("--keep", type=Path, help="keep the files here, and take those that are there")
    parser.add_argument("--json", type=Path, help="write the figures of big here, too")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("# RAM, flash and time of every form\n")
    command = ["python benchmarks/forms.py"]
    for option in (word for word in ("--peer-python", "--networks", "--rounds") if word in sys.argv):
        values = {"--peer-python": "PYTHON", "--networks": " ".join(asked.networks), "--rounds": str(asked.rounds)}
        command.append(f"{option} {values[option]}")
    print(f"`{' '.join(command)}`")
    versions = f"ONNX Runtime {onnxruntime.__version__}, LiteRT {ai_edge_litert.__version__}"
    print(f"on {cpu_name()} ({platform.machine()}), {versions}, torch {torch.__version__}; one thread.")
    print(NOTES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        plain = Files(PLAIN(), folder, asked.peer_python)
        for name in asked.networks:
            network = SUBJECTS[name]()
            measured = table(network, Files(network, folder, asked.peer_python), plain, asked.rounds)
            if name == "big":
                print("\n| what big is to show | measured | |\n|---|---|---|")
                print("\n".join(promises(measured)), flush=True)
                if asked.json:
                    asked.json.write_text(json.dumps([as_json(each) for each in measured], indent=1) + "\n")


if __name__ == "__main__":
    main()
