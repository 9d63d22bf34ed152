"""What an export must satisfy before its file appears, and what is said about one that does."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator
from pathlib import Path

import onnx_ir as ir

from edgeks.errors import ConfigError, ParityFailed
from edgeks.export_io import Io
from edgeks.export_source import Source, is_quantisation_trained
from edgeks.graph.kernels import array, kernel_read, kernel_reads
from edgeks.graph.onnx_network import OnnxNetwork
from edgeks.graph.passes.split_large_kernels import MAX_TAPS, is_tile, whole
from edgeks.layer_parity import LayerParity
from edgeks.model_files.tflite_file import read_tflite
from edgeks.model_files.tflite_weight_cache import hybrid_fault, weight_cache_fault
from edgeks.parity import Parity
from edgeks.quant.options import Int8Options
from edgeks.samples import Samples
from edgeks.sharing.plan import SharingPlan
from edgeks.target import Format, Layers, Target
from edgeks.wording import first_names

# ONNX Runtime's rewrites may differ from the file's own arithmetic by this much before the report mentions it.
# XNNPACK and TFLite's own kernels round at different places anyway: 2 dB on a network of a few layers.
NOTABLE_DB: dict[Format, float] = {"onnx": 1.0, "tflite": 3.0}
RUNTIME_NAMES: dict[Format, str] = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}
LOW_AGREEMENT = 0.9
KERNEL_OPS = ("Conv", "ConvTranspose", "Gemm")


def require_options(
    source: Source,
    target: Target,
    options: Int8Options,
    *,
    int8: bool,
    io: Io,
    parity_report: bool,
    run_sensitivity: bool,
    run_simplifier: bool,
) -> None:
    """Check that what is asked for goes together; `target` has "auto" decided.

    Raises:
        ConfigError: two options exclude each other, or the source has not what one of them takes.
    """
    static, trained = int8 and target.int8.mode == "static", is_quantisation_trained(source)
    if parity_report and isinstance(source, OnnxNetwork):
        raise ConfigError(
            f"a parity report compares with torch layer by layer, and {source.path.name} is an ONNX file: "
            "leave --parity-report out, or export the checkpoint"
        )
    if parity_report and not (static and io == "float"):
        raise ConfigError(
            "a parity report compares integers inside the network: it needs --int8 with static activations and no --io"
        )
    if parity_report and target.common_scales:
        raise ConfigError(
            f"a parity report compares layer by layer, each with scales of its own, and --form {target.layers} has "
            "none such: leave --parity-report out, or choose --form unrolled"
        )
    if parity_report and options.keep_float:
        raise ConfigError("a parity report is about the whole network in int8: leave --keep-float out")
    if target.common_scales and trained:
        raise ConfigError(
            f"--form {target.layers}: the network was trained with fake quantisation, each layer with scales of its "
            "own; legal: unrolled"
        )
    if int8 and trained and (not static or options.after_training):
        raise ConfigError(
            "the network was trained with fake quantisation, which decided ranges and rounding: leave --calibration, "
            "--bias-correction, --rounding and --keep-float out, and --activations static"
        )
    if run_sensitivity and (not static or trained):
        raise ConfigError(
            "sensitivity is about static int8 after training: it needs --int8 with static activations, and a network "
            "that was not trained with fake quantisation"
        )
    if run_simplifier and int8 and (parity_report or trained):
        raise ConfigError("onnxsim loses the marks of fake-quantisers: leave --simplify out")


def require_computed_as_written(path: Path, out: Path, layers: Layers) -> None:
    """Check that no runtime computes, in silence, other numbers than the finished .tflite file at `path` says.

    Raises:
        ParityFailed: int8 layers that share kernel and bias, but not scales; a FULLY_CONNECTED on the fly with a scale
            per channel; and for "cached" all else that a weight cache would mix up.
    """
    model = read_tflite(path)
    fault = weight_cache_fault(model, integer_layers_only=layers != "cached")
    if fault:
        raise ParityFailed(
            f"{out.name}: {fault}: with a weight cache LiteRT would compute wrong numbers; no file was written. "
            "Try --form unrolled"
        )
    fault = hybrid_fault(model)
    if fault:
        raise ParityFailed(
            f"{out.name}: {fault}: tflite-runtime 2.14 would compute zeros; no file was written. "
            "Try --activations static or float"
        )


def require_parity(
    out: Path,
    target: Target,
    required: float,
    parity: Parity,
    here: Parity,
    *,
    int8: bool,
    layers: LayerParity | None = None,
    reference: str = "torch",
) -> None:
    """The file's own arithmetic must be good enough, and so must ONNX Runtime's, unless this CPU is known to saturate.

    Raises:
        ParityFailed: one of them is not.
    """
    if parity.sqnr_db < required:
        raise ParityFailed(
            f"{out.name}: {parity} against {reference}, below the {required:g} dB that target {target.name!r} asks; "
            f"no file was written{_where(layers)}. {_remedy(target, int8=int8)}, or accept it with --min-sqnr"
        )
    if here.sqnr_db < required and not (int8 and saturates_here(target)):
        raise ParityFailed(
            f"{out.name}: {here} when {RUNTIME_NAMES[target.format]} runs it with {target.name!r}'s session options, "
            f"though the file itself computes {parity.sqnr_db:.1f} dB: the runtime gets an operator of this network "
            "wrong; no file was written. Try another --form or --target, or accept it with --min-sqnr"
        )


def _where(layers: LayerParity | None) -> str:
    if layers is None:
        return ""
    first = layers.first_over_one
    return f"; the first tensor off by more than a step is {first!r}" if first else "; no tensor is off by over a step"


def _remedy(target: Target, *, int8: bool) -> str:
    """What raises the parity of such a file."""
    if not int8:
        return "Calibrate on more or other samples (--calib)"
    if target.int8.mode != "static":
        return "Try --activations float" if target.int8.mode == "dynamic" else "Its kernels lose too much in 8 bits"
    look = "see which kernel costs most (--sensitivity --min-sqnr -200)"
    return f"Calibrate on more or other samples (--calib), or {look}, or try --activations dynamic"


def require_no_tiles(plan: SharingPlan) -> None:
    """Check that a parity report can follow every layer of the network: those that become tiles it cannot.

    Fake quantisers for TFLite stand where the file with tiles quantises, whatever the kernels of the session.

    Raises:
        ConfigError: a layer is split.
    """
    split = [whole(layer) for group in plan.kernels for layer in group.layers if is_tile(layer)]
    if split:
        raise ConfigError(
            f"a parity report compares integers layer by layer, and {split[0]!r} is split into float tiles for TFLite "
            f"(its kernel has more than {MAX_TAPS} taps): leave --parity-report out"
        )


def saturates_here(target: Target) -> bool:
    """Whether u8×s8 products saturate on this CPU: ONNX Runtime on x86-64 without VNNI, for kernels of s8."""
    scheme = target.int8
    if (
        target.format != "onnx"
        or platform.machine() not in ("x86_64", "AMD64")
        or scheme.weights != "int8"
        or scheme.mode == "float"
    ):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True  # not Linux: it cannot be told


def layers_outside(model: ir.Model, *, int8: bool, asked: Collection[str] = ()) -> Iterator[str]:
    """Layers that the proof or the quantisation does not reach, and why; `asked` were to be kept in float."""
    computed = [str(node.name) for node in model.graph if node.op_type in KERNEL_OPS and kernel_read(node) is None]
    if computed:
        yield f"outside the proof and in float, since their kernel is computed at run time: {first_names(computed)}"
    floats = [str(read.node.name) for read in kernel_reads(model) if array(read.kernel).dtype.kind == "f"]
    wanted, others = ([name for name in floats if (name in asked) is told] for told in (True, False))
    if int8 and wanted:
        yield f"kept in float, as asked: {first_names(wanted)}"
    if int8 and others:
        yield f"kept in float: {first_names(others)} (the ledger's quantize_kernels row says why)"


def not_trained(names: tuple[str, ...]) -> Iterator[str]:
    """What quantisation-aware training could not see, so that the export had to decide."""
    if names:
        found = first_names(list(names))
        yield f"int8 in the file, but not trained with fake quantisation: {found} (inside one operator of torch)"


def doubts(
    samples: Samples, parity: Parity, here: Parity, target: Target, file_bytes: int, *, int8: bool
) -> tuple[str, ...]:
    """What a reader of the figures should know."""
    found = []
    if not samples.real:
        found.append("compared on random noise: pass --calib with real samples for a figure that means something")
    if (
        int8
        and here.sqnr_db < parity.sqnr_db - NOTABLE_DB[target.format]
        and (target.int8.mode == "static" or saturates_here(target))
    ):
        cause = "try another --form" if target.format == "onnx" else "its kernels round in other places"
        if saturates_here(target):
            cause = "u8×s8 products saturate on it, which target onnx-x64 avoids"
        figures = f"{here.sqnr_db:.1f} dB instead of {parity.sqnr_db:.1f} dB"
        found.append(f"{RUNTIME_NAMES[target.format]} on this CPU gives {figures}; {cause}")
    if parity.top1_agreement is not None and parity.top1_agreement < LOW_AGREEMENT:
        found.append(
            f"only {100 * parity.top1_agreement:.0f} % of the samples keep their top-1 class: outputs that hardly "
            "differ between samples can hide a large error behind a good SQNR"
        )
    if target.flash_budget_bytes is not None and file_bytes > target.flash_budget_bytes:
        found.append(f"{file_bytes:,} bytes are above {target.name}'s flash budget of {target.flash_budget_bytes:,}")
    return tuple(found)
