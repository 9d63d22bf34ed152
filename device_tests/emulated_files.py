"""Files for the emulated board: two networks with shared kernels, in both formats, fp32 and int8, and one too large."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeks.checkpoint import Checkpoint, load_checkpoint
from edgeks.exporter import export
from edgeks.preprocessing import Preprocessing
from edgeks.target import Target, load_target

DATA = Path(__file__).parents[1] / "tests/data"
TARGETS = {".onnx": "rpi-4", ".tflite": "tflite"}
PROBES = 8
RANDOM_NETWORK_SQNR_DB = -200.0


@dataclass(frozen=True)
class File:
    """One export. `samples`: .npy of `PROBES` inputs in the file's own layout, float32."""

    path: Path
    samples: Path

    @property
    def target(self) -> Target:
        return load_target(TARGETS[self.path.suffix])


@dataclass(frozen=True)
class Subject:
    """A network, and images N×3×H×W of bytes to compare outputs on."""

    name: str
    checkpoint: Checkpoint
    images: NDArray[np.uint8]


class Repeated(nn.Module):
    """`layers` times one 3×3 kernel of `channels`, BN and ReLU each, then mean and a head."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm in self.norms:
            x = torch.relu(norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


def repeated(channels: int, layers: int, size: int) -> Checkpoint:
    """BN statistics are those of its samples: activations then keep a scale, as in a trained network."""
    model = Repeated(channels, layers)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, size, size), generator=generator, dtype=torch.uint8)
    plain = Preprocessing(3, size, size, (0.5,) * 3, (0.25,) * 3, tuple("abcdefghij"))
    for norm in model.norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(torch.from_numpy(plain.normalise(images.numpy())))
    return Checkpoint(model=model.eval(), preprocessing=plain, calibration=images.numpy())


def convmixer() -> Subject:
    """Trained on CIFAR-10: two kernels for ten layers."""
    checkpoint = load_checkpoint(DATA / "convmixer_2k_cifar10.pt")
    return Subject("convmixer", checkpoint, np.load(DATA / "cifar10_200.npz")["images"][:PROBES])


def repeated_256() -> Subject:
    """One kernel of 256 channels, four times."""
    checkpoint = repeated(256, 4, 8)
    return Subject("repeated_256", checkpoint, checkpoint.calibration[:PROBES])


def write_files(folder: Path, subject: Subject, precisions: tuple[str, ...] = ("fp32", "int8")) -> list[File]:
    """The subject's .onnx and .tflite."""
    inputs = subject.checkpoint.preprocessing.normalise(subject.images)
    files = []
    for suffix, target in TARGETS.items():
        samples = folder / f"{subject.name}{suffix}.npy"
        np.save(samples, inputs if suffix == ".onnx" else np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)))
        for precision in precisions:
            path = folder / f"{subject.name}_{precision}{suffix}"
            options = {"int8": precision == "int8", "min_sqnr_db": RANDOM_NETWORK_SQNR_DB}
            export(subject.checkpoint, path, load_target(target), **options)
            files.append(File(path, samples))
    return files


def write_too_large(folder: Path) -> Path:
    """A .tflite of 38 MB, of whose only large kernel XNNPACK packs eight copies: 302 MB."""
    path = folder / "too_large.tflite"
    export(repeated(1024, 8, 4), path, load_target("tflite"), min_sqnr_db=RANDOM_NETWORK_SQNR_DB)
    return path
