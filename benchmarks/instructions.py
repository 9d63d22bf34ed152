"""Arm instructions per inference: shared and unshared, rolled and unrolled, edgeks and the public chains.

python benchmarks/instructions.py --peer-python .venv-litert-torch/bin/python > docs/results/instructions.md

Every figure is of a fresh process on an emulated core (`emulated.py`). With --keep a run that was interrupted goes on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from emulated import Case, Emulated, arguments, command_line, machine_line, million, repeatability
from form_files import BLOCKS, Block, Files, of_subject
from int8_peers import NETWORKS, SharedVGG, from_zoo
from torch import nn

from edgeks.errors import EdgeksError
from edgeks.models import zoo

ORDER: tuple[Block, ...] = ("int8 ONNX", "int8 TFLite", "fp32 ONNX", "fp32 TFLite")  # of measuring
CPUS = ("cortex-a72", "cortex-a76")
NOTES = """
Million instructions of one inference, the second of a process, one thread. *Unshared*: the same network with a kernel
of its own in every layer, random as the shared one. *Anonymous*: MB above the process that has imported the runtime, on
the first core. *auto*: what edgeks chooses for int8 TFLite: static, and dynamic for a ConvMixer. *s8*, *u8*:
activations; *zero point*: of kernels that layers share. Rolled .onnx files have u8 activations, rolled .tflite files
dynamic ones: the unrolled form beside them has the same. Weights are random. The files are those that `edgeks export`
writes for the targets `onnx`, `tflite` (XNNPACK) and `rpi-4-tflite` (built-in kernels); the public chains are
torch.onnx.export → onnxsim → quantize_static and litert-torch → ai-edge-quantizer.
"""


class UnsharedVGG(SharedVGG):
    """The same with a kernel in every layer."""

    def __init__(self) -> None:
        super().__init__()
        for conv in (module for module in self.convs if isinstance(module, nn.Conv2d)):
            conv.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty_like(conv.weight), a=5**0.5))


def convmixer(kernels: int) -> Callable[[], nn.Module]:
    """ConvMixer-128/8; 0 kernels: one per layer."""
    config = {"dim": 128, "depth": 8, "kernel_size": 9, "patch_size": 1, "kernels": kernels}
    return lambda: zoo.build("convmixer", config, seed=0)


@dataclass(frozen=True)
class Pair:
    """Files of a network, and of the same one with a kernel per layer."""

    shared: Files
    unshared: Files


# Name → the network with shared kernels and without.
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "se_resnet_d4_shared": (NETWORKS["se_resnet_d4_shared"], from_zoo("se_resnet_d4")),
    "s_vgg_256": (NETWORKS["s_vgg_256"], UnsharedVGG),
    "convmixer_128_8_2k": (convmixer(2), convmixer(0)),
}

Recipe = tuple[Block, str, str, Callable[[Pair], Path]]


def _public(*which: str) -> Callable[[Pair], Path]:
    return lambda pair: pair.shared.public(*which)  # type: ignore[arg-type]


def _shared(*which: str | None) -> Callable[[Pair], Path]:
    return lambda pair: pair.shared.exported(*which)  # type: ignore[arg-type]


def _unshared(*which: str | None) -> Callable[[Pair], Path]:
    return lambda pair: pair.unshared.exported(*which)  # type: ignore[arg-type]


RECIPES: tuple[Recipe, ...] = (
    ("int8 ONNX", "public chain", "ort-default", _public("onnx", "int8")),
    ("int8 ONNX", "unshared, s8", "ort-lean", _unshared("onnx", "unrolled", "static", "s8")),
    ("int8 ONNX", "s8, zero point 0", "ort-lean", _shared("onnx", "unrolled", "static", "s8, zero point 0")),
    ("int8 ONNX", "s8, zero point −1", "ort-lean", _shared("onnx", "unrolled", "static", "s8")),
    ("int8 ONNX", "u8, zero point 0", "ort-lean", _shared("onnx", "unrolled", "static", "zero point 0")),
    ("int8 ONNX", "u8, zero point −1", "ort-lean", _shared("onnx", "unrolled", "static")),
    ("int8 ONNX", "rolled (u8), zero point −1", "ort-lean", _shared("onnx", "rolled", "static")),
    ("int8 TFLite", "public chain", "litert-xnnpack", _public("tflite", "int8")),
    ("int8 TFLite", "public chain", "litert-builtin", _public("tflite", "int8")),
    ("int8 TFLite", "unshared, auto", "litert-xnnpack", _unshared("tflite", "unrolled", "auto")),
    ("int8 TFLite", "unshared, auto", "litert-builtin", _unshared("rpi-4-tflite", "unrolled", "auto")),
    ("int8 TFLite", "auto", "litert-xnnpack", _shared("tflite", "unrolled", "auto")),
    ("int8 TFLite", "auto", "litert-builtin", _shared("rpi-4-tflite", "unrolled", "auto")),
    ("int8 TFLite", "auto", "tflite-runtime", _shared("rpi-4-tflite", "unrolled", "auto")),
    ("int8 TFLite", "dynamic", "litert-xnnpack", _shared("tflite", "unrolled", "dynamic")),
    ("int8 TFLite", "dynamic", "litert-builtin", _shared("rpi-4-tflite", "unrolled", "dynamic")),
    ("int8 TFLite", "rolled (dynamic)", "litert-xnnpack", _shared("tflite", "rolled", "dynamic")),
    ("int8 TFLite", "rolled (dynamic)", "litert-builtin", _shared("rpi-4-tflite", "rolled", "dynamic")),
    ("fp32 ONNX", "public chain", "ort-default", _public("onnx", "fp32")),
    ("fp32 ONNX", "unshared", "ort-lean", _unshared("onnx", "unrolled", None)),
    ("fp32 ONNX", "unrolled", "ort-lean", _shared("onnx", "unrolled", None)),
    ("fp32 ONNX", "rolled", "ort-lean", _shared("onnx", "rolled", None)),
    ("fp32 TFLite", "public chain", "litert-xnnpack", _public("tflite", "fp32")),
    ("fp32 TFLite", "unshared", "litert-xnnpack", _unshared("tflite", "unrolled", None)),
    ("fp32 TFLite", "unrolled", "litert-xnnpack", _shared("tflite", "unrolled", None)),
    ("fp32 TFLite", "unrolled", "litert-builtin", _shared("rpi-4-tflite", "unrolled", None)),
    ("fp32 TFLite", "rolled", "litert-xnnpack", _shared("tflite", "rolled", None)),
)

# What is compared: block, the one form and the other, of the same profile but for the public chain's own.
SHARED, ROLLED, PUBLIC = "shared ÷ unshared", "rolled ÷ unrolled", "edgeks ÷ public chain"
XNNPACK, BUILTIN = "litert-xnnpack", "litert-builtin"
COMPARISONS: tuple[tuple[str, Block, str, tuple[str, str], tuple[str, str]], ...] = (
    (SHARED, "int8 ONNX", "s8, zero point 0", ("s8, zero point 0", "ort-lean"), ("unshared, s8", "ort-lean")),
    (SHARED, "int8 ONNX", "s8, zero point −1", ("s8, zero point −1", "ort-lean"), ("unshared, s8", "ort-lean")),
    (SHARED, "int8 TFLite", "XNNPACK", ("auto", XNNPACK), ("unshared, auto", XNNPACK)),
    (SHARED, "int8 TFLite", "built-in", ("auto", BUILTIN), ("unshared, auto", BUILTIN)),
    (SHARED, "fp32 ONNX", "", ("unrolled", "ort-lean"), ("unshared", "ort-lean")),
    (SHARED, "fp32 TFLite", "XNNPACK", ("unrolled", XNNPACK), ("unshared", XNNPACK)),
    (ROLLED, "int8 ONNX", "u8", ("rolled (u8), zero point −1", "ort-lean"), ("u8, zero point −1", "ort-lean")),
    (ROLLED, "int8 TFLite", "dynamic, XNNPACK", ("rolled (dynamic)", XNNPACK), ("dynamic", XNNPACK)),
    (ROLLED, "int8 TFLite", "dynamic, built-in", ("rolled (dynamic)", BUILTIN), ("dynamic", BUILTIN)),
    (ROLLED, "fp32 ONNX", "", ("rolled", "ort-lean"), ("unrolled", "ort-lean")),
    (ROLLED, "fp32 TFLite", "XNNPACK", ("rolled", XNNPACK), ("unrolled", XNNPACK)),
    (PUBLIC, "int8 ONNX", "s8, zero point −1", ("s8, zero point −1", "ort-lean"), ("public chain", "ort-default")),
    (PUBLIC, "int8 TFLite", "XNNPACK", ("auto", XNNPACK), ("public chain", XNNPACK)),
    (PUBLIC, "int8 TFLite", "built-in", ("auto", BUILTIN), ("public chain", BUILTIN)),
    (PUBLIC, "fp32 ONNX", "", ("unrolled", "ort-lean"), ("public chain", "ort-default")),
    (PUBLIC, "fp32 TFLite", "XNNPACK", ("unrolled", XNNPACK), ("public chain", XNNPACK)),
)


@dataclass(frozen=True)
class Line:
    """A row of a network's table: its file, or why there is none."""

    block: Block
    name: str
    profile: str
    path: Path | None
    failed: str = ""


def lines_of(name: str, folder: Path, peer_python: Path | None) -> Iterator[Line]:
    """Every row of a network, its file made."""
    names = name, f"{name}_unshared"
    networks = map(of_subject, names, PAIRS[name])
    pair = Pair(*(Files(network, folder, peer_python) for network in networks))
    for block, form, profile, make in RECIPES:
        try:
            yield Line(block, form, profile, make(pair))
        except (EdgeksError, RuntimeError) as error:
            yield Line(block, form, profile, None, " ".join(str(error).split()))


def row(line: Line, emulated: Emulated, cpus: list[str]) -> str:
    """One line of a network's table."""
    if line.path is None:
        return f"| {line.name} | {line.profile} | no file: {line.failed} |" + " |" * (len(cpus) + 2)
    found = [emulated.found(Case(line.path, line.profile, cpu)) for cpu in cpus]
    ram = next((each.ram for each in found if each and each.ram), None)
    held = [ram.loaded_anonymous_bytes, ram.run_anonymous_bytes] if ram else []
    cells = [
        line.name,
        line.profile,
        f"{line.path.stat().st_size:,}",
        *map(million, found),
        *([f"{size / 1e6:.1f}" for size in held] or ["–", "–"]),
    ]
    return f"| {' | '.join(cells)} |"


def ratio(lines: list[Line], emulated: Emulated, cpu: str, block: Block, *forms: tuple[str, str]) -> str:
    """Instructions of the one form over those of the other; – where one of them has none."""
    counts = []
    for form in forms:
        line = next(line for line in lines if (line.block, line.name, line.profile) == (block, *form))
        found = emulated.found(Case(line.path, line.profile, cpu)) if line.path else None
        counts.append(found.instructions[-1] if found and found.instructions else 0)
    return f"{counts[0] / counts[1]:.3f}" if all(counts) else "–"


def comparisons(networks: dict[str, list[Line]], emulated: Emulated, cpus: list[str]) -> Iterator[str]:
    """The table of ratios: a line for each comparison, a column for each network on each core."""
    columns = [(name, cpu) for cpu in cpus for name in networks]
    yield f"| | | | {' | '.join(f'{name}, {cpu}' for name, cpu in columns)} |"
    yield f"|{'---|' * (3 + len(columns))}"
    for kind, block, what, *forms in COMPARISONS:
        ratios = [ratio(networks[name], emulated, cpu, block, *forms) for name, cpu in columns]
        yield f"| {kind} | {block} | {what} | {' | '.join(ratios)} |"


def main() -> None:
    """Measure what was not yet, and print the page."""
    asked = arguments(__doc__ or "", list(PAIRS), CPUS).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        emulated = Emulated(folder)
        networks = {name: list(lines_of(name, folder, asked.peer_python)) for name in asked.networks}
        lines = [line for block in ORDER for each in networks.values() for line in each if line.block == block]
        cases = [Case(line.path, line.profile, cpu) for cpu in asked.cpus for line in lines if line.path]
        again = [case for case in cases[:1] for case in (case, replace(case, repeat=1))]
        if not asked.measured_only:
            emulated.measure([*again, *cases])
        print(f"# Arm instructions per inference\n\n`{command_line('instructions')}`\n{machine_line(emulated, cases)}")
        print(f"{NOTES}\n{repeatability(emulated, again)}\n\n## Ratios\n")
        print("\n".join(comparisons(networks, emulated, asked.cpus)))
        headings = ("form", "profile", "file bytes", *asked.cpus, "anonymous, open", "anonymous, after run")
        for name, rows in networks.items():
            print(f"\n## {name}\n\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
            for block in BLOCKS:
                print(f"| **{block}** |{' |' * (len(headings) - 1)}")
                print("\n".join(row(line, emulated, asked.cpus) for line in rows if line.block == block))


if __name__ == "__main__":
    main()
