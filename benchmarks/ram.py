"""Predicted RAM held against measured RAM, per file and runtime profile:

python benchmarks/ram.py --tflite-runtime .venv-tflite-runtime/bin/python [FILE …] > docs/results/ram.md

Files are made by edgeks (random weights), by torch's legacy exporter and by ONNX Runtime's own quantiser; FILE adds
others, such as those that litert-torch wrote. Every measurement is a fresh process (`edgeks footprint --measure`).
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ai_edge_litert
import onnxruntime
import torch
from int8_peers import NETWORKS, quiet, random_subject
from torch import Tensor, nn

from edgeks.audit.footprint import ProfileRam, footprint
from edgeks.checkpoint import Checkpoint
from edgeks.exporter import export
from edgeks.measured_footprint import with_measurements
from edgeks.target import load_target

SLACK_BYTES, SLACK_RATIO = 1_000_000, 0.10
HEADINGS = (
    "file", "profile", "mapped", "heap", "packed", "arena", "library", "**predicted**", "**measured**", "error",
    "loading, predicted", "measured", "copies of shared kernels",
)  # fmt: skip


class Big(nn.Module):
    """One 3×3 convolution of 512 channels that twelve layers read, each with BN and ReLU, on 8×8: 9.44 MB in fp32."""

    def __init__(self, channels: int = 512, layers: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 1)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(layers))
        for conv in self.convs[1:]:
            conv.weight = self.convs[0].weight
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """N×3×32×32 → N×512."""
        x = nn.functional.avg_pool2d(self.stem(x), 4)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return x.mean((2, 3))


SUBJECTS: dict[str, Callable[[], nn.Module]] = {"big": Big, **NETWORKS}


def made_by_edgeks(name: str, checkpoint: Checkpoint, folder: Path) -> Iterator[Path]:
    """fp32 and int8, as ONNX and as TFLite."""
    for target in ("onnx", "tflite"):
        for precision in ("fp32", "int8"):
            path = folder / f"{name}_{precision}.{target}"
            export(checkpoint, path, load_target(target), int8=precision == "int8", min_sqnr_db=-200)
            yield path


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="more files to measure")
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--tflite-runtime", type=Path, help="Python with tflite-runtime 2.14")
    parser.add_argument("--keep", type=Path, help="write the files here and keep them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        paths = list(arguments.files)
        for name in arguments.networks:
            checkpoint = random_subject(name, SUBJECTS[name]).checkpoint
            with quiet():
                paths += made_by_edgeks(name, checkpoint, folder)
                if name == "se_resnet_d4_shared":
                    paths.append(legacy(name, checkpoint, folder))
        print("# RAM, predicted and measured\n")
        print(f"`{' '.join(['python', 'benchmarks/ram.py', *(Path(word).name for word in sys.argv[1:])])}`\n")
        versions = f"ONNX Runtime {onnxruntime.__version__}, LiteRT {ai_edge_litert.__version__}"
        print(f"{versions}, {platform.machine()}, one thread. MB above the process with the")
        print("runtime imported; the run peak is that of five inferences.\n")
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
