"""Trained networks side by side, such as a shared one and its unshared twin: top-1 and bytes of what is exported.

python benchmarks/side_by_side.py --data cifar10:DIR RUN…
RUN: a folder that `edgeks run` left (model.pt, and model_qat.pt where there is a QAT stage). Prints Markdown.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeks.artefact import run_artefact
from edgeks.checkpoint import Checkpoint, load_checkpoint
from edgeks.exporter import export
from edgeks.quant.options import Int8Options
from edgeks.target import load_target
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.fit import evaluate

TARGETS = ("onnx", "tflite")
COLUMNS = (
    "torch",
    "fp32",
    "int8 after training",
    "QAT",
    "fp32 bytes",
    "int8 bytes",
    "kernels for layers",
)


@dataclass(frozen=True)
class Made:
    """An artefact: share 0…1 of the test images that it gets right, its size, and kernels stored for layers."""

    right: float
    file_bytes: int
    kernels: str


def made(checkpoint: Checkpoint, dataset: Dataset, target_name: str, *, int8: bool) -> Made:
    """Export, and run every test image as the target says."""
    target = load_target(target_name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m.{target.format}"
        report = export(checkpoint, path, target, int8=int8, options=Int8Options(activations="static"))
        logits = run_artefact(path, target.session, dataset.preprocessing.normalise(dataset.test_images))[0]
    right = float(np.mean(logits.argmax(1) == dataset.test_labels))
    return Made(right, report.file_bytes, f"{report.proof.kernels_stored} for {report.ledger.rows[-1].layers}")


def rows(folder: Path, dataset: Dataset) -> list[str]:
    """Markdown rows of one run, one per format."""
    checkpoint, qat_file = load_checkpoint(folder / "model.pt"), folder / "model_qat.pt"
    trained = load_checkpoint(qat_file) if qat_file.exists() else None
    torch_right = evaluate(checkpoint.model, dataset.test_images, dataset.test_labels, dataset.preprocessing)
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    lines = []
    for target in TARGETS:
        print(folder.name, target, file=sys.stderr)
        fp32 = made(checkpoint, dataset, target, int8=False)
        int8 = made(checkpoint, dataset, target, int8=True)
        qat = made(trained, dataset, target, int8=True) if trained else None
        cells = [f"{100 * right:.2f} %" for right in (torch_right, fp32.right, int8.right)]
        cells.append(f"{100 * qat.right:.2f} %" if qat else "–")
        cells += [f"{fp32.file_bytes:,}", f"{int8.file_bytes:,}", int8.kernels]
        lines.append(f"| {folder.name} | {parameters:,} | {target} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """One table of all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data, None)
    print(f"Top-1 of {len(dataset.test_labels):,} test images.\n")
    print(f"| run | parameters | format | {' | '.join(COLUMNS)} |")
    print(f"|---|---|---|{'---|' * len(COLUMNS)}")
    for folder in arguments.runs:
        print("\n".join(rows(folder, dataset)), flush=True)


if __name__ == "__main__":
    main()
