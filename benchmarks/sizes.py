"""What sharing does to a file at full size: python benchmarks/sizes.py > docs/results/sizes.md

Networks of the papers with random weights and batch statistics taken from random images (sizes do not depend on
training). "unshared" is the same network with a kernel per layer, exported the same way.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeks.checkpoint import Checkpoint
from edgeks.exporter import export
from edgeks.models import zoo
from edgeks.preprocessing import Preprocessing
from edgeks.quant.options import Int8Options
from edgeks.sharing.torch import untied
from edgeks.target import load_target

NETWORKS = ("convmixer_283_4_2k", "convmixer_410_8_2k", "convmixer_384_20_2k", "se_resnet_d4_shared")
FORMS = (("fp32", None), ("int8 QDQ", "qdq"), ("int8 QOperator", "qoperator"))
SIZE, IMAGES = 32, 32
PREAMBLE = """# Sizes

`python benchmarks/sizes.py > docs/results/sizes.md`: random weights, batch statistics that fit, 32×32 images.
SQNR is against torch on the calibration images; on random weights every quantiser is at its worst.
"""


def network(name: str) -> Checkpoint:
    """A network of the zoo whose batch statistics fit its input, and random images as its calibration sample."""
    torch.manual_seed(0)
    arch, config = zoo.architecture(name)
    model = zoo.build(arch, config, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    preprocessing = Preprocessing(3, SIZE, SIZE, (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of the one batch below
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    with torch.no_grad():
        model.train()(torch.from_numpy(preprocessing.normalise(images)))
    return Checkpoint(model.eval(), arch, config, preprocessing=preprocessing, calibration=images)


def main() -> None:
    """Print the page."""
    target = load_target("onnx")
    print(PREAMBLE)
    print("| network | form | kernels for layers | file bytes | unshared bytes | ratio | SQNR dB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            shared = network(name)
            twin = replace(shared, model=untied(shared.model))
            for label, form in FORMS:
                print(f"{name} {label}", file=sys.stderr)
                made = [
                    export(
                        c,
                        Path(folder) / "x.onnx",
                        target,
                        int8=form is not None,
                        options=Int8Options(form=form),
                        min_sqnr_db=0,
                    )
                    for c in (shared, twin)
                ]
                report, unshared = made
                layers = report.ledger.rows[-1].layers
                ratio = unshared.file_bytes / report.file_bytes
                print(
                    f"| {name} | {label} | {report.proof.kernels_stored} for {layers} | {report.file_bytes:,} | "
                    f"{unshared.file_bytes:,} | {ratio:.2f} | {report.parity.sqnr_db:.1f} |"
                )


if __name__ == "__main__":
    main()
