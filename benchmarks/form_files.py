"""The files that `forms.py` measures: of one network, what the public chains and edgeks write, and how each is opened.

Big here is one 3×3 kernel of 512 channels that twelve layers read, on 512×8×8 as they come: nothing else takes RAM.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from int8_peers import CALIBRATION, NETWORKS, PROBES, quiet, random_subject
from int8_peers import public_files as public_onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantFormat, QuantType
from tflite_peers import public_files as public_tflite
from torch import Tensor, nn

from edgeks.checkpoint import Checkpoint
from edgeks.errors import EdgeksError
from edgeks.exporter import export
from edgeks.prepare_onnx import prepare_onnx
from edgeks.quant.options import Int8Options
from edgeks.target import Format, Layers, Target, load_target

Block = Literal["int8 ONNX", "fp32 ONNX", "int8 TFLite", "fp32 TFLite"]
BLOCKS: tuple[Block, ...] = ("int8 ONNX", "fp32 ONNX", "int8 TFLite", "fp32 TFLite")
# Variants of static int8 ONNX: what differs from the target.
VARIANTS: dict[str, dict[str, Any]] = {
    "zero point 0": {"kernel_zero_point": 0},
    "qoperator": {"form": "qoperator"},
    "s8": {"activations": "int8"},
    "s8, zero point 0": {"activations": "int8", "kernel_zero_point": 0},
    "u8 kernels": {"weights": "uint8", "kernel_zero_point": 0},
}
RANDOM_NETWORK_SQNR_DB = -200  # random weights amplify noise; what is compared is forms, not how good they are


@dataclass(frozen=True)
class Network:
    """A network with samples to calibrate on and others to compare on, float32 N×C×H×W as it takes them.

    It stands for a `Subject` in the public chains.
    """

    name: str
    checkpoint: Checkpoint
    calibration: NDArray[np.float32]
    probes: NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One line of a network's table: a file, and the profile of `edgeks footprint` that it is run under.

    `plain`: the same form of `PLAIN`, which needs the same pages of the runtime's libraries and hardly anything else.
    """

    block: Block
    name: str
    profile: str
    path: Path
    plain: Path


class OneKernel(nn.Module):
    """One 3×3 convolution that all layers read, each with its own BN and ReLU."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(layers))
        for conv in self.convs[1:]:
            conv.weight = self.convs[0].weight
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → the same."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return x


def feature_maps(channels: int, count: int, seed: int) -> NDArray[np.float32]:
    """count×C×8×8 with neighbours alike and variance 1."""
    noise = torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 3).numpy()


def layers_of_one_kernel(name: str, channels: int, layers: int) -> Network:
    """`OneKernel` repeated: random weights, γ and β as a training could leave them, statistics of what it is fed."""
    torch.manual_seed(0)
    model, samples = OneKernel(channels, layers), feature_maps(channels, CALIBRATION, 1)
    with torch.no_grad():
        for norm in (module for module in model.norms if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = None  # the mean over the batches below
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
        for batch in np.split(samples, 2):
            model.train()(torch.from_numpy(batch))
    return Network(name, Checkpoint(model.eval()), samples, feature_maps(channels, PROBES, 2))


def of_subject(name: str, construct: Callable[[], nn.Module]) -> Network:
    """A network for images, as those of `int8_peers` are."""
    subject = random_subject(name, construct)
    model = Checkpoint(subject.checkpoint.model)  # samples as floats, as of big
    return Network(name, model, subject.calibration, subject.preprocessing.normalise(subject.probes))


SUBJECTS: dict[str, Callable[[], Network]] = {
    "big": lambda: layers_of_one_kernel("big", 512, 12),
    **{name: partial(of_subject, name, construct) for name, construct in NETWORKS.items()},
}


PLAIN = partial(layers_of_one_kernel, "plain", 8, 2)  # two layers, because one cannot be rolled


class Files:
    """Files of a network, each made when it is first asked for; those found in `folder` are taken as they are."""

    def __init__(self, network: Network, folder: Path, peer_python: Path | None) -> None:
        self.network, self._folder, self._peer_python = network, folder, peer_python
        folder.mkdir(parents=True, exist_ok=True)

    def exported(self, target: str, layers: Layers, activations: str | None, variant: str = "") -> Path:
        """`edgeks export` for a target, `onnx` or `tflite` or a board's. `activations` None: fp32.

        `variant`: one of `VARIANTS`.
        """
        chosen = load_target(target)
        board = [] if target == chosen.format else [target]
        words = [*board, layers, activations or "fp32", *variant.replace(",", "").split()]
        path = self._folder / f"{self.network.name}_{'_'.join(words)}.{chosen.format}"
        if not path.exists():
            chosen = replace(chosen, int8=replace(chosen.int8, **VARIANTS.get(variant, {})))
            with quiet():
                self._export(path, chosen, layers, activations)
        return path

    def _export(self, path: Path, target: Target, layers: Layers, activations: str | None) -> None:
        export(
            self.network.checkpoint,
            path,
            target,
            int8=activations is not None,
            options=Int8Options(activations=activations) if activations else Int8Options(),  # type: ignore[arg-type]
            layers=layers,
            calib=self._calib,
            min_sqnr_db=RANDOM_NETWORK_SQNR_DB,
        )

    def prepared(self) -> Path:
        """The unrolled fp32 .onnx as ONNX Runtime optimises it here."""
        source = self.exported("onnx", "unrolled", None)
        path = source.with_suffix(".prepared.onnx")
        return path if path.exists() else prepare_onnx(source, load_target("onnx")).path

    def public(self, file_format: Format, precision: Literal["fp32", "int8"]) -> Path:
        """What the public chain of the format writes.

        Raises:
            RuntimeError: it failed, or its Python was not named.
        """
        path = self._folder / f"{self.network.name}_public_{precision}.{file_format}"
        if not path.exists():
            scratch = self._folder / f"{self.network.name}_public_{file_format}"
            scratch.mkdir(exist_ok=True)
            with quiet():
                if file_format == "onnx":
                    made = public_onnx(self.network, scratch, QuantType.QInt8)  # type: ignore[arg-type]
                    sources = made.fp32, made.int8
                elif self._peer_python:
                    lite = public_tflite(self.network, scratch, self._peer_python)  # type: ignore[arg-type]
                    sources = lite.fp32, lite.int8
                else:
                    raise RuntimeError("--peer-python is not given")
            for kind, source in zip(("fp32", "int8"), sources, strict=True):
                shutil.copy(source, self._folder / f"{self.network.name}_public_{kind}.{file_format}")
            shutil.rmtree(scratch)
        return path

    def public_qoperator(self) -> Path:
        """The public ONNX chain with QLinearConv nodes and u8 activations: a kernel stored per layer."""
        path = self._folder / f"{self.network.name}_public_qoperator.onnx"
        if not path.exists():
            with quiet(), tempfile.TemporaryDirectory() as scratch:
                made = public_onnx(self.network, Path(scratch), QuantType.QUInt8, QuantFormat.QOperator)  # type: ignore[arg-type]
                shutil.copy(made.int8, path)
        return path

    @cached_property
    def _calib(self) -> Path:
        path = self._folder / f"{self.network.name}_samples.npz"
        np.savez(path, samples=self.network.calibration)
        return path


# Block, name, profile, how the file is made. Times of a block are divided by that of its first row that runs.
Recipe = tuple[Block, str, str, Callable[[Files], Path]]


def _public(*which: str) -> Callable[[Files], Path]:
    return lambda files: files.public(*which)  # type: ignore[arg-type]


def _edgeks(*which: str | None) -> Callable[[Files], Path]:
    return lambda files: files.exported(*which)  # type: ignore[arg-type]


RECIPES: tuple[Recipe, ...] = (
    ("int8 ONNX", "public chain", "ort-default", _public("onnx", "int8")),
    ("int8 ONNX", "unrolled, zero point 0", "ort-lean", _edgeks("onnx", "unrolled", "static", "zero point 0")),
    ("int8 ONNX", "unrolled, zero point −1", "ort-lean", _edgeks("onnx", "unrolled", "static")),
    ("int8 ONNX", "rolled", "ort-lean", _edgeks("onnx", "rolled", "static")),
    ("fp32 ONNX", "public chain", "ort-default", _public("onnx", "fp32")),
    ("fp32 ONNX", "unrolled", "ort-default", _edgeks("onnx", "unrolled", None)),
    ("fp32 ONNX", "unrolled", "ort-lean", _edgeks("onnx", "unrolled", None)),
    ("fp32 ONNX", "rolled", "ort-lean", _edgeks("onnx", "rolled", None)),
    ("fp32 ONNX", "prepared", "prepared", Files.prepared),
    ("int8 TFLite", "public chain", "litert-xnnpack", _public("tflite", "int8")),
    ("int8 TFLite", "static, unrolled", "litert-xnnpack", _edgeks("tflite", "unrolled", "static")),
    ("int8 TFLite", "static, unrolled", "litert-builtin", _edgeks("tflite", "unrolled", "static")),
    ("int8 TFLite", "static, cached", "litert-cached", _edgeks("tflite", "cached", "static")),
    ("int8 TFLite", "dynamic, unrolled", "litert-xnnpack", _edgeks("tflite", "unrolled", "dynamic")),
    ("int8 TFLite", "dynamic, rolled", "litert-xnnpack", _edgeks("tflite", "rolled", "dynamic")),
    ("int8 TFLite", "dynamic, rolled", "litert-builtin", _edgeks("tflite", "rolled", "dynamic")),
    ("int8 TFLite", "dynamic, cached", "litert-cached", _edgeks("tflite", "cached", "dynamic")),
    ("fp32 TFLite", "public chain", "litert-xnnpack", _public("tflite", "fp32")),
    ("fp32 TFLite", "unrolled", "litert-xnnpack", _edgeks("tflite", "unrolled", None)),
    ("fp32 TFLite", "unrolled", "litert-builtin", _edgeks("tflite", "unrolled", None)),
    ("fp32 TFLite", "rolled", "litert-xnnpack", _edgeks("tflite", "rolled", None)),
    ("fp32 TFLite", "cached", "litert-cached", _edgeks("tflite", "cached", None)),
)


def rows(files: Files, plain: Files) -> Iterator[Row | tuple[Recipe, str]]:
    """Every row of a network; a text instead says why its file cannot be."""
    for recipe in RECIPES:
        block, name, profile, make = recipe
        try:
            path = make(files)
        except (EdgeksError, RuntimeError) as error:
            yield recipe, " ".join(str(error).split())
            continue
        yield Row(block, name, profile, path, make(plain))
