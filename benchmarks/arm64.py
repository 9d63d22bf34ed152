"""RAM and instructions on emulated arm64 cores, of every lean form and profile, with RAM as predicted:

python benchmarks/arm64.py --peer-python .venv-litert-torch/bin/python > docs/results/arm64.md

Every row is a fresh process on an emulated core (`emulated.py`). With --keep a run that was interrupted goes on, and
takes what `instructions.py` measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import ram
import torch
from emulated import Case, Emulated, Figures, arguments, command_line, machine_line, million, repeatability
from form_files import SUBJECTS, Block, Files
from instructions import PAIRS, Line, lines_of

from edgeks.audit.footprint import Footprint, footprint
from edgeks.errors import EdgeksError
from edgeks.runtime_profile import COMPILED, PROFILES

CPUS = ("cortex-a72", "cortex-a76", "cortex-a53")
ONLY_TFLITE = "cortex-a53"
TFLITE: tuple[Block, ...] = ("int8 TFLite", "fp32 TFLite")
Recipe = tuple[Block, str, str, Callable[[Files], Path]]
NOTES = """
Big is one 3×3 kernel of 512 channels (2.36 MB in int8, 9.44 in fp32) that twelve layers read, on 512×8×8. RAM in MB
above the process that has imported the runtime, after two inferences, one thread. *RSS* is *anonymous* (heap, packed
kernels and activations: what no file backs), *mapped* (pages of the model's file) and *libraries* (pages of the
runtime's code that became resident). *Instructions*: million, of the second inference: no cycles, and no latency.
Emulation changes how long an inference takes, not which pages it touches.
"""
PREDICTED = """
What `edgeks footprint FILE` predicts for arm64 (mapped to library, and their sum, the most that is resident while it
runs), and what was measured in the machine; MB. **!** marks an error above 10 % and 1 MB. The prediction is of five
inferences, the measurement of two: LiteRT's loops (rolled .tflite) leave more on the heap with each of the first.
"""


def _edgeks(*which: str | None) -> Callable[[Files], Path]:
    return lambda files: files.exported(*which)  # type: ignore[arg-type]


def _public(*which: str) -> Callable[[Files], Path]:
    return lambda files: files.public(*which)  # type: ignore[arg-type]


def s8_loop(files: Files) -> Path:
    """The rolled file with s8 activations, which edgeks never writes: the same codes − 128."""
    source = files.exported("onnx", "rolled", "static")
    path = source.with_name(f"{source.stem}_s8_activations.onnx")
    if not path.exists():
        model = onnx.load(source)
        unsigned, signed = onnx.TensorProto.UINT8, onnx.TensorProto.INT8
        for constant in model.graph.initializer:
            if constant.data_type == unsigned:
                codes = (onnx.numpy_helper.to_array(constant).astype(np.int16) - 128).astype(np.int8)
                constant.CopyFrom(onnx.numpy_helper.from_array(codes, constant.name))
        bodies = [attribute.g for node in model.graph.node for attribute in node.attribute if attribute.HasField("g")]
        for value in (value for body in bodies for value in (*body.input, *body.output, *body.value_info)):
            if value.type.tensor_type.elem_type == unsigned:
                value.type.tensor_type.elem_type = signed
        del model.graph.value_info[:]
        onnx.save(model, path)
    return path


U8_0 = _edgeks("onnx", "unrolled", "static", "zero point 0")
U8 = _edgeks("onnx", "unrolled", "static")
S8 = _edgeks("onnx", "unrolled", "static", "s8")
S8_0 = _edgeks("onnx", "unrolled", "static", "s8, zero point 0")
U8_U8 = _edgeks("onnx", "unrolled", "static", "u8 kernels")
LOOP = _edgeks("onnx", "rolled", "static")
FP32 = _edgeks("onnx", "unrolled", None)
LITE = _edgeks("tflite", "unrolled", "static")
LITE_FP32 = _edgeks("tflite", "unrolled", None)
WHILE = _edgeks("tflite", "rolled", "dynamic")

RECIPES: tuple[Recipe, ...] = (
    ("int8 ONNX", "QDQ u8, s8 kernels, zero point 0", "ort-default", U8_0),
    ("int8 ONNX", "QDQ s8, s8 kernels, zero point 0", "ort-default", S8_0),
    ("int8 ONNX", "QDQ s8, s8 kernels, zero point −1", "ort-default", S8),
    ("int8 ONNX", "QDQ s8, s8 kernels, zero point −1", "ort-lean", S8),
    ("int8 ONNX", "QDQ u8, s8 kernels, zero point −1", "ort-default", U8),
    ("int8 ONNX", "QDQ u8, u8 kernels, zero point 128", "ort-default", U8_U8),
    ("int8 ONNX", "Loop u8", "ort-default", LOOP),
    ("int8 ONNX", "Loop u8", "ort-lean", LOOP),
    ("int8 ONNX", "Loop s8", "ort-default", s8_loop),
    ("int8 ONNX", "QDQ u8, s8 kernels, zero point 0", "ort-no-prepacking", U8_0),
    ("int8 ONNX", "public chain, QOperator u8: 12 stored copies", "ort-default", Files.public_qoperator),
    ("int8 ONNX", "public chain, QDQ s8: 12 stored copies", "ort-default", _public("onnx", "int8")),
    ("int8 TFLite", "static", "litert-xnnpack", LITE),
    ("int8 TFLite", "static", "litert-builtin", LITE),
    ("int8 TFLite", "static", "tflite-runtime", LITE),
    ("int8 TFLite", "dynamic, WHILE", "litert-xnnpack", WHILE),
    ("int8 TFLite", "dynamic, WHILE", "litert-builtin", WHILE),
    ("int8 TFLite", "static, cached", "litert-cached", _edgeks("tflite", "cached", "static")),
    ("int8 TFLite", "dynamic, cached", "litert-cached", _edgeks("tflite", "cached", "dynamic")),
    ("int8 TFLite", "public chain: 12 stored copies", "litert-xnnpack", _public("tflite", "int8")),
    ("fp32 ONNX", "BN folded by ONNX Runtime", "ort-default", FP32),
    ("fp32 ONNX", "ConvBNFusion disabled", "ort-unfolded", FP32),
    ("fp32 TFLite", "fp32", "litert-xnnpack", LITE_FP32),
    ("fp32 TFLite", "fp32", "litert-builtin", LITE_FP32),
    ("fp32 TFLite", "fp32, cached", "litert-cached", _edgeks("tflite", "cached", None)),
)  # fmt: skip


def lines_of_big(files: Files) -> Iterator[Line]:
    """Every row of big, its file made."""
    for block, form, profile, make in RECIPES:
        try:
            yield Line(block, form, profile, make(files))
        except (EdgeksError, RuntimeError) as error:
            yield Line(block, form, profile, None, " ".join(str(error).split()))


def cases_of(line: Line, cpus: list[str]) -> Iterator[Case]:
    """The row on each core that it is asked of."""
    if line.path:
        yield from (Case(line.path, line.profile, cpu) for cpu in cpus if cpu != ONLY_TFLITE or line.block in TFLITE)


def resident(found: Figures | None) -> str:
    """`12.3 = **4.8** + 0.0 + 7.5`: RSS after the last inference, of anonymous, mapped and library pages."""
    if found is None or found.ram is None:
        return "–"
    run = found.ram
    libraries = run.run_bytes - run.run_anonymous_bytes - run.run_mapped_bytes
    parts = f"**{run.run_anonymous_bytes / 1e6:.1f}** + {run.run_mapped_bytes / 1e6:.1f} + {libraries / 1e6:.1f}"
    return f"{run.run_bytes / 1e6:.1f} = {parts}"


def row(line: Line, emulated: Emulated, cpus: list[str]) -> str:
    """One line of big's table."""
    if line.path is None:
        return f"| {line.name} | {line.profile} | no file: {line.failed} |" + " |" * (2 * len(cpus) - 1)
    found = {case.cpu: emulated.found(case) for case in cases_of(line, cpus)}
    counts = [million(found[cpu]) if cpu in found else "" for cpu in cpus]
    held = [resident(found[cpu]) if cpu in found else "" for cpu in cpus]
    return f"| {' | '.join([line.name, line.profile, *counts, *held])} |"


@cache
def predicted(path: Path) -> Footprint:
    """What edgeks says of the file on arm64."""
    return footprint(path, machine="arm64")


def prediction_rows(cases: Iterable[Case], emulated: Emulated) -> Iterator[tuple[str, bool | None]]:
    """Predicted beside measured, and whether it is near; a case that did not run says why, and None."""
    for case in dict.fromkeys(cases):
        found = emulated.found(case)
        if found is None:
            continue
        each = next(each for each in predicted(case.path).ram if each.profile.name == case.profile)
        each = replace(each, measured=found.ram, failed=found.failed or None)
        yield ram.row(case.path, each), ram.within(each) if found.ram else None


def table_of_big(big: list[Line], emulated: Emulated, cpus: list[str]) -> Iterator[str]:
    """Instructions and RAM of every form, on every core."""
    headings = ["form", "profile", *(f"instructions, {cpu}" for cpu in cpus)]
    headings += [f"RSS = **anonymous** + mapped + libraries, {cpu}" for cpu in cpus]
    yield f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}"
    for block in dict.fromkeys(line.block for line in big):
        yield f"| **{block}** |{' |' * (len(headings) - 1)}"
        yield from (row(line, emulated, cpus) for line in big if line.block == block)


def predictions(cases: list[Case], emulated: Emulated) -> Iterator[str]:
    """A table for each core."""
    for cpu in dict.fromkeys(case.cpu for case in cases):
        rows = list(prediction_rows((case for case in cases if case.cpu == cpu), emulated))
        yield f"\n## RAM, predicted and measured, {cpu}\n{PREDICTED}"
        yield f"| {' | '.join(ram.HEADINGS)} |\n|{'---|' * len(ram.HEADINGS)}"
        yield from (text for text, _ in rows)
        near = [near for _, near in rows if near is not None]
        yield f"\nWithin 10 % or 1 MB: {sum(near)} of {len(near)}."


def main() -> None:
    """Measure what was not yet, and print the page."""
    parser = arguments(__doc__ or "", ["big", *PAIRS], CPUS)
    parser.add_argument("--files", nargs="*", type=Path, default=[], help="more files, under every profile")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder, first = asked.keep or Path(temporary), asked.cpus[0]
        emulated = Emulated(folder)
        big = list(lines_of_big(Files(SUBJECTS["big"](), folder, asked.peer_python))) if "big" in asked.networks else []
        cases = [case for cpu in asked.cpus for line in big for case in cases_of(line, [cpu])]
        for name in (name for name in asked.networks if name in PAIRS):
            cases += [case for line in lines_of(name, folder, asked.peer_python) for case in cases_of(line, [first])]
        for path in asked.files:
            usual = (
                each for each in PROFILES["onnx" if path.suffix == ".onnx" else "tflite"] if each.runtime != COMPILED
            )
            cases += [Case(path, profile.name, first) for profile in usual]
        again = [case for case in cases[:1] for case in (case, replace(case, repeat=1))]
        if not asked.measured_only:
            emulated.measure([*again, *cases])
        print(f"# RAM and instructions on arm64\n\n`{command_line('arm64')}`\n{machine_line(emulated, cases)}")
        print(f"{NOTES}\n{repeatability(emulated, again)}")
        if big:
            print("\n## Big\n", *table_of_big(big, emulated, asked.cpus), sep="\n")
        print(*predictions(cases, emulated), sep="\n")


if __name__ == "__main__":
    main()
