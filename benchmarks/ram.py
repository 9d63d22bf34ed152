"""Predicted RAM held against measured RAM, per file and runtime profile:

python benchmarks/ram.py --tflite-runtime .venv-tflite-runtime/bin/python [FILE …] > docs/results/ram.md

Files are made by edgeks (random weights), unrolled and rolled, by torch's legacy exporter, and of big by the public
chains, too; FILE adds others. Every measurement is a fresh process (`edgeks footprint --measure`).
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import ai_edge_litert
import onnxruntime
import torch
from form_files import SUBJECTS, Files
from int8_peers import quiet

from edgeks.audit.footprint import ProfileRam, footprint
from edgeks.checkpoint import Checkpoint
from edgeks.measured_footprint import with_measurements
from edgeks.target import Format, Layers

FORMS: tuple[Layers, ...] = ("unrolled", "rolled")
INT8: dict[Format, str] = {"onnx": "static", "tflite": "auto"}
SLACK_BYTES, SLACK_RATIO = 1_000_000, 0.10
HEADINGS = (
    "file", "profile", "mapped", "heap", "packed", "arena", "library", "**predicted**", "**measured**", "error",
    "loading, predicted", "measured", "copies of shared kernels",
)  # fmt: skip


def made_by_edgeks(files: Files) -> Iterator[Path]:
    """fp32 and int8, unrolled and rolled, as ONNX and as TFLite."""
    for layers in FORMS:
        for target, int8 in INT8.items():
            yield files.exported(target, layers, None)
            yield files.exported(target, layers, int8)


def made_by_the_public_chains(files: Files, has_peer: bool) -> Iterator[Path]:
    """The same network from torch.onnx.export and quantize_static, and from litert-torch and ai-edge-quantizer."""
    for target in INT8:
        if target == "onnx" or has_peer:
            yield files.public(target, "fp32")
            yield files.public(target, "int8")


def legacy(name: str, checkpoint: Checkpoint, folder: Path) -> Path:
    """torch's exporter of old, which folds BN into a kernel per layer."""
    path = folder / f"{name}_legacy.onnx"
    torch.onnx.export(checkpoint.model.eval(), (torch.zeros(1, 3, 32, 32),), str(path), dynamo=False)
    return path


def row(path: Path, found: ProfileRam) -> str:
    """One line of the table; megabytes."""
    predicted, measured = found.predicted, found.measured
    if predicted is None or measured is None:
        return f"| {path.name} | {found.profile.name} | | | | | | | | {found.failed or 'not predicted'} | | | |"
    parts = predicted.run_peak
    sizes = (parts.mapped_bytes, parts.heap_bytes, parts.packed_bytes, parts.arena_bytes, parts.library_bytes)
    peak, error = measured.run_peak_bytes, parts.total_bytes - measured.run_peak_bytes
    mark = "" if within(found) else " **!**"
    loading = "–" if predicted.load_peak_bytes is None else f"{predicted.load_peak_bytes / 1e6:.1f}"
    copies = max((f"{k.copies} of {k.layers}" for k in predicted.kernels if k.layers > 1), default="")
    cells = [
        path.name, found.profile.name, *(f"{size / 1e6:.1f}" for size in sizes),
        f"**{parts.total_bytes / 1e6:.1f}**", f"**{peak / 1e6:.1f}**",
        f"{error / 1e6:+.1f} ({error / peak:+.0%}){mark}", loading, f"{measured.load_peak_bytes / 1e6:.1f}", copies,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def within(found: ProfileRam) -> bool:
    """Whether the predicted run peak is within 10 % or 1 MB of the measured one."""
    error = found.error_bytes
    if error is None or found.measured is None:
        return False
    return abs(error) <= max(SLACK_BYTES, SLACK_RATIO * found.measured.run_peak_bytes)


def command_line(words: list[str]) -> str:
    """The command without this machine's folders."""
    own = {"--peer-python": "PYTHON", "--tflite-runtime": "PYTHON", "--keep": "DIR"}
    shown = [own.get(before, Path(word).name) for before, word in pairwise(["", *words])]
    return " ".join(["python benchmarks/ram.py", *shown])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="more files to measure")
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--tflite-runtime", type=Path, help="Python with tflite-runtime 2.14")
    parser.add_argument("--peer-python", type=Path, help="the Python that has litert-torch and ai-edge-quantizer")
    parser.add_argument("--keep", type=Path, help="keep the files here, and take those that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        paths = list(arguments.files)
        for name in arguments.networks:
            files = Files(SUBJECTS[name](), folder, arguments.peer_python)
            paths += made_by_edgeks(files)
            if name == "big":
                paths += made_by_the_public_chains(files, bool(arguments.peer_python))
            if name == "se_resnet_d4_shared":
                with quiet():
                    paths.append(legacy(name, files.network.checkpoint, folder))
        print("# RAM, predicted and measured\n")
        print(f"`{command_line(sys.argv[1:])}`\n")
        versions = f"ONNX Runtime {onnxruntime.__version__}, LiteRT {ai_edge_litert.__version__}"
        print(f"{versions}, {platform.machine()}, one thread. MB above the process with the")
        print("runtime imported; the run peak is that of five inferences. **!** marks an error above 10 % and 1 MB.\n")
        print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
        rows = []
        for path in paths:
            found = with_measurements(footprint(path), arguments.tflite_runtime)
            for each in found.ram:
                rows.append(each)
                print(row(path, each), flush=True)
        known = [each for each in rows if each.measured]
        good = sum(map(within, known))
        print(f"\nWithin 10 % or 1 MB: {good} of {len(known)}, of {len(paths)} files.")


if __name__ == "__main__":
    main()
