"""`--converter litert-torch`: a network beyond edgeks' own operators through the public converter, sharing restored.

litert-torch folds BN and so copies a shared kernel per layer; ai-edge-quantizer quantises each copy. `restore_sharing`
then points the copies to one buffer, as far as the float file proves that they are one. Both packages are an extra.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from edgeks.atomic_write import atomic_write
from edgeks.checkpoint import Checkpoint
from edgeks.errors import ConfigError, DataError, GraphError, ParityFailed, SharingBroken
from edgeks.formats.tflite.kernels import stored_kernels
from edgeks.formats.tflite.restore_sharing import Restoration, restore_sharing
from edgeks.formats.tflite.runtime import open_interpreter, run
from edgeks.graph.from_torch import torch_outputs, without_parametrizations
from edgeks.model_files.tflite_file import read_tflite
from edgeks.parity import Parity, compare_all
from edgeks.quant.qat import is_prepared
from edgeks.samples import load_samples
from edgeks.sharing.equality import equal_up_to_factor
from edgeks.sharing.resolve import resolve_soft_sharing
from edgeks.sharing.torch import discover
from edgeks.silence import silent, silent_process
from edgeks.target import Activations, LiteRtSession, Target
from edgeks.wording import counted

PACKAGES = ("litert_torch", "ai_edge_quantizer")
INSTALL = "pip install 'edgeks[litert-torch]'"
PARITY_SAMPLES = 64
SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class KernelCopies:
    """How often the file holds a kernel of the plan, as codes or floats up to a factor per output channel."""

    kernel: str
    layers: tuple[str, ...]
    copies: int


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What `convert_with_litert_torch` wrote and what is known of it."""

    path: Path
    target: str
    precision: str
    form: str
    file_bytes: int
    samples: str
    parity: Parity
    kernels: tuple[KernelCopies, ...]
    restoration: Restoration
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-plain values."""
        return {**asdict(self), "path": str(self.path)}


def convert_with_litert_torch(
    checkpoint: Checkpoint,
    out: Path,
    target: Target,
    *,
    int8: bool = False,
    activations: Activations | None = None,
    calib: Path | None = None,
    input_shape: tuple[int, int, int] | None = None,
    min_sqnr_db: float | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> ConversionReport:
    """Write `checkpoint` as `out` (.tflite, N×H×W×C, float in and out) by litert-torch, its sharing restored.

    `activations` of int8: "dynamic" (quantised on the fly; also what a target's "auto" means here), "float"
    (weight-only) or "static" (calibrated). A float file keeps the copies that BN folding made, and the report warns of
    them; an int8 file holds every kernel once, or is not written.

    Raises:
        ConfigError: litert-torch is not installed; a target or options that it cannot serve.
        GraphError: litert-torch or ai-edge-quantizer refuses the network.
        SharingBroken: the int8 file would hold a kernel more than once.
        ParityFailed: the outputs are further from torch's than the target (or `min_sqnr_db`) allows.
        InputError: the samples or the path cannot be used. In every case no file is left.
    """
    kind = _kind(checkpoint, target, activations, int8=int8)
    _require_installed()
    samples = load_samples(calib, checkpoint.calibration, checkpoint.preprocessing, input_shape)
    if kind == "static" and not samples.real:
        raise DataError(
            "static int8 needs calibration data and this checkpoint carries none; pass --calib with real samples, or "
            "choose --activations dynamic or float, which need none"
        )
    on_step("running torch")
    network = without_parametrizations(resolve_soft_sharing(checkpoint.model)[0]).eval()
    inputs = samples.inputs[:PARITY_SAMPLES]
    reference = torch_outputs(network, inputs)
    with tempfile.TemporaryDirectory() as name:
        converted, quantised, restored = (Path(name, f"{step}.tflite") for step in ("float", "int8", "restored"))
        on_step("converting with litert-torch")
        feeds = np.ascontiguousarray(samples.inputs.transpose(0, 2, 3, 1))
        with _refusals_told("litert-torch"):
            _convert(network, feeds[:1], converted)
        if int8:
            on_step("quantising with ai-edge-quantizer")
            with _refusals_told("ai-edge-quantizer"):
                _quantise(converted, quantised, kind, feeds)
        on_step("restoring the sharing, proving and comparing")
        restoration = restore_sharing(
            quantised if int8 else converted, restored, converted if int8 else None, negative_scales=True
        )
        kernels = _copies(network, restored)
        _require_once(out, kernels, restoration, int8=int8)
        session = target.session
        assert isinstance(session, LiteRtSession)  # noqa: S101  # what a target of this format has
        parity = compare_all(reference, run(open_interpreter(restored, session), feeds[:PARITY_SAMPLES]))
        required = min_sqnr_db
        if required is None:
            required = target.min_int8_sqnr_db if int8 else target.min_fp32_sqnr_db
        if parity.sqnr_db < required:
            raise ParityFailed(
                f"{out.name}: {parity} against torch, below the {required:g} dB that target {target.name!r} asks; no "
                "file was written. Try other --activations or more samples (--calib), or accept it with --min-sqnr"
            )
        _keep(restored, out)
    return ConversionReport(
        path=out,
        target=target.name,
        precision="int8" if int8 else "fp32",
        form={"dynamic": "dynamic", "float": "weight-only", "static": "static"}[kind] if int8 else "float",
        file_bytes=out.stat().st_size,
        samples=samples.origin,
        parity=parity,
        kernels=kernels,
        restoration=restoration,
        warnings=tuple(_doubts(kernels, restored_from=restoration, real=samples.real, int8=int8)),
    )


def _kind(checkpoint: Checkpoint, target: Target, activations: Activations | None, *, int8: bool) -> Activations:
    """The kind of int8 asked for; "float" of a float file says nothing."""
    if target.format != "tflite":
        raise ConfigError(f"--converter litert-torch writes .tflite; target {target.name!r} is {target.format}")
    if is_prepared(checkpoint.model):
        raise ConfigError(
            "--converter litert-torch: the network was trained with fake quantisation, whose ranges and rounding it "
            "does not know; leave --converter out"
        )
    wanted = activations or (target.int8.mode if int8 else "float")
    if wanted not in get_args(Activations):
        raise ConfigError(f"--activations {wanted}: legal: static, dynamic, float")
    return cast(Activations, "dynamic" if wanted == "auto" else wanted)


def _require_installed() -> None:
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(f"--converter litert-torch needs {' and '.join(missing)}, not installed here: {INSTALL}")


def _convert(network: torch.nn.Module, example: NDArray[np.float32], path: Path) -> None:
    """Network N×C×H×W → float .tflite whose input is N×H×W×C, as `example` is."""
    import litert_torch

    nhwc = litert_torch.to_channel_last_io(network, args=[0])
    litert_torch.convert(nhwc, (torch.from_numpy(example),)).export(str(path))


def _quantise(source: Path, path: Path, kind: Activations, feeds: NDArray[np.float32]) -> None:
    """Float .tflite → int8 .tflite, float in and out."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    recipes = {
        "dynamic": recipe.dynamic_wi8_afp32,
        "float": recipe.weight_only_wi8_afp32,
        "static": recipe.static_wi8_ai8,
    }
    chain = quantizer.Quantizer(str(source))
    chain.load_quantization_recipe(recipes[kind]())
    ranges = None
    if kind == "static":
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            chain.update_quantization_recipe(".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
        name = Interpreter(str(source)).get_signature_list()[SIGNATURE]["inputs"][0]
        ranges = chain.calibrate({SIGNATURE: [{name: feed[None]} for feed in feeds]}, num_threads=1)
    chain.quantize(ranges, enable_progress_report=False).export_model(str(path), overwrite=True)


def _copies(network: torch.nn.Module, file: Path) -> tuple[KernelCopies, ...]:
    """How often `file` holds each kernel of `network`; 0 where the converter reshaped or split it."""
    modules = dict(network.named_modules())
    stored = [kernel.values for kernel in stored_kernels(read_tflite(file))]
    found = []
    for group in discover(network).kernels:
        weight = cast(torch.Tensor, modules[group.layers[0]].weight).detach().float().numpy()
        rows = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)  # O×I×H×W → O×H×W×I, as TFLite has it
        copies = sum(values.shape == rows.shape and equal_up_to_factor(values, rows) for values in stored)
        found.append(KernelCopies(group.name, group.layers, copies))
    return tuple(found)


def _require_once(out: Path, kernels: tuple[KernelCopies, ...], restoration: Restoration, *, int8: bool) -> None:
    """An int8 file holds no kernel twice."""
    if not int8:
        return
    for kernel in kernels:
        if kernel.copies > 1:
            reason = next((apart.reason for apart in restoration.kept_apart), "their sharing could not be restored")
            layers = counted(len(kernel.layers), "layer")
            raise SharingBroken(
                f"{out.name}: kernel {kernel.kernel!r} of {layers} is stored {kernel.copies} times after litert-torch: "
                f"{reason}; no file was written. Leave --converter out, or try other --activations"
            )


def _doubts(kernels: tuple[KernelCopies, ...], *, restored_from: Restoration, real: bool, int8: bool) -> Iterator[str]:
    """What a reader of the figures should know."""
    if not real:
        yield "compared on random noise: pass --calib with real samples for a figure that means something"
    copied = [f"{kernel.kernel!r} ({kernel.copies} times)" for kernel in kernels if kernel.copies > 1]
    if copied and not int8:
        yield (
            f"stored more than once, since litert-torch folds BN into float kernels: {', '.join(copied)}; --int8 holds "
            "each once, and so does edgeks' own converter"
        )
    absent = [repr(kernel.kernel) for kernel in kernels if len(kernel.layers) > 1 and kernel.copies == 0]
    if absent:
        yield f"nothing is proven of {', '.join(absent)}: not in the file, since the converter changes their shape"
    if any(kernel.negative_scales for kernel in restored_from.restored):
        yield "some scales are negative (a BN scale was): XNNPACK leaves these layers to slower kernels"


def _keep(source: Path, out: Path) -> None:
    """The finished file → `out`, whole or not at all."""
    with atomic_write(out) as temporary:
        temporary.write_bytes(source.read_bytes())


@contextlib.contextmanager
def _refusals_told(package: str) -> Iterator[None]:
    """Silence what the package prints and logs, also from C++; an exception of any kind → GraphError of one line."""
    try:
        with silent(), silent_process(1, 2):
            yield
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise GraphError(f"{package} refuses the network: {type(error).__name__}: {reason[:300]}") from error
