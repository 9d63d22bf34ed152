"""What int8 costs a trained CIFAR-10 network: top-1 over all test images, by kind and option. Prints Markdown.

python benchmarks/cifar10.py --data cifar10:DIR [--target tflite] RUN…
RUN: a folder that `edgeks run` left (model.pt, model_qat.pt)
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeks.artefact import run_artefact
from edgeks.checkpoint import Checkpoint, load_checkpoint
from edgeks.exporter import export
from edgeks.quant.options import Int8Options
from edgeks.target import Target, load_target
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.fit import evaluate

STATIC = Int8Options(activations="static")
CORRECTED = replace(STATIC, bias_correction=True)
VARIANTS: dict[str, Int8Options | None] = {
    "fp32": None,
    "static": STATIC,
    "static, percentile": replace(STATIC, calibration="percentile"),
    "static, bias correction": CORRECTED,
    "static, percentile, bias correction": replace(CORRECTED, calibration="percentile"),
    "static, adaround, bias correction": replace(CORRECTED, rounding="adaround"),
    "dynamic": Int8Options(activations="dynamic"),
    "weight-only": Int8Options(activations="float"),
}


def row(
    checkpoint: Checkpoint,
    dataset: Dataset,
    target: Target,
    options: Int8Options | None,
    torch_right: float,
    name: str,
) -> str:
    """One artefact: exported, run on every test image as its target says."""
    print(name, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m.{target.format}"
        report = export(checkpoint, path, target, int8=options is not None, options=options or Int8Options())
        logits = run_artefact(path, target.session, dataset.preprocessing.normalise(dataset.test_images))[0]
    right = float(np.mean(logits.argmax(1) == dataset.test_labels))
    copies = f"{report.proof.kernels_stored} for {report.ledger.rows[-1].layers}"
    change = f"{100 * (right - torch_right):+.2f}"
    return (
        f"| {name} | {100 * right:.2f} % | {change} | {report.parity.sqnr_db:.1f} | {copies} | {report.file_bytes:,} |"
    )


def main() -> None:
    """Markdown, one table per run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--target", default="onnx")
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    dataset = load_dataset(arguments.data, None)
    images, labels = dataset.test_images, dataset.test_labels
    for folder in arguments.runs:
        checkpoint = load_checkpoint(folder / "model.pt")
        right = evaluate(checkpoint.model, images, labels, dataset.preprocessing)
        print(f"\n## {folder.name}\n\n{checkpoint.architecture} {checkpoint.config}")
        print(f"\nTop-1 in torch {100 * right:.2f} % of {len(labels):,} test images.\n")
        print("| artefact | top-1 | points against torch fp32 | SQNR dB | kernels for layers | bytes |")
        print("|---|---|---|---|---|---|")
        for name, options in VARIANTS.items():
            print(row(checkpoint, dataset, target, options, right, name), flush=True)
        trained = folder / "model_qat.pt"
        if trained.exists():
            qat = load_checkpoint(trained)
            print(row(qat, dataset, target, STATIC, right, "static, trained (QAT)"), flush=True)


if __name__ == "__main__":
    main()
