"""Every preset of the zoo as ONNX and TFLite, fp32 and int8, each kernel proven to be stored exactly once.

python benchmarks/export_matrix.py [--only PART …] [--timeout SECONDS] > docs/results/export_matrix.md

Random weights, and batch statistics of random images: sizes and proofs do not depend on training. Each preset runs in a
process of its own, which ends after the timeout; what it wrote by then is in the table.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeks.advice.captures import Captures
from edgeks.checkpoint import Checkpoint
from edgeks.errors import GraphError
from edgeks.exporter import export
from edgeks.models import zoo
from edgeks.models.presets import PRESETS
from edgeks.preprocessing import Preprocessing
from edgeks.quant.options import Int8Options
from edgeks.target import Layers, load_target

CIFAR_SIZE, TINY_SIZE, IMAGENET_SIZE = 32, 56, 224
IMAGES, LARGE_IMAGES = 8, 2  # of 32×32, and of more
NO_FLOOR_DB = -200.0  # the table tells the SQNR; on random weights every quantiser is at its worst
DYNAMIC = Int8Options(activations="dynamic")
PREAMBLE = """# Every preset, exported

`python benchmarks/export_matrix.py > docs/results/export_matrix.md`: random weights, batch statistics of random images.
Every figure is of a file that was read back and proven to hold each kernel exactly once, and that was run beside torch.
Rolled: layers that repeat are one loop (int8: dynamic in TFLite, where a loop cannot change scales); "–" where no block
of shared kernels repeats. In a .tflite, depthwise kernels above 25 taps are split into tiles, each stored once.
On random weights every quantiser is at its worst: what int8 costs is in int8_peers.md and cifar10.md.
Rows of 224×224 are of two images. A small network of every architecture goes the same way in CI
(tests/models/test_export_matrix.py).

| preset | image | file | kernels for layers | bytes | SQNR dB | rolled, bytes | SQNR dB |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A file of the matrix, or why there is none (`kernels` 0)."""

    preset: str
    size: int
    format: str
    precision: str
    form: str
    file_bytes: int = 0
    kernels: int = 0
    layers: int = 0
    sqnr_db: float = math.nan
    reason: str = ""


def untrained(name: str, config: Mapping[str, Any], size: int, *, images: int = IMAGES) -> Checkpoint:
    """A network of the zoo with random weights, random γ and β, and the batch statistics of random images."""
    arch, full = zoo.architecture(name, config)
    model = zoo.build(arch, full, seed=0)
    generator = torch.Generator().manual_seed(0)
    channels = full["in_channels"]
    noise = torch.randn(images, channels, size, size, generator=generator)
    smooth = nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)  # neighbours alike, as in images
    pixels = (smooth * 120 + 128).clamp(0, 255).to(torch.uint8).numpy()
    classes = tuple(map(str, range(full["classes"])))
    preprocessing = Preprocessing(channels, size, size, (0.5,) * channels, (0.25,) * channels, classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch below
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
    with torch.no_grad():
        model.train()(torch.from_numpy(preprocessing.normalise(pixels)))
    return Checkpoint(model.eval(), arch, full, preprocessing=preprocessing, calibration=pixels)


def matrix(
    name: str, checkpoint: Checkpoint, folder: Path, forms: Sequence[Layers] = ("unrolled", "rolled")
) -> Iterator[Row]:
    """Export to each format, precision and form; every row is proven and run when it comes.

    Raises:
        SharingBroken: a file does not hold each kernel exactly once, or not as many kernels as the network has.
    """
    assert checkpoint.preprocessing is not None
    size, captures = checkpoint.preprocessing.height, Captures()
    for file_format in ("onnx", "tflite"):
        for precision in ("fp32", "int8"):
            for form in forms:
                options = DYNAMIC if (file_format, precision, form) == ("tflite", "int8", "rolled") else Int8Options()
                about = (name, size, file_format, precision, form)
                try:
                    report = export(
                        checkpoint,
                        folder / f"{precision}_{form}.{file_format}",
                        load_target(file_format),
                        int8=precision == "int8",
                        options=options,
                        layers=form,
                        min_sqnr_db=NO_FLOOR_DB,
                        capture=captures,
                    )
                except GraphError as error:
                    if form != "rolled" or "nothing can be rolled" not in str(error):
                        raise
                    yield Row(*about, reason="nothing repeats")
                    continue
                plan = report.ledger.plan
                yield Row(
                    *about, report.file_bytes, report.proof.kernels_stored, plan.layer_count, report.parity.sqnr_db
                )


def image_size(name: str) -> int:
    """Height and width of the images that a preset is for."""
    described = PRESETS[name].description
    return IMAGENET_SIZE if ", ImageNet" in described else TINY_SIZE if "Tiny ImageNet" in described else CIFAR_SIZE


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """Rows of one preset → lines of the table, both forms of a file in one."""
    for (file_format, precision), pair in groupby(rows, key=lambda row: (row.format, row.precision)):
        forms = {row.form: row for row in pair}
        first = next(iter(forms.values()))
        cells = [first.preset, f"{first.size}×{first.size}", f"{file_format} {precision}".strip() or first.reason]
        cells += [f"{first.kernels} for {first.layers}" if first.kernels else "–"]
        for form in ("unrolled", "rolled"):
            row = forms.get(form)
            cells += [f"{row.file_bytes:,}", f"{row.sqnr_db:.1f}"] if row and row.kernels else ["–", "–"]
        yield f"| {' | '.join(cells)} |"


def print_one(name: str) -> None:
    """The rows of a preset as JSON lines, each when it is proven."""
    torch.set_num_threads(1)
    size = image_size(name)
    checkpoint = untrained(name, {}, size, images=IMAGES if size == CIFAR_SIZE else LARGE_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        for row in matrix(name, checkpoint, Path(folder)):
            print(json.dumps(asdict(row)), flush=True)


def rows_of(name: str, timeout: float) -> Iterator[Row]:
    """The rows of a preset, from a process of its own; at the end one that says so where the time was not enough."""
    worker = [sys.executable, __file__, "--one", name]
    with tempfile.TemporaryFile("w+") as lines:
        reason = ""
        try:
            code = subprocess.run(worker, stdout=lines, timeout=timeout, check=False).returncode
            reason = f"ended with code {code}" if code else ""
        except subprocess.TimeoutExpired:
            reason = f"the rest: not within {timeout:g} s"
        lines.seek(0)
        yield from (Row(**json.loads(text)) for text in lines if text.endswith("\n"))
    if reason:
        yield Row(name, image_size(name), "", "", "", reason=reason)


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="PART", help="presets whose names have one of these")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a preset")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print_one(asked.one)
        return
    print(PREAMBLE, end="")
    for name in PRESETS:
        if not asked.only or any(part in name for part in asked.only):
            for text in lines(rows_of(name, asked.timeout)):
                print(text, flush=True)


if __name__ == "__main__":
    main()
