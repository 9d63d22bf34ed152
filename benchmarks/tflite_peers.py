"""edgeks and the public chain for TFLite side by side, in one run:

python benchmarks/tflite_peers.py --peer-python .venv-litert-torch/bin/python > docs/results/tflite_peers.md

The public chain is litert_torch.convert → ai-edge-quantizer (static int8, its defaults), calibrated on the same
samples; it runs in the Python that has these packages (`make litert-torch`). Networks are the seeds' with random
weights and batch statistics that fit, and trained checkpoints (--checkpoint, top-1 on the test images of --data).
Latencies are medians of interleaved rounds in one process; memory is measured in a fresh process each. "restored" is
what `restore_sharing` makes of the public chain's int8 file.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from int8_peers import NETWORKS as ONNX_NETWORKS
from int8_peers import Subject, quiet, random_subject, shortened, trained_subject
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeks.bench.runner import cpu_name
from edgeks.exporter import export
from edgeks.formats.tflite.kernels import stored_kernels
from edgeks.formats.tflite.restore_sharing import restore_sharing
from edgeks.formats.tflite.runtime import open_interpreter, run
from edgeks.graph.from_torch import torch_outputs
from edgeks.model_files.tflite_file import operator_code, read_tflite, schema
from edgeks.parity import compare
from edgeks.quant.options import Int8Options
from edgeks.sharing.equality import copy_sets, equal_up_to_factor
from edgeks.sharing.torch import discover
from edgeks.target import LiteRtSession, load_target

WARMUP = 2
PER_CHANNEL_BYTES = 8
CHAIN_SCRIPT = Path(__file__).with_name("litert_torch_chain.py")
XNNPACK, BUILTIN = LiteRtSession(1, "xnnpack"), LiteRtSession(1, "builtin")
HEADINGS = (
    "network", "chain", "fp32 bytes", "int8 bytes", "over the floor", "copies", "needless", "transposes",
    "SQNR dB (built-in)", "top-1", "fp32 ms", "int8 ms", "int8 ms built-in", "RSS MB",
)  # fmt: skip
NOTES = """
Bytes: the whole file; over the floor: int8 bytes above 1 byte per unique weight + 8 bytes per output channel per layer.
Copies: kernels of the int8 file that equal a shared kernel up to a per-channel factor, of the layers that read it (0
where the kernel was cut into tiles). Needless: stored kernels that equal another one up to a factor. SQNR: int8 under
XNNPACK against torch fp32, and with built-in kernels. Top-1: agreement with torch where weights are random, accuracy on
the test images where they are trained. ms: p50, one thread, fp32 and int8 under XNNPACK, int8 with built-in kernels; in
brackets the ratio to the public chain's in the same rounds. RSS: resident (anonymous) MB of the int8 file under XNNPACK
above the process before loading, after five runs. Public, restored: the public chain's int8 file with its sharing
restored (edgeks.formats.tflite.restore_sharing).
"""
MEASURE_RAM = """
import ctypes, json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
def memory():
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as file:
        found = dict(line.split(":") for line in list(file)[1:])
    return [int(found[key].split()[0]) * 1024 for key in ("Rss", "Anonymous")]
before = memory()
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
feed = interpreter.get_input_details()[0]
x = np.random.default_rng(0).integers(-100, 100, feed["shape"]).astype(feed["dtype"])
for _ in range(5):
    interpreter.set_tensor(feed["index"], x)
    interpreter.invoke()
print(json.dumps([now - then for now, then in zip(memory(), before)]))
"""


class NetB(nn.Module):
    """A stem, one 3×3 convolution of 128 channels applied eight times, each with its own BN and ReLU, and a head."""

    def __init__(self, channels: int = 128, layers: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.convs = _tied(channels, [1] * layers)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(layers))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W → N×classes."""
        x = nn.functional.max_pool2d(torch.relu(self.stem_norm(self.stem(x))), 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


class SharedResNet(nn.Module):
    """SL3-ResNet: nine residual blocks of two 3×3 convolutions each, all eighteen of one kernel; three resolutions."""

    def __init__(self, channels: int = 128, blocks: int = 9, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.strides = [2 if index in (blocks // 3, 2 * blocks // 3) else 1 for index in range(blocks)]
        self.convs = _tied(channels, [stride for first in self.strides for stride in (first, 1)])
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in self.convs)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W → N×classes."""
        x = torch.relu(self.stem_norm(self.stem(x)))
        for index, stride in enumerate(self.strides):
            y = torch.relu(self.norms[2 * index](self.convs[2 * index](x)))
            y = self.norms[2 * index + 1](self.convs[2 * index + 1](y))
            x = torch.relu(y + (x if stride == 1 else nn.functional.avg_pool2d(x, stride)))
        return self.head(x.mean((2, 3)))


def _tied(channels: int, strides: list[int]) -> nn.ModuleList:
    """3×3 convolutions that read one kernel."""
    convs = [nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False) for stride in strides]
    for conv in convs[1:]:
        conv.weight = convs[0].weight
    return nn.ModuleList(convs)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"net_b": NetB, **ONNX_NETWORKS, "sl3_resnet_128": SharedResNet}


@dataclass(frozen=True)
class Files:
    """What a chain wrote."""

    chain: str
    fp32: Path
    int8: Path


def edgeks_files(subject: Subject, folder: Path, target_name: str, activations: str | None) -> Files:
    """`edgeks export`, fp32 and int8; `activations` None is what the target says."""
    target = load_target(target_name)
    name = "edgeks" if activations is None else f"edgeks {activations}"
    files = Files(name, folder / "edgeks_fp32.tflite", folder / f"{name.replace(' ', '_')}_int8.tflite")
    if not files.fp32.exists():
        export(subject.checkpoint, files.fp32, target, min_sqnr_db=-200)
    options = Int8Options(activations=activations)
    export(subject.checkpoint, files.int8, target, int8=True, options=options, min_sqnr_db=-200)
    return files


def public_files(subject: Subject, folder: Path, python: Path) -> Files:
    """litert_torch.convert → ai-edge-quantizer, in the Python that has them; the input is N×H×W×C."""
    samples = subject.calibration
    with torch.no_grad():
        program = torch.export.export(subject.checkpoint.model.eval(), (torch.from_numpy(samples[:1]),))
    torch.export.save(program, folder / "program.pt2")
    np.save(folder / "samples.npy", np.ascontiguousarray(samples.transpose(0, 2, 3, 1)))
    done = subprocess.run([python, CHAIN_SCRIPT, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return Files("public", folder / "public_fp32.tflite", folder / "public_int8.tflite")


def restored_files(public: Files, folder: Path) -> Files:
    """The public chain's int8 file with its sharing restored."""
    files = Files("public, restored", public.fp32, folder / "restored_int8.tflite")
    restore_sharing(public.int8, files.int8, public.fp32, negative_scales=True)
    return files


def floor_bytes(model: nn.Module) -> int:
    """1 byte per unique weight + 8 bytes (scale and bias) per output channel per layer."""
    return sum(
        math.prod(group.kernel_shape) + PER_CHANNEL_BYTES * group.kernel_shape[0] * len(group.layers)
        for group in discover(model).kernels
    )


def copies(model: nn.Module, path: Path) -> tuple[str, int]:
    """(`1, 7 of 7, 20`: how often the file holds each shared kernel, and how many layers read it; needless kernels)."""
    layers = dict(model.named_modules())
    found = [kernel.values for kernel in stored_kernels(read_tflite(path))]
    counts, readers = [], []
    for group in discover(model).groups:
        weight = layers[group.layers[0]].weight.detach().numpy()
        rows = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)  # OHWI, as TFLite has it
        counts.append(sum(stored.shape == rows.shape and equal_up_to_factor(stored, rows) for stored in found))
        readers.append(len(group.layers))
    needless = sum(len(alike) - 1 for alike in copy_sets(found))
    return f"{', '.join(map(str, counts))} of {', '.join(map(str, readers))}", needless


def transposes(path: Path) -> int:
    """TRANSPOSE operators in the file."""
    model = read_tflite(path)
    wanted = schema.BuiltinOperator.TRANSPOSE
    return sum(operator_code(model, op) == wanted for graph in model.subgraphs for op in graph.operators)


def fed(interpreter: Interpreter, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples N×C×H×W → the layout that the file takes."""
    shape = tuple(interpreter.get_input_details()[0]["shape"][1:])
    return samples if samples.shape[1:] == shape else np.ascontiguousarray(samples.transpose(0, 2, 3, 1))


def latencies(interpreters: dict[str, Interpreter], sample: NDArray[np.float32], rounds: int) -> dict[str, float]:
    """Name → median ms; every round runs each interpreter once, so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in interpreters}
    for interpreter in interpreters.values():
        run(interpreter, fed(interpreter, sample))
    for number in range(-WARMUP, rounds):
        for name, interpreter in interpreters.items():
            start = time.perf_counter_ns()
            interpreter.invoke()
            if number >= 0:
                found[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: float(np.median(values)) for name, values in found.items()}


def ram_mb(path: Path) -> str:
    """`resident (anonymous)` MB above the process before loading, after five runs, in a fresh process."""
    done = subprocess.run([sys.executable, "-c", MEASURE_RAM, path], capture_output=True, text=True, check=False)
    if done.returncode:
        return "refused"
    resident, anonymous = (value / 1e6 for value in json.loads(done.stdout))
    return f"{resident:.1f} ({anonymous:.1f})"


def top1(subject: Subject, interpreter: Interpreter, reference: NDArray[np.float32], shown: NDArray[Any]) -> str:
    """Accuracy on the test images, else agreement of the outputs `shown` with torch."""
    if subject.test is None:
        return f"{100 * np.mean(reference.argmax(1) == shown.argmax(1)):.0f} % agree"
    images, labels = subject.test
    logits = run(interpreter, fed(interpreter, subject.preprocessing.normalise(images)))[0]
    return f"{100 * np.mean(logits.argmax(1) == labels):.2f} %"


def rows(subject: Subject, chains: list[tuple[str, Callable[[], Files]]], rounds: int) -> Iterator[tuple[str, ...]]:
    """One row per chain; a chain that fails says how."""
    probes = subject.preprocessing.normalise(subject.probes)
    model = subject.checkpoint.model
    reference, floor = torch_outputs(model, probes)[0], floor_bytes(model)
    made: list[Files] = []
    interpreters: dict[str, Interpreter] = {}
    for chain, make in chains:
        print(f"{subject.name}: {chain}", file=sys.stderr)
        try:
            with quiet():
                files = make()
            opened = {
                f"{files.chain} fp32": open_interpreter(files.fp32, XNNPACK),
                f"{files.chain} int8": open_interpreter(files.int8, XNNPACK),
                f"{files.chain} built-in": open_interpreter(files.int8, BUILTIN),
            }
        except Exception as error:  # a chain may fail in any way
            yield (subject.name, chain, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:80]}")
            continue
        made.append(files)
        interpreters.update(opened)
    ms = latencies(interpreters, probes[:1], rounds)

    def timed(chain: str, what: str) -> str:
        own, public = ms[f"{chain} {what}"], ms.get(f"public {what}")
        shown = f"{own:.{1 if own >= 10 else 2 if own >= 1 else 3}f}"
        return shown if public is None or chain == "public" else f"{shown} ({own / public:.2f})"

    for files in made:
        outputs = {
            name: run(opened, fed(opened, probes))[0]
            for name in ("int8", "built-in")
            for opened in [interpreters[f"{files.chain} {name}"]]
        }
        held, needless = copies(model, files.int8)
        int8_bytes = files.int8.stat().st_size
        sqnr = [f"{compare(reference, outputs[name]).sqnr_db:.2f}" for name in ("int8", "built-in")]
        yield (
            subject.name,
            files.chain,
            f"{files.fp32.stat().st_size:,}",
            f"{int8_bytes:,}",
            f"{100 * (int8_bytes / floor - 1):.1f} %",
            held,
            str(needless),
            str(transposes(files.int8)),
            f"{sqnr[0]} ({sqnr[1]})",
            top1(subject, interpreters[f"{files.chain} int8"], reference, outputs["int8"]),
            timed(files.chain, "fp32"),
            timed(files.chain, "int8"),
            timed(files.chain, "built-in"),
            ram_mb(files.int8),
        )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="the Python that has litert-torch and ai-edge-quantizer")
    parser.add_argument("--peer-files", type=Path, help="keep the public chain's files here, and use those found")
    parser.add_argument("--only", action="append", choices=[*NETWORKS, "none"], help="these random networks; none")
    parser.add_argument("--checkpoint", action="append", type=Path, default=[], help="a trained .pt; repeatable")
    parser.add_argument("--arch", help="the checkpoints' package.module:callable, where they name no zoo network")
    parser.add_argument("--data", help="test images for the checkpoints: cifar10:DIR, digits …")
    parser.add_argument("--images", type=int, default=1_000, help="at most so many test images")
    parser.add_argument("--target", default="tflite", help="edgeks' target")
    parser.add_argument("--activations", action="append", help="of edgeks; repeatable; default: the target's")
    parser.add_argument("--public-only", action="store_true", help="leave edgeks out")
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def public_chain(subject: Subject, asked: argparse.Namespace, temporary: Path) -> Files:
    """The public chain's files of `subject`: those that were kept, or new ones."""
    if asked.peer_files is None:
        return public_files(subject, temporary, asked.peer_python)
    kept = [asked.peer_files / f"{subject.name}_{precision}.tflite" for precision in ("fp32", "int8")]
    if not all(path.exists() for path in kept):
        made = public_files(subject, temporary, asked.peer_python)
        asked.peer_files.mkdir(parents=True, exist_ok=True)
        for path, source in zip(kept, (made.fp32, made.int8), strict=True):
            shutil.copy(source, path)
    return Files("public", *kept)


def chains_of(subject: Subject, asked: argparse.Namespace, folder: Path) -> list[tuple[str, Callable[[], Files]]]:
    """What makes files of `subject`, by name: edgeks' kinds, the public chain, and its file with sharing restored."""
    made: list[Files] = []

    def public() -> Files:
        made.append(public_chain(subject, asked, folder))
        return made[0]

    kinds = [] if asked.public_only else asked.activations or [None]
    return [
        *(
            (f"edgeks {kind or ''}".strip(), partial(edgeks_files, subject, folder, asked.target, kind))
            for kind in kinds
        ),
        ("public", public),
        ("public, restored", lambda: restored_files(made[0], folder)),
    ]


def command_line() -> str:
    """The command without this machine's folders."""
    own = {"--peer-python": "PYTHON", "--peer-files": "DIR"}
    words = [own.get(before, shortened(word)) for before, word in pairwise(sys.argv)]
    return " ".join(["python benchmarks/tflite_peers.py", *words])


def main() -> None:
    """Print the page."""
    asked = arguments()
    if asked.peer_python is None and asked.peer_files is None:
        raise SystemExit("--peer-python: name the Python that has litert-torch and ai-edge-quantizer, or --peer-files")
    torch.set_num_threads(1)
    names = [] if asked.only == ["none"] else asked.only or list(NETWORKS)
    subjects: list[Callable[[], Subject]] = [lambda name=name: random_subject(name, NETWORKS[name]) for name in names]
    for path in asked.checkpoint:
        subjects.append(lambda path=path: trained_subject(path, asked.arch, asked.data, asked.images))
    print("# TFLite: edgeks and the public chain\n")
    print(f"`{command_line()}`")
    print(f"on {cpu_name()}, LiteRT {ai_edge_litert.__version__}, torch {torch.__version__}, target {asked.target}.")
    print(NOTES)
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
    for make in subjects:
        subject = make()
        with tempfile.TemporaryDirectory() as name:
            chains = chains_of(subject, asked, Path(name))
            for row in rows(subject, chains, asked.rounds):
                print(f"| {' | '.join((*row, *[''] * (len(HEADINGS) - len(row))))} |", flush=True)


if __name__ == "__main__":
    main()
