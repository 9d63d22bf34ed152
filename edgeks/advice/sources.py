"""What an advice is about: a network that edgeks can export, or a finished model file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeks.checkpoint import architecture_fingerprint, load_checkpoint
from edgeks.errors import CheckpointError, ConfigError, ModelFileError
from edgeks.export_source import Source, onnx_outputs, reference_name, samples_for
from edgeks.exporter import PARITY_SAMPLES
from edgeks.graph.from_torch import torch_outputs
from edgeks.graph.onnx_network import OnnxNetwork, load_onnx
from edgeks.samples import Samples

CHECKPOINTS = (".pt", ".pth", ".pt2", ".safetensors")
FINISHED = (".onnx", ".ort", ".tflite")


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a model is to be read, as `edgeks export` takes it."""

    arch: str | None = None
    trust: bool = False
    calib: Path | None = None
    input_shape: tuple[int, int, int] | None = None

    def words(self) -> tuple[str, ...]:
        """The same as options of the command line."""
        words: list[str] = []
        if self.arch:
            words += ["--arch", self.arch]
        if self.calib:
            words += ["--calib", str(self.calib)]
        if self.input_shape:
            words += ["--input", "x".join(map(str, self.input_shape))]
        if self.trust:
            words.append("--trust")
        return tuple(words)


@dataclass(frozen=True, slots=True)
class Network:
    """What can be exported. `inputs` (N×C×H×W, as the network takes them) give `reference`, its own outputs."""

    source: Source
    samples: Samples
    inputs: NDArray[Any]
    reference: list[NDArray[np.float32]]
    reference_name: str


def read_network(model: Path, options: SourceOptions) -> Network | None:
    """Checkpoint or float ONNX file → network; None for a finished file: .tflite, .ort, or .onnx that is int8.

    Raises:
        InputError: neither, or the samples do not fit.
    """
    suffix = model.suffix.lower()
    if suffix not in (*CHECKPOINTS, *FINISHED):
        raise ModelFileError(f"{model}: legal: a checkpoint ({', '.join(CHECKPOINTS)}), .onnx, .ort or .tflite")
    if not model.is_file():
        raise ModelFileError(f"{model}: {'is a folder' if model.is_dir() else 'no such file'}; name a model file")
    if suffix in FINISHED and (options.arch or options.trust):
        what = f"--arch {options.arch}" if options.arch else "--trust"
        raise ConfigError(f"{what} is about a checkpoint; {model.name} is a model file, which says all of itself")
    source: Source
    if suffix in CHECKPOINTS:
        source = load_checkpoint(model, options.arch, trust=options.trust)
    elif suffix == ".onnx":
        try:
            source = load_onnx(model)
        except ModelFileError:  # quantised, or beyond what is exported: to be run as it is; what is damaged is refused
            return None
    else:
        return None
    samples = samples_for(source, options.calib, options.input_shape)
    inputs = samples.inputs[:PARITY_SAMPLES]
    outputs = onnx_outputs(source, inputs) if isinstance(source, OnnxNetwork) else torch_outputs(source.model, inputs)
    return Network(source, samples, inputs, outputs, reference_name(source))


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file's content; of several, or all files of a folder, of theirs in turn.

    Raises:
        ModelFileError: one cannot be read.
    """
    parts: list[Path] = []
    for path in files:
        parts += sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    found = []
    for part in parts:
        try:
            with part.open("rb") as stream:
                found.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise ModelFileError(f"{part}: cannot be read ({error.strerror})") from error
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def source_key(model: Path, network: Network | None, options: SourceOptions) -> dict[str, Any]:
    """Everything that an export of the model depends on, beyond its target and form.

    Raises:
        InputError: a file of it cannot be read.
    """
    files = network.source.files if network and isinstance(network.source, OnnxNetwork) else (model,)
    arch = options.arch
    if arch and ":" in arch:
        try:
            arch = f"{arch} {architecture_fingerprint(arch)}"
        except CheckpointError:
            arch = options.arch  # it has no source to read
    return {
        "model": digest(files),
        "arch": arch,
        "calib": digest([options.calib]) if options.calib else None,
        "input_shape": options.input_shape,
    }
