"""Checkpoint or ONNX file → artefact: capture, passes, file, proof, parity. It appears only when all of it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgeks.artefact import REFERENCES, prove_artefact, run_artefact, write_artefact
from edgeks.atomic_write import atomic_write
from edgeks.audit.onnx.proof import Proof
from edgeks.errors import ConfigError, DataError, OutputError, SharingBroken
from edgeks.export_checks import (
    doubts,
    layers_outside,
    not_trained,
    require_computed_as_written,
    require_no_tiles,
    require_options,
    require_parity,
)
from edgeks.export_io import Io, as_pixels, interface_of, quantise_io, require_io
from edgeks.export_source import (
    Captured,
    Source,
    capture_source,
    carrier,
    has_banks,
    reference_name,
    resolved,
    samples_for,
)
from edgeks.formats.onnx import INTERFACE_KEY, simplify
from edgeks.formats.tflite.delegation import Delegation, delegation
from edgeks.graph.ledger import Ledger
from edgeks.graph.negative_scales import NegativeScales, negative_scales
from edgeks.graph.onnx_network import OnnxNetwork
from edgeks.graph.passes.fold_batch_norm import fold_batch_norm
from edgeks.graph.passes.integer_io import Codes
from edgeks.graph.passes.offset_kernel_codes import offset_kernel_codes
from edgeks.graph.passes.raw_pixels import raw_pixels
from edgeks.graph.passes.roll import roll, rolled_scheme
from edgeks.graph.passes.separate_affine import separate_affine
from edgeks.graph.passes.split_large_kernels import split_large_kernels
from edgeks.graph.passes.store_kernels_as_float16 import store_kernels_as_float16
from edgeks.graph.passes.tie_equal_codes import tie_equal_codes
from edgeks.graph.verify import verify
from edgeks.interface import Interface
from edgeks.kernel_zeros import KernelZeros, compressed_bytes, count_zeros, require_sparse
from edgeks.layer_parity import LayerParity, layer_parity
from edgeks.parity import Parity, compare_all
from edgeks.preprocessing import Preprocessing
from edgeks.quant.keep_float import float_layers
from edgeks.quant.options import Int8Options
from edgeks.quant.quantise import quantise
from edgeks.quant.sensitivity import Sensitivity, sensitivity
from edgeks.quant.trained import NOTHING_TRAINED
from edgeks.sample_inputs import keep, samples_beside
from edgeks.sharing.resolve import BankForm, ResolvedBank
from edgeks.target import Format, Layers, LiteRtSession, Precision, Target

PARITY_SAMPLES = 64
LAYER_PARITY_SAMPLES = 16
DELEGATION_SECONDS = 0.3
WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
NEGATIVE_MIX = (
    "a mixing coefficient below 0 makes negative weight scales too, whatever γ is; --banks fastest has none of those "
    "where no two layers' kernels are multiples of each other"
)
NOTHING_TO_CACHE = "no two layers share a kernel: --form cached saves nothing here"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written and what is known of it. `parity` is the file as it says; `parity_here` as this CPU runs it."""

    path: Path
    ledger_path: Path
    target: str
    precision: str
    form: str
    file_bytes: int
    samples: str
    io: Io
    interface: Interface
    preprocessing: Preprocessing | None
    negative_scales: NegativeScales
    proof: Proof
    parity: Parity
    parity_here: Parity
    ledger: Ledger
    warnings: tuple[str, ...]
    reference: str = "torch"
    delegation: Delegation | None = None
    layers: LayerParity | None = None
    sensitivity: Sensitivity | None = None
    zeros: KernelZeros | None = None
    banks: tuple[ResolvedBank, ...] = ()


def export(
    source: Source,
    out: Path,
    target: Target,
    *,
    int8: bool = False,
    float16: bool = False,
    nhwc: bool = True,
    options: Int8Options = Int8Options(),
    layers: Layers | None = None,
    banks: BankForm | None = None,
    io: Io = "float",
    calib: Path | None = None,
    input_shape: tuple[int, int, int] | None = None,
    run_simplifier: bool = False,
    min_sqnr_db: float | None = None,
    parity_report: bool = False,
    run_sensitivity: bool = False,
    keep_samples: bool = False,
    sparse: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
    capture: Callable[..., Captured] = capture_source,
) -> ExportReport:
    """Write `source` as `out` and `out`.ledger.json, every shared kernel stored exactly once.

    The target says whether `out` is .onnx or .tflite. `source` is a checkpoint, or a float ONNX file of any tool
    (`load_onnx`), whose own outputs are the reference then.

    A network from `prepare_qat` becomes the int8 file that it was trained to be. `parity_report` compares the int8
    graph with torch tensor by tensor; torch.fx must be able to trace the network then. `run_sensitivity` adds what int8
    costs each kernel (minutes for a large network).

    `float16`: kernels are stored as float16 and computed with in float32. `nhwc`: a .tflite takes and gives feature
    maps as N×H×W×C; False: N×C×H×W, as the network does.

    `layers` instead of the target's: how layers that repeat are written (`edgeks.target.Target`).

    `banks`: template banks (soft sharing) become the kernels that take the fewest bytes ("smallest", the default), or
    one convolution per layer ("fastest").

    `io` "uint8": the file takes raw pixels, and an int8 one gives uint8 codes. "int8": it takes and gives int8 codes.

    `sparse`: kernels with many zeros (`edgeks.prune`) are stored in fewer bytes, where the format has a form for them
    that saves any; they are dense in RAM. `ExportReport.zeros` says what it saves, or would.

    `keep_samples` also writes some of the samples, as `edgeks.sample_inputs.samples_beside` names the file.

    `capture` in place of `capture_source`: several exports of one source can take copies of one capture.

    Raises:
        ConfigError: options that exclude each other; `options.keep_float` names what is no kernel.
        SharingBroken: a pass or the written file does not hold each kernel exactly once.
        ParityFailed: the outputs are further from torch's than the target (or `min_sqnr_db`) allows.
        InputError: the samples, the network or the path cannot be used. In every case no file is left.
    """
    if out.suffix in (".onnx", ".tflite") and out.suffix != f".{target.format}":
        wanted = out.suffix.removeprefix(".")
        raise OutputError(
            f"{out}: target {target.name!r} writes {target.format}; name it .{target.format}, or choose a target "
            f"of the format {wanted} (--target {wanted})"
        )
    target = target.with_layers(layers or target.layers)
    if float16 and int8:
        raise ConfigError("int8 and float16 exclude each other: choose one")
    if banks is not None and not has_banks(source):
        raise ConfigError(f"banks {banks}: {carrier(source)} has no template banks (soft sharing); leave it out")
    precision: Precision = "int8" if int8 else "fp16" if float16 else "fp32"
    require_io(io, source.preprocessing, int8=int8)
    if int8:
        scheme = resolved(options.scheme(target.int8), source, common_scales=target.common_scales)
        target = replace(target, int8=rolled_scheme(scheme, options.form) if target.layers == "rolled" else scheme)
        options = replace(options, activations=scheme.mode)
    static = int8 and target.int8.mode == "static"
    require_options(
        source, target, options, int8=int8, io=io, parity_report=parity_report, run_sensitivity=run_sensitivity,
        run_simplifier=run_simplifier,
    )  # fmt: skip
    if sparse:
        require_sparse(target)
    samples = samples_for(source, calib, input_shape)
    if (static or (int8 and io != "float")) and not samples.real:
        raise DataError(
            f"int8 needs calibration data and {carrier(source)} carries none; pass --calib with an .npz of real inputs "
            "(one array N×C×H×W) or a folder of images, or choose --activations dynamic or float, which need none"
        )
    if static and samples.inputs.min() == samples.inputs.max():
        raise DataError(f"{samples.origin}: {samples.inputs.min():g} everywhere; int8 is calibrated on real inputs")
    fed, clipped = samples, None  # what the file is fed; torch takes `samples`
    if io == "uint8" and source.preprocessing is not None:
        fed, clipped = as_pixels(samples, source.preprocessing)
        samples = replace(samples, inputs=source.preprocessing.normalise(fed.inputs))
    ledger_path = out.with_name(out.name + ".ledger.json")
    samples_file = atomic_write(samples_beside(out)) if keep_samples else nullcontext(None)
    with atomic_write(out) as temporary, atomic_write(ledger_path) as temporary_ledger, samples_file as kept:
        captured = capture(
            source, samples, PARITY_SAMPLES, target, int8=int8, parity_report=parity_report,
            banks=banks or "smallest", weight_bytes=WEIGHT_BYTES[precision], on_step=on_step,
        )  # fmt: skip
        model, ledger, reference, decided = captured.graph, captured.ledger, captured.reference, captured.decided
        if run_simplifier:
            model = _simplified(model, ledger)
        if io == "uint8" and source.preprocessing is not None:
            pixels = source.preprocessing
            ledger.run("raw_pixels", model, lambda: raw_pixels(model, pixels))
        if parity_report and target.format == "tflite":
            require_no_tiles(split_large_kernels(model.clone(), ledger.plan)[0])
        if isinstance(target.session, LiteRtSession) and target.session.kernels == "xnnpack":
            ledger.replan("split_large_kernels", model, lambda: split_large_kernels(model, ledger.plan))
        float_model = model.clone() if int8 and run_sensitivity else None
        codes: dict[str, Codes] = {}
        untrained: tuple[str, ...] = ()
        if int8:
            on_step(f"quantising, calibrating on {samples.origin}" if static else "quantising")
            untrained = quantise(model, ledger, fed, target.int8, options, decided, common_scales=target.common_scales)
            if isinstance(source, OnnxNetwork):
                ledger.replan("tie_equal_codes", model, lambda: tie_equal_codes(model, ledger.plan))
            if static and (zero_point := target.int8.kernel_zero_point):  # the last that changes codes: others know 0
                ledger.run("offset_kernel_codes", model, lambda: offset_kernel_codes(model, zero_point))
            codes = quantise_io(model, ledger, fed, io) if io != "float" else codes
        elif target.format == "tflite":
            if target.common_scales:
                ledger.run("separate_affine", model, lambda: separate_affine(model))
            ledger.run("fold_batch_norm", model, lambda: fold_batch_norm(model))
        if float16:
            ledger.run("store_kernels_as_float16", model, lambda: store_kernels_as_float16(model))
        negative = negative_scales(model)
        interface = interface_of(model, codes, source.preprocessing)
        outside = tuple(layers_outside(model, int8=int8, asked=float_layers(ledger.plan, options.keep_float)))
        one_by_one = model.clone() if parity_report else model  # a layer of a loop is no node of its own
        if target.layers == "rolled":
            ledger.roll(model, lambda: roll(model))
        on_step("proving and comparing")
        if target.format == "tflite" and nhwc:
            interface = interface.channels_last()
        described = _metadata(source, interface, ledger, target.format)
        write_artefact(model, temporary, target.format, described, nhwc=nhwc)
        zeros = _store_zeros(model, temporary, target.format, described, nhwc=nhwc, sparse=sparse)
        if target.format == "tflite":
            require_computed_as_written(temporary, out, target.layers)
        proof = replace(prove_artefact(temporary, target.format, ledger.plan, ledger.rolled), path=out)
        inputs = fed.inputs[:PARITY_SAMPLES]
        parity = compare_all(reference, run_artefact(temporary, REFERENCES[target.format], inputs))
        parity_here = compare_all(reference, run_artefact(temporary, target.session, inputs))
        taken = None
        if isinstance(target.session, LiteRtSession) and target.session.kernels == "xnnpack":
            on_step("measuring what the delegate takes")
            taken = delegation(temporary, target.session.threads, DELEGATION_SECONDS)
        required = min_sqnr_db
        if required is None:
            required = target.min_sqnr_db(precision)
        by_layer = None
        if parity_report and captured.prepared is not None:
            on_step("comparing layer by layer")
            few = inputs[:LAYER_PARITY_SAMPLES]
            own = None if decided is NOTHING_TRAINED else reference
            by_layer = layer_parity(captured.prepared, captured.marks, one_by_one, few, own)
        compared_with = reference_name(source)
        require_parity(out, target, required, parity, parity_here, int8=int8, layers=by_layer, reference=compared_with)
        costs = None
        if float_model is not None:
            costs = sensitivity(float_model, ledger.plan, fed, target.int8, options, on_step)
        report = ExportReport(
            path=out,
            ledger_path=ledger_path,
            target=target.name,
            precision=precision,
            form=_form(target, int8=int8),
            file_bytes=temporary.stat().st_size,
            samples=samples.origin,
            io=io,
            interface=interface,
            preprocessing=source.preprocessing,
            negative_scales=negative,
            proof=proof,
            parity=parity,
            parity_here=parity_here,
            ledger=ledger,
            warnings=(
                *captured.warnings,
                *([clipped] if clipped else []),
                *([str(negative)] if negative else []),
                *([NEGATIVE_MIX] if negative and captured.banks else []),
                *not_trained(untrained),
                *([NOTHING_TO_CACHE] if target.layers == "cached" and not ledger.plan.groups else []),
                *outside,
                *doubts(samples, parity, parity_here, target, temporary.stat().st_size, int8=int8),
            ),
            reference=compared_with,
            delegation=taken,
            layers=by_layer,
            sensitivity=costs,
            zeros=zeros,
            banks=captured.banks,
        )
        temporary_ledger.write_text(_ledger_json(report, target, temporary), encoding="utf-8")
        if kept is not None:
            keep(fed.inputs, interface, kept)
    return report


def _store_zeros(
    model: ir.Model, file: Path, file_format: Format, described: Mapping[str, object], *, nhwc: bool, sparse: bool
) -> KernelZeros | None:
    """What the zeros of the dense `file` would save. `sparse`: the compact one takes its place, if it is smaller."""
    kernels, weights, zeros = count_zeros(file, file_format)
    if not kernels:
        return None
    dense_bytes, by_gzip = file.stat().st_size, compressed_bytes(file)
    compact = file.with_name(f"{file.name}.sparse")
    try:
        write_artefact(model, compact, file_format, described, nhwc=nhwc, sparse=True)
        sparse_bytes = min(compact.stat().st_size, dense_bytes)
        replaced = sparse and sparse_bytes < dense_bytes
        if replaced:
            compact.replace(file)
    finally:
        compact.unlink(missing_ok=True)
    return KernelZeros(kernels, weights, zeros, dense_bytes, sparse_bytes, by_gzip, replaced)


def _simplified(model: ir.Model, ledger: Ledger) -> ir.Model:
    """What onnxsim makes of the graph, told not to fold BN; the graph as it was where onnxsim breaks a tie."""
    simplified, note = simplify(model)
    try:
        verify(simplified, ledger.plan, "onnxsim")
        model = simplified
    except SharingBroken as error:
        note = f"not used: {error}"
    ledger.run("onnxsim", model, lambda: note)
    return model


def _form(target: Target, *, int8: bool) -> str:
    """How layers that repeat are written, unless one by one, and how the kernels of an int8 file are read."""
    scheme = target.int8
    static = scheme.form if target.format == "onnx" else "static"
    kernels = {"static": static, "dynamic": "dynamic", "float": "weight-only"}[scheme.mode] if int8 else "float"
    return kernels if target.layers == "unrolled" else f"{target.layers} {kernels}"


def _metadata(source: Source, interface: Interface, ledger: Ledger, file_format: Format) -> dict[str, object]:
    """What a program on the device needs to feed the network and name its classes."""
    metadata: dict[str, object] = {INTERFACE_KEY: interface.to_dict()}
    if file_format == "tflite":
        metadata["ledger_sha256"] = ledger.digest()
    if source.architecture:
        metadata["architecture"] = source.architecture
    if source.preprocessing:
        metadata["preprocessing"] = source.preprocessing.to_dict()
    return metadata


def _ledger_json(report: ExportReport, target: Target, file: Path) -> str:
    return report.ledger.to_json(
        artefact=report.path.name,
        ledger_sha256=report.ledger.digest(),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        file_bytes=report.file_bytes,
        target=target.name,
        precision=report.precision,
        form=report.form,
        session=asdict(target.session),
        samples=report.samples,
        reference=report.reference,
        io=report.io,
        interface=report.interface.to_dict(),
        preprocessing=report.preprocessing.to_dict() if report.preprocessing else None,
        negative_scales=report.negative_scales.to_dict(),
        parity=asdict(report.parity),
        parity_here=asdict(report.parity_here),
        kernels_stored=report.proof.kernels_stored,
        **({"delegation": asdict(report.delegation)} if report.delegation else {}),
        **({"template_banks": [bank.to_dict() for bank in report.banks]} if report.banks else {}),
        layer_parity=report.layers.to_dict() if report.layers else None,
        warnings=list(report.warnings),
        **({"sensitivity": asdict(report.sensitivity)} if report.sensitivity else {}),
        **({"zeros": asdict(report.zeros)} if report.zeros else {}),
    )
