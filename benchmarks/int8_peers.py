"""edgeks and the public chain side by side: python benchmarks/int8_peers.py > docs/results/int8_peers.md

The public chain is torch.onnx.export → onnxsim → onnxruntime's quant_pre_process → quantize_static (QDQ, per channel,
otherwise its defaults), calibrated on the same samples. Networks are the seeds' with random weights and batch
statistics that fit, and trained checkpoints (--checkpoint, top-1 on the test images of --data). Latencies are medians
of interleaved rounds in one process; RAM is measured in a fresh process each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from edgeks.audit.onnx.kernels import list_kernels
from edgeks.bench.runner import cpu_name
from edgeks.checkpoint import Checkpoint, load_checkpoint
from edgeks.exporter import export
from edgeks.formats.onnx import REFERENCE, open_session, run
from edgeks.graph.from_torch import torch_outputs
from edgeks.models import zoo
from edgeks.parity import compare
from edgeks.preprocessing import Preprocessing
from edgeks.quant.options import Int8Options
from edgeks.sharing.equality import equal_up_to_factor
from edgeks.sharing.torch import discover
from edgeks.target import Session, load_target
from edgeks.train.data import load_dataset

SIZE, CALIBRATION, PROBES, WARMUP = 32, 32, 32, 2
DEFAULT_SESSION = Session(threads=1, graph_optimization="all", disabled_optimizers=())
HEADINGS = (
    "network", "chain", "fp32 bytes", "int8 bytes", "copies", "SQNR dB (here)", "top-1", "fp32 ms", "int8 ms", "ratio",
    "RAM MB",
)  # fmt: skip
NOTES = """
int8 bytes: the whole file. Copies: constants of the int8 file that equal a shared kernel up to a per-channel factor, of
the layers that read it. SQNR: the int8 file node by node against torch fp32, and in brackets as ONNX Runtime optimises
it for this CPU. Top-1: agreement with torch where weights are random, accuracy on the test images where they are
trained. ms: p50, one thread. Ratio: int8 ms over fp32 ms of the same chain. RAM: anonymous memory of the int8 file
above the process before loading, after five runs.
"""
MEASURE_RAM = """
import ctypes, json, sys
import numpy as np, onnxruntime as ort
def anonymous():
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))
path, disabled, config = json.loads(sys.argv[1])
options = ort.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
for key, value in config:
    options.add_session_config_entry(key, value)
before = anonymous()
session = ort.InferenceSession(path, options, ["CPUExecutionProvider"], disabled_optimizers=disabled)
feed = session.get_inputs()[0]
x = np.random.default_rng(0).standard_normal(feed.shape).astype(np.float32)
for _ in range(5):
    session.run(None, {feed.name: x})
print(anonymous() - before)
"""


class SharedVGG(nn.Module):
    """A stem and thirteen 3×3 convolutions of 256 channels that read one kernel, each with BN, ReLU; VGG-16's pools."""

    def __init__(self, channels: int = 256, layers: int = 13, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(layers))
        for conv in self.convs[1:]:
            conv.weight = self.convs[0].weight
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×32×32 → N×classes."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            x = torch.relu(norm(conv(x)))
            if index in (2, 4, 7, 10):
                x = nn.functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


@dataclass(frozen=True)
class Subject:
    """A network, the pixels to compare on, and labels where top-1 is accuracy."""

    name: str
    checkpoint: Checkpoint
    probes: NDArray[np.uint8]
    test: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels are normalised."""
        assert self.checkpoint.preprocessing is not None
        return self.checkpoint.preprocessing

    @property
    def calibration(self) -> NDArray[np.float32]:
        """The samples that both chains calibrate on, as the network takes them."""
        assert self.checkpoint.calibration is not None
        return self.preprocessing.normalise(self.checkpoint.calibration)


@dataclass(frozen=True)
class Files:
    """What a chain wrote, and how the files are to be opened."""

    chain: str
    fp32: Path
    int8: Path
    session: Session


def from_zoo(name: str) -> Callable[[], nn.Module]:
    """Constructor of a preset with seed 0."""
    return lambda: zoo.build(*zoo.architecture(name), seed=0)


VARIANTS = {
    "static": Int8Options(),
    "static, bias corrected": Int8Options(bias_correction=True),
    "dynamic": Int8Options(activations="dynamic"),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convmixer_384_20_2k": from_zoo("convmixer_384_20_2k"),
    "se_resnet_d4_shared": from_zoo("se_resnet_d4_shared"),
    "s_vgg_256": SharedVGG,
}


def smooth_images(count: int, seed: int) -> NDArray[np.uint8]:
    """count×3×32×32 bytes with neighbours alike, as in photographs."""
    noise = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    images = nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 120 + 128
    return images.clamp(0, 255).to(torch.uint8).numpy()


def random_subject(name: str, construct: Callable[[], nn.Module]) -> Subject:
    """Random weights; γ, β as a training could leave them, and the running statistics of what the network is fed."""
    torch.manual_seed(0)
    model = construct()
    preprocessing = Preprocessing(3, SIZE, SIZE, (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))
    images = smooth_images(CALIBRATION, 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches below
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    with torch.no_grad():
        for start in range(0, CALIBRATION, CALIBRATION // 2):
            batch = preprocessing.normalise(images[start : start + CALIBRATION // 2])
            model.train()(torch.from_numpy(batch))
    checkpoint = Checkpoint(model.eval(), preprocessing=preprocessing, calibration=images)
    return Subject(name, checkpoint, smooth_images(PROBES, 2))


def trained_subject(path: Path, arch: str | None, data: str | None, limit: int) -> Subject:
    """A checkpoint with its own calibration sample; test images and labels of `data`."""
    checkpoint = load_checkpoint(path, arch)
    if checkpoint.calibration is None or checkpoint.preprocessing is None:
        raise SystemExit(f"{path}: carries no calibration images; train it with edgeks")
    checkpoint = replace(checkpoint, calibration=checkpoint.calibration[:CALIBRATION])
    name = path.parent.name if path.stem.startswith("model") else path.stem  # a run's folder says more
    if data is None:
        return Subject(name, checkpoint, load_checkpoint(path, arch).calibration[-PROBES:])
    dataset = load_dataset(data, checkpoint.preprocessing.height)
    test = dataset.test_images[:limit], dataset.test_labels[:limit]
    return Subject(name, checkpoint, dataset.test_images[:PROBES], test)


def edgeks_files(subject: Subject, folder: Path, target_name: str, variant: str) -> Files:
    """`edgeks export`, fp32 and int8."""
    target = load_target(target_name)
    files = Files(f"edgeks {variant}", folder / "edgeks_fp32.onnx", folder / f"{variant}_int8.onnx", target.session)
    if not files.fp32.exists():
        export(subject.checkpoint, files.fp32, target, min_sqnr_db=-200)
    export(subject.checkpoint, files.int8, target, int8=True, options=VARIANTS[variant], min_sqnr_db=-200)
    return files


def public_files(subject: Subject, folder: Path, activations: QuantType, form: QuantFormat = QuantFormat.QDQ) -> Files:
    """torch.onnx.export → onnxsim → quant_pre_process → quantize_static."""
    files = Files("public", folder / "public_fp32.onnx", folder / "public_int8.onnx", DEFAULT_SESSION)
    samples, prepared = subject.calibration, folder / "prepared.onnx"
    program = torch.onnx.export(
        subject.checkpoint.model.eval(), (torch.from_numpy(samples[:1]),), dynamo=True, verbose=False
    )
    assert program is not None
    simplified, same = onnxsim.simplify(program.model_proto)
    if not same:
        raise RuntimeError("onnxsim's result computes something else")
    onnx.save(simplified, files.fp32)
    quant_pre_process(str(files.fp32), str(prepared))
    quantize_static(
        str(prepared),
        str(files.int8),
        Samples(onnx.load(prepared).graph.input[0].name, samples),
        quant_format=form,
        per_channel=True,
        activation_type=activations,
    )
    return files


class Samples(CalibrationDataReader):
    """The calibration samples, one by one."""

    def __init__(self, name: str, samples: NDArray[np.float32]) -> None:
        self._feeds = iter([{name: sample[None]} for sample in samples])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next sample, or None after the last."""
        return next(self._feeds, None)


def copies(model: nn.Module, path: Path) -> str:
    """`1, 7 of 7, 20`: how often the file holds each shared kernel of `model`, and how many layers read it."""
    layers = dict(model.named_modules())
    kernels = list_kernels(path)
    counts, readers = [], []
    for group in discover(model).groups:
        weight = layers[group.layers[0]].weight.detach().numpy()
        values = (kernel.values() for kernel in kernels)
        counts.append(
            sum(
                equal_up_to_factor(stored.reshape(len(stored), -1), weight.reshape(len(weight), -1))
                for stored in values
                if stored.size == weight.size and len(stored) == len(weight)
            )
        )
        readers.append(len(group.layers))
    return f"{', '.join(map(str, counts))} of {', '.join(map(str, readers))}"


def latencies(sessions: dict[str, ort.InferenceSession], sample: NDArray[np.float32], rounds: int) -> dict[str, float]:
    """Name → median ms; every round runs each session once, so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(-WARMUP, rounds):
        for name, session in sessions.items():
            start = time.perf_counter_ns()
            session.run(None, {session.get_inputs()[0].name: sample})
            if number >= 0:
                found[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: float(np.median(values)) for name, values in found.items()}


def ram_mb(path: Path, session: Session) -> float:
    """Anonymous MB above the process before loading, after five runs, in a fresh process."""
    argument = json.dumps([str(path), session.disabled_optimizers, session.config])
    done = subprocess.run([sys.executable, "-c", MEASURE_RAM, argument], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1e6


def top1(subject: Subject, session: ort.InferenceSession, reference: NDArray[np.float32], shown: NDArray[Any]) -> str:
    """Accuracy on the test images, else agreement of the outputs `shown` with torch."""
    if subject.test is None:
        return f"{100 * np.mean(reference.argmax(1) == shown.argmax(1)):.0f} % agree"
    images, labels = subject.test
    logits = run(session, subject.preprocessing.normalise(images))[0]
    return f"{100 * np.mean(logits.argmax(1) == labels):.2f} %"


def rows(subject: Subject, chains: list[tuple[str, Callable[[Path], Files]]], rounds: int) -> Iterator[tuple[str, ...]]:
    """One row per chain; a chain that fails says how."""
    probes = subject.preprocessing.normalise(subject.probes)
    reference = torch_outputs(subject.checkpoint.model, probes)[0]
    made: list[Files] = []
    with tempfile.TemporaryDirectory() as name:
        for chain, make in chains:
            print(f"{subject.name}: {chain}", file=sys.stderr)
            try:
                with quiet():
                    made.append(make(Path(name)))
            except Exception as error:  # a chain may fail in any way
                yield (subject.name, chain, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:80]}")
        sessions = {f"{f.chain} {p}": open_session(getattr(f, p), f.session) for f in made for p in ("fp32", "int8")}
        ms = latencies(sessions, probes[:1], rounds)
        for files in made:
            file = run(open_session(files.int8, REFERENCE), probes)[0]
            here = run(sessions[f"{files.chain} int8"], probes)[0]
            fp32_ms, int8_ms = ms[f"{files.chain} fp32"], ms[f"{files.chain} int8"]
            yield (
                subject.name,
                files.chain,
                f"{files.fp32.stat().st_size:,}",
                f"{files.int8.stat().st_size:,}",
                copies(subject.checkpoint.model, files.int8),
                f"{compare(reference, file).sqnr_db:.2f} ({compare(reference, here).sqnr_db:.2f})",
                top1(subject, sessions[f"{files.chain} int8"], reference, here),
                f"{fp32_ms:.{1 if fp32_ms >= 1 else 3}f}",
                f"{int8_ms:.{1 if int8_ms >= 1 else 3}f}",
                f"{int8_ms / fp32_ms:.2f}",
                f"{ram_mb(files.int8, files.session):.1f}",
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters and quantisers log and print; the table is the output."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=[*NETWORKS, "none"], help="these random networks; none")
    parser.add_argument("--checkpoint", action="append", type=Path, default=[], help="a trained .pt; repeatable")
    parser.add_argument("--arch", help="the checkpoints' package.module:callable, where they name no zoo network")
    parser.add_argument("--data", help="test images for the checkpoints: cifar10:DIR, digits …")
    parser.add_argument("--images", type=int, default=10_000, help="at most so many test images")
    parser.add_argument("--target", default="onnx", help="edgeks' target")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="of edgeks; repeatable")
    parser.add_argument("--public-activations", default="QInt8", choices=["QInt8", "QUInt8"], help="default: its own")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def shortened(argument: str) -> str:
    """An argument without the folders that lead to a file or data set on this machine."""
    kind, colon, _ = argument.partition(":")
    if colon:
        return f"{kind}:DIR"
    path = Path(argument)
    return str(Path("runs", path.parent.name, path.name)) if path.suffix == ".pt" else argument


def main() -> None:
    """Print the page."""
    asked = arguments()
    torch.set_num_threads(1)
    names = [] if asked.only == ["none"] else asked.only or list(NETWORKS)
    subjects: list[Callable[[], Subject]] = [lambda name=name: random_subject(name, NETWORKS[name]) for name in names]
    for path in asked.checkpoint:
        subjects.append(lambda path=path: trained_subject(path, asked.arch, asked.data, asked.images))
    print("# int8: edgeks and the public chain\n")
    command = " ".join(["python benchmarks/int8_peers.py", *map(shortened, sys.argv[1:])])
    print(f"`{command}`")
    print(f"on {cpu_name()}, onnxruntime {ort.__version__}, torch {torch.__version__}, target {asked.target}.")
    print(NOTES)
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for make in subjects:
        subject = make()
        public = getattr(QuantType, asked.public_activations)
        chains: list[tuple[str, Callable[[Path], Files]]] = [
            (
                f"edgeks {variant}",
                lambda folder, variant=variant: edgeks_files(subject, folder, asked.target, variant),  # noqa: B023
            )
            for variant in asked.variant or VARIANTS
        ]
        chains.append(("public", lambda folder: public_files(subject, folder, public)))  # noqa: B023
        for row in rows(subject, chains, asked.rounds):
            print(f"| {' | '.join((*row, *[''] * (len(HEADINGS) - len(row))))} |", flush=True)


if __name__ == "__main__":
    main()
