"""Which form of an op LiteRT runs fastest: python benchmarks/tflite_ops.py > docs/results/tflite_ops.md

Every form is a flatbuffer of one or a few operators, built by hand. All forms of one group take turns in one process:
their ratios mean something where the milliseconds do not.
"""

import itertools
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from tflite_by_hand import ACTIVATION, SAME, VALID, TfliteGraph

from edgeks.formats.tflite.delegation import partition
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.target import LiteRtSession

ROUNDS = 40
SIDE = 32
SCALE = 0.05  # of int8 activations
SESSIONS = {"xnnpack": LiteRtSession(1, "xnnpack"), "builtin": LiteRtSession(1, "builtin")}
PREAMBLE = """# TFLite: the fastest form per op

`python benchmarks/tflite_ops.py > docs/results/tflite_ops.md`

{cpu}, LiteRT {version}, one thread, 32×32 maps. The fastest of {rounds} runs; the forms of a group take turns in
one process. "ratio" is to the group's first form, on the same kernels: above 1 is faster. "left": operators that the
default delegate (XNNPACK) leaves to the built-in kernels. Random kernels, int8 with one scale per output channel.
"""
Form = Callable[[TfliteGraph], tuple[int, int]]
rng = np.random.default_rng(0)


def fed(g: TfliteGraph, channels: int, dtype: str = "float32", side: int = SIDE) -> int:
    """The input 1 × side × side × channels."""
    return g.tensor([1, side, side, channels], dtype, SCALE if dtype == "int8" else None)


def like(g: TfliteGraph, x: int, dtype: str | None = None, channels: int | None = None) -> int:
    """A tensor to be computed, of the shape of `x`."""
    shape = list(g.tensors[x].shape)
    dtype = dtype or ("int8" if is_int8(g, x) else "float32")
    return g.tensor([*shape[:-1], channels or shape[-1]], dtype, SCALE if dtype == "int8" else None)


def is_int8(g: TfliteGraph, x: int) -> bool:
    """Whether `x` holds codes."""
    return bool(g.tensors[x].quantization.scale)


def weight(g: TfliteGraph, shape: tuple[int, ...], axis: int, stored: str) -> int:
    """A kernel: float32, int8, or int8 behind a DEQUANTIZE ("dequantize")."""
    if stored == "float32":
        return g.constant(rng.standard_normal(shape).astype(np.float32) * 0.05)
    codes = g.constant(rng.integers(-127, 128, shape).astype(np.int8), np.full(shape[axis], 0.001), 0, axis)
    return codes if stored == "int8" else g.op("DEQUANTIZE", [codes], g.tensor(shape), table="DequantizeOptions")


def bias(g: TfliteGraph, x: int, channels: int) -> int:
    """float32, or int32 where `x` holds codes."""
    if is_int8(g, x):
        return g.constant(rng.integers(-99, 99, channels).astype(np.int32), np.full(channels, 0.001 * SCALE))
    return g.constant(rng.standard_normal(channels).astype(np.float32))


def depthwise(
    g: TfliteGraph, x: int, k: Any, stored: str, dilation: Any = (1, 1), pads: Any = None, multiplier: int = 1
) -> int:
    """k × k, or of size `k` = (rows, columns); `pads` (rows, columns; None: SAME) go ahead as PAD."""
    kh, kw = (k, k) if isinstance(k, int) else k
    channels = int(g.tensors[x].shape[-1])
    outputs = channels * multiplier
    out = like(g, x, channels=outputs)
    w, b = weight(g, (1, kh, kw, outputs), 3, stored), bias(g, x, outputs)
    if pads is not None:
        shape = [1, *(SIDE + sum(p) for p in pads), channels]
        padded = g.tensor(shape, "int8" if is_int8(g, x) else "float32", SCALE if is_int8(g, x) else None)
        amounts = g.constant(np.array([(0, 0), *pads, (0, 0)], np.int32))
        x = g.op("PAD", [x, amounts], padded, table="PadOptions")
    return g.op(
        "DEPTHWISE_CONV_2D", [x, w, b], out, table="DepthwiseConv2DOptions", padding=SAME if pads is None else VALID,
        strideH=1, strideW=1, depthMultiplier=multiplier, dilationHFactor=dilation[0], dilationWFactor=dilation[1],
    )  # fmt: skip


def tiles(g: TfliteGraph, x: int, k: int, stored: str, phases: tuple[int, int], multiplier: int = 1) -> int:
    """k × k as dilated convolutions, one for each of `phases` along rows and columns, and their sum."""
    total = None
    for first in itertools.product(*map(range, phases)):
        taps = [range(f, k, step) for f, step in zip(first, phases, strict=True)]
        pads = [(k // 2 - t[0], k // 2 - (k - 1 - t[-1])) for t in taps]
        centred = all(begin == end for begin, end in pads)
        size = [len(t) for t in taps]
        tile = depthwise(g, x, size, stored, phases, None if centred else pads, multiplier)
        total = tile if total is None else add(g, total, tile)
    assert total is not None
    return total


def conv(g: TfliteGraph, x: int, k: int, stored: str, activation: int = 0, channels: int | None = None) -> int:
    """Dense k × k with bias."""
    inputs = int(g.tensors[x].shape[-1])
    outputs = channels or inputs
    w, b = weight(g, (outputs, k, k, inputs), 0, stored), bias(g, x, outputs)
    return g.op(
        "CONV_2D", [x, w, b], like(g, x, channels=outputs), table="Conv2DOptions", padding=SAME, strideH=1, strideW=1,
        dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=activation,
    )  # fmt: skip


def dense(g: TfliteGraph, x: int, stored: str, outputs: int, activation: int = 0, keep: bool = False) -> int:
    """FULLY_CONNECTED over the last axis."""
    w = weight(g, (outputs, int(g.tensors[x].shape[-1])), 0, stored)
    return g.op(
        "FULLY_CONNECTED", [x, w, bias(g, x, outputs)], like(g, x, channels=outputs), table="FullyConnectedOptions",
        fusedActivationFunction=activation, keepNumDims=keep,
    )  # fmt: skip


def add(g: TfliteGraph, x: int, y: int, activation: int = 0) -> int:
    """x + y."""
    return g.op("ADD", [x, y], like(g, x), table="AddOptions", fusedActivationFunction=activation)


def mul(g: TfliteGraph, x: int, y: int, activation: int = 0) -> int:
    """x · y."""
    return g.op("MUL", [x, y], like(g, x), table="MulOptions", fusedActivationFunction=activation)


def vector(g: TfliteGraph, x: int) -> int:
    """One constant per channel, of the type of `x`."""
    channels = int(g.tensors[x].shape[-1])
    if is_int8(g, x):
        return g.constant(rng.integers(-99, 99, channels).astype(np.int8), SCALE)
    return g.constant(rng.standard_normal(channels).astype(np.float32))


def unary(g: TfliteGraph, x: int, op: str, **options: Any) -> int:
    """`op` element by element; LOGISTIC's and TANH's codes have the scale that TFLite asks for."""
    out = like(g, x)
    if is_int8(g, x) and op in ("LOGISTIC", "TANH"):
        out = g.tensor(g.tensors[x].shape, "int8", 1 / (256 if op == "LOGISTIC" else 128), -128 * (op == "LOGISTIC"))
    return g.op(op, [x], out, **options)


def in_float(g: TfliteGraph, x: int, op: str, **options: Any) -> int:
    """DEQUANTIZE → `op` → QUANTIZE."""
    real = g.op("DEQUANTIZE", [x], like(g, x, "float32"), table="DequantizeOptions")
    made = g.op(op, [real], like(g, x, "float32"), **options)
    return g.op("QUANTIZE", [made], like(g, x), table="QuantizeOptions")


def pool(g: TfliteGraph, x: int, form: str) -> int:
    """Mean over the map, 1 × 1 × 1 × C."""
    channels, codes = int(g.tensors[x].shape[-1]), is_int8(g, x)
    out = g.tensor([1, 1, 1, channels], "int8" if codes else "float32", SCALE if codes else None)
    if form == "MEAN":
        return g.op("MEAN", [x, g.constant(np.array([1, 2], np.int32))], out, table="ReducerOptions", keepDims=True)
    return g.op(
        "AVERAGE_POOL_2D", [x], out, table="Pool2DOptions", padding=VALID, strideH=SIDE, strideW=SIDE,
        filterHeight=SIDE, filterWidth=SIDE,
    )  # fmt: skip


def squeeze_excite(g: TfliteGraph, x: int, mean: str, layer: str) -> int:
    """x · sigmoid(W₂·relu(W₁·mean(x)))."""
    stored, channels = ("int8" if is_int8(g, x) else "float32"), int(g.tensors[x].shape[-1])
    s = pool(g, x, mean)
    if layer == "CONV_2D":
        s = conv(g, conv(g, s, 1, stored, ACTIVATION.RELU, channels // 4), 1, stored, channels=channels)
    else:
        s = dense(g, dense(g, s, stored, channels // 4, ACTIVATION.RELU, True), stored, channels, keep=True)
    return mul(g, x, unary(g, s, "LOGISTIC"))


def of(channels: int, dtype: str, body: Callable[[TfliteGraph, int], int], side: int = SIDE) -> Form:
    """A form with one input."""

    def form(g: TfliteGraph) -> tuple[int, int]:
        x = fed(g, channels, dtype, side)
        return x, body(g, x)

    return form


def affine(g: TfliteGraph, x: int) -> int:
    """BN as MUL and ADD."""
    return add(g, mul(g, x, vector(g, x)), vector(g, x))


# Kernel size → phases (rows, columns) that are compared with the kernel as a whole.
TILINGS = {
    7: ((4, 2), (2, 4), (3, 1), (3, 2), (3, 3), (2, 2)),
    9: ((3, 3), (2, 2), (5, 1), (3, 4), (3, 2)),
    11: ((3, 2), (2, 3), (4, 4), (3, 5), (3, 3)),
    13: ((3, 3), (4, 5), (5, 2), (4, 4), (5, 5)),
}
F, Q, D = "float32", "int8", "dequantize"
RELU, HSWISH = ACTIVATION.RELU, {"table": "HardSwishOptions"}
EXACT, TANH_GELU = {"table": "GeluOptions", "approximate": False}, {"table": "GeluOptions", "approximate": True}


def groups() -> dict[str, dict[str, Form]]:
    """Title → forms; those of one group compute the same up to quantisation."""
    table: dict[str, dict[str, Form]] = {}
    for k, tilings in TILINGS.items():
        table[f"depthwise {k}×{k}, 384 channels"] = {"float": of(384, F, lambda g, x, k=k: depthwise(g, x, k, F))} | {
            f"float, {n * m} tiles of dilation {n}×{m}": of(384, F, lambda g, x, k=k, p=(n, m): tiles(g, x, k, F, p))
            for n, m in tilings
        }
    table["depthwise 9×9, 384 channels"] |= {
        "9 tiles of dilation 3×3, int8 kernels behind DEQUANTIZE": of(384, F, lambda g, x: tiles(g, x, 9, D, (3, 3))),
        "float activations, int8 kernel (dynamic)": of(384, F, lambda g, x: depthwise(g, x, 9, Q)),
        "int8": of(384, Q, lambda g, x: depthwise(g, x, 9, Q)),
        "int8, 9 tiles of dilation 3×3": of(384, Q, lambda g, x: tiles(g, x, 9, Q, (3, 3))),
        "int8, 4 tiles of dilation 2×2": of(384, Q, lambda g, x: tiles(g, x, 9, Q, (2, 2))),
    }
    table["depthwise 9×9, 64 → 128 channels (multiplier 2)"] = {
        "float": of(64, F, lambda g, x: depthwise(g, x, 9, F, multiplier=2)),
        "float, 4 tiles of dilation 2×2": of(64, F, lambda g, x: tiles(g, x, 9, F, (2, 2), 2)),
        "float, 9 tiles of dilation 3×3": of(64, F, lambda g, x: tiles(g, x, 9, F, (3, 3), 2)),
    }
    for k in (3, 5, 7):
        table[f"depthwise {k}×{k}, 64 channels"] = {
            "float": of(64, F, lambda g, x, k=k: depthwise(g, x, k, F)),
            "int8 kernel behind DEQUANTIZE": of(64, F, lambda g, x, k=k: depthwise(g, x, k, D)),
            "float activations, int8 kernel (dynamic)": of(64, F, lambda g, x, k=k: depthwise(g, x, k, Q)),
            "int8": of(64, Q, lambda g, x, k=k: depthwise(g, x, k, Q)),
        }
    for title, channels, k in (("pointwise, 384 → 384", 384, 1), ("3×3, 64 → 64", 64, 3)):
        table[title] = {
            "float": of(channels, F, lambda g, x, k=k: conv(g, x, k, F)),
            "int8 kernel behind DEQUANTIZE": of(channels, F, lambda g, x, k=k: conv(g, x, k, D)),
            "float activations, int8 kernel (dynamic)": of(channels, F, lambda g, x, k=k: conv(g, x, k, Q)),
            "int8 kernel and activations (static)": of(channels, Q, lambda g, x, k=k: conv(g, x, k, Q)),
        }
    table["pointwise, 384 → 384"] |= {
        "dynamic, as FULLY_CONNECTED": of(384, F, lambda g, x: dense(g, x, Q, 384, keep=True)),
        "float, as FULLY_CONNECTED": of(384, F, lambda g, x: dense(g, x, F, 384, keep=True)),
    }
    for channels in (384, 64):
        table[f"GELU, {channels} channels"] = {
            "float, exact": of(channels, F, lambda g, x: unary(g, x, "GELU", **EXACT)),
            "float, approximate (tanh)": of(channels, F, lambda g, x: unary(g, x, "GELU", **TANH_GELU)),
            "int8": of(channels, Q, lambda g, x: unary(g, x, "GELU", **EXACT)),
            "DEQUANTIZE, exact, QUANTIZE": of(channels, Q, lambda g, x: in_float(g, x, "GELU", **EXACT)),
        }
    table["BN that stays (after GELU), 384 channels"] = {
        "float, MUL and ADD": of(384, F, affine),
        "float, depthwise 1×1 with bias": of(384, F, lambda g, x: depthwise(g, x, 1, F)),
        "float, MUL alone (shift moved on)": of(384, F, lambda g, x: mul(g, x, vector(g, x))),
        "int8, MUL and ADD": of(384, Q, affine),
        "int8, depthwise 1×1 with bias": of(384, Q, lambda g, x: depthwise(g, x, 1, Q)),
    }
    table["3×3, 64 → 64, BN and ReLU, float"] = {
        "BN folded (what sharing forbids)": of(64, F, lambda g, x: conv(g, x, 3, F, RELU)),
        "CONV_2D, MUL with fused RELU": of(64, F, lambda g, x: mul(g, (y := conv(g, x, 3, F)), vector(g, y), RELU)),
        "CONV_2D, MUL, ADD with fused RELU": of(
            64, F, lambda g, x: add(g, mul(g, (y := conv(g, x, 3, F)), vector(g, y)), vector(g, y), RELU)
        ),
        "CONV_2D, depthwise 1×1, RELU": of(64, F, lambda g, x: unary(g, depthwise(g, conv(g, x, 3, F), 1, F), "RELU")),
    }
    for dtype in (F, Q):
        name = "int8" if dtype == Q else "float"
        table[f"ReLU after 3×3, 64 → 64, {name}"] = {
            "fused": of(64, dtype, lambda g, x, d=dtype: conv(g, x, 3, d, RELU)),
            "RELU": of(64, dtype, lambda g, x, d=dtype: unary(g, conv(g, x, 3, d), "RELU")),
        }
        table[f"residual add and ReLU, 64 channels, {name}"] = {
            "fused": of(64, dtype, lambda g, x: add(g, x, x, RELU)),
            "RELU": of(64, dtype, lambda g, x: unary(g, add(g, x, x), "RELU")),
        }
        for channels in (384, 64):
            table[f"global mean, {channels} channels, {name}"] = {
                form: of(channels, dtype, lambda g, x, form=form: pool(g, x, form))
                for form in ("MEAN", "AVERAGE_POOL_2D")
            }
        table[f"squeeze and excite, 64 channels, {name}"] = {
            f"{mean}, {layer}": of(64, dtype, lambda g, x, m=mean, y=layer: squeeze_excite(g, x, m, y))
            for mean in ("MEAN", "AVERAGE_POOL_2D")
            for layer in ("FULLY_CONNECTED", "CONV_2D")
        }
    for op, options in (("LOGISTIC", {}), ("TANH", {}), ("HARD_SWISH", HSWISH), ("RELU", {}), ("RELU6", {})):
        table[f"{op}, 64 channels"] = {
            "float": of(64, F, lambda g, x, op=op, o=options: unary(g, x, op, **o)),
            "int8": of(64, Q, lambda g, x, op=op, o=options: unary(g, x, op, **o)),
            "DEQUANTIZE, float, QUANTIZE": of(64, Q, lambda g, x, op=op, o=options: in_float(g, x, op, **o)),
        }
    return table


def main() -> None:
    """Print the page; an argument selects the groups whose title contains it."""
    print(PREAMBLE.format(rounds=ROUNDS, cpu=processor(), version=version("ai-edge-litert")))
    for title, forms in groups().items():
        if len(sys.argv) > 1 and sys.argv[1] not in title:
            continue
        print(f"\n## {title}\n\n| form | XNNPACK ms | ratio | left | built-in ms | ratio |\n|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            opened: dict[tuple[str, str], Interpreter] = {}
            for number, (name, form) in enumerate(forms.items()):
                g = TfliteGraph()
                x, y = form(g)
                path = g.write(Path(folder) / f"{number}.tflite", [x], [y])
                for kernels, session in SESSIONS.items():
                    opened[name, kernels] = ready(path, session)
            ms: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
            for _ in range(ROUNDS):
                for key, interpreter in opened.items():
                    start = time.perf_counter()
                    interpreter.invoke()
                    ms[key].append(1e3 * (time.perf_counter() - start))
        best = {key: min(times) for key, times in ms.items()}
        first = next(iter(forms))
        for name in forms:
            x_ms, b_ms = best[name, "xnnpack"], best[name, "builtin"]
            left = ", ".join(partition(opened[name, "xnnpack"])[2]) or "–"
            print(
                f"| {name} | {x_ms:.3f} | {best[first, 'xnnpack'] / x_ms:.2f} | {left} | "
                f"{b_ms:.3f} | {best[first, 'builtin'] / b_ms:.2f} |",
                flush=True,
            )


def ready(path: Path, session: LiteRtSession) -> Interpreter:
    """Interpreter with its input fed."""
    interpreter = open_interpreter(path, session)
    feed = interpreter.get_input_details()[0]
    x = np.random.default_rng(0).standard_normal(feed["shape"])
    interpreter.set_tensor(
        feed["index"], (x / SCALE).clip(-127, 127).astype(np.int8) if feed["dtype"] == np.int8 else x.astype(np.float32)
    )
    interpreter.invoke()
    return interpreter


def processor() -> str:
    """Name of this CPU and the instructions that int8 speed hangs on."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    name = next((fields[key].strip() for key in fields if key.strip() == "model name"), platform.machine())
    vnni = "VNNI" if "avx512_vnni" in text else "dotprod" if "asimddp" in text else "no VNNI, no dotprod"
    return f"{name}, {vnni}"


if __name__ == "__main__":
    main()
