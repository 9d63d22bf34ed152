"""`edgeks export`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeks.cli.options import ArchOption, JsonOption, TargetOption, TrustOption, err, out, print_json
from edgeks.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from edgeks.export_source import Source
    from edgeks.target import Target


def export(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint: .pt or .safetensors; or a float .onnx file.", metavar="MODEL")
    ],
    fp32: Annotated[bool, typer.Option("--fp32", help="Float artefact (the default).")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Kernels stored as float16, computed with in float32.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="One int8 kernel per sharing group.")] = False,
    target: TargetOption = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: MODEL_int8.onnx or .tflite beside it.")
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(help="Real samples: .npz with one array N×C×H×W fed as it is, or a folder of images."),
    ] = None,
    arch: ArchOption = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="How repeated layers are written: unrolled, rolled (one loop), cached (TFLite, for a weight cache). "
            "Or of static int8 in ONNX: qdq, qoperator. Default: the target's."
        ),
    ] = None,
    banks: Annotated[
        str | None,
        typer.Option(help="Template banks (soft sharing): smallest in bytes (the default), or fastest to compute."),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(help="int8: static, dynamic (quantised on the fly), float, auto (TFLite). Default: the target's."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="int8: ranges by minmax (the default), percentile, entropy or mse.")
    ] = None,
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction", help="int8: take the mean error of each channel out of its bias.")
    ] = False,
    rounding: Annotated[
        str | None,
        typer.Option(help="int8: nearest (the default), or adaround: each weight for all layers that read it."),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(help="int8: a kernel that stays float in all its layers; may be repeated.", metavar="KERNEL"),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="int8: also say what int8 costs each kernel, and suggest.")
    ] = False,
    io: Annotated[
        str,
        typer.Option(help="What the file takes and gives: float, int8 (codes), uint8 (raw pixels in, codes out)."),
    ] = "float",
    layout: Annotated[
        str | None,
        typer.Option(help="TFLite: maps in and out as nhwc (the default, fastest), or nchw as the network has them."),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", help="Input size CxHxW, where nothing else tells it.", metavar="CxHxW")
    ] = None,
    sparse: Annotated[
        bool,
        typer.Option("--sparse", help="Store pruned kernels in fewer bytes where the format can: docs/pruning.md."),
    ] = False,
    simplify: Annotated[bool, typer.Option("--simplify", help="Run onnxsim, told not to fold BN.")] = False,
    min_sqnr: Annotated[
        float | None, typer.Option(help="Accept this SQNR in dB instead of what the target asks.")
    ] = None,
    parity_report: Annotated[
        bool, typer.Option("--parity-report", help="Compare int8 with torch tensor by tensor, in steps.")
    ] = False,
    converter: Annotated[
        str,
        typer.Option(help="TFLite: edgeks, or litert-torch for operators that edgeks does not lower (an extra)."),
    ] = "edgeks",
    prepare_for: Annotated[
        str | None,
        typer.Option(help="Also write it as this runtime optimises it for this CPU: onnxruntime (`edgeks prepare`)."),
    ] = None,
    keep_samples: Annotated[
        bool,
        typer.Option("--keep-samples", help="Also write OUT.samples.npz, on which `edgeks bench` compares a board."),
    ] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write MODEL as ONNX or TFLite, every shared kernel stored once; prove it on the file and compare with torch."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.export_report import render as render_export
    from edgeks.exporter import export as run_export
    from edgeks.graph.onnx_network import load_onnx
    from edgeks.quant.options import Int8Options
    from edgeks.samples import parse_input_shape
    from edgeks.sensitivity_report import render as render_sensitivity
    from edgeks.target import load_target, read_form

    if fp32 + fp16 + int8 > 1:
        raise ConfigError("--fp32, --fp16 and --int8 exclude each other: choose one")
    if layout not in (None, "nhwc", "nchw"):
        raise ConfigError(f"--layout {layout}: legal: nhwc, nchw")
    chosen = load_target(target)
    layers, int8_form = read_form(form) if form else (None, None)
    if layout and chosen.format != "tflite":
        raise ConfigError(f"--layout {layout} is about TFLite; target {chosen.name!r} writes {chosen.format}: N×C×H×W")
    options = Int8Options(
        form=int8_form,
        activations=activations,  # type: ignore[arg-type]
        calibration=calibration or "minmax",  # type: ignore[arg-type]
        bias_correction=bias_correction,
        rounding=rounding or "nearest",  # type: ignore[arg-type]
        keep_float=tuple(keep_float or ()),
    )
    about_int8 = {
        f"--form {form}": int8_form,
        f"--activations {activations}": activations,
        f"--calibration {calibration}": calibration,
        "--bias-correction": bias_correction,
        f"--rounding {rounding}": rounding,
        "--keep-float": keep_float,
        "--sensitivity": sensitivity,
        "--parity-report": parity_report,
    }
    given = [option for option, value in about_int8.items() if value]
    if given and not int8:
        raise ConfigError(f"{given[0]} is about int8: add --int8")
    if converter not in ("edgeks", "litert-torch"):
        raise ConfigError(f"--converter {converter}: legal: edgeks, litert-torch")
    if min_sqnr is not None and math.isnan(min_sqnr):  # would accept anything
        raise ConfigError("--min-sqnr nan: legal: a number of dB")
    if prepare_for not in (None, "onnxruntime"):
        raise ConfigError(f"--prepare-for {prepare_for}: legal: onnxruntime")
    if prepare_for:
        from edgeks.prepare_onnx import prepare_onnx, require_preparable

        require_preparable(chosen)
    shape = parse_input_shape(input_shape) if input_shape else None
    is_onnx = model.suffix.lower() == ".onnx"
    if is_onnx and (arch or trust):
        option = f"--arch {arch}" if arch else "--trust"
        raise ConfigError(f"{option} is about a checkpoint; {model.name} is an ONNX file, which says all of itself")
    with err.status(f"loading {model.name}") as status:
        source = load_onnx(model) if is_onnx else load_checkpoint(model, arch, trust=trust)
        precision = "int8" if int8 else "fp16" if fp16 else "fp32"
        path = output or model.with_name(f"{model.stem}_{precision}.{chosen.format}")
        if converter == "litert-torch":
            about_edgeks = {option: value for option, value in about_int8.items() if "--activations" not in option}
            about_edgeks |= {
                "--simplify": simplify,
                "--keep-samples": keep_samples,
                "--sparse": sparse,
                "--fp16": fp16,
                f"--io {io}": io != "float",
            }
            about_edgeks |= {f"--layout {layout}": layout == "nchw", f"--form {layers}": layers}
            about_edgeks |= {f"--banks {banks}": banks}
            _convert(source, path, chosen, about_edgeks, int8=int8, activations=activations, calib=calib,
                     input_shape=shape, min_sqnr_db=min_sqnr, on_step=status.update, as_json=as_json)  # fmt: skip
            return
        if path.resolve() in [read.resolve() for read in getattr(source, "files", (model,))]:
            raise OutputError(f"-o {path}: is read by the export, which would replace it; name another file")
        report = run_export(
            source,
            path,
            chosen,
            int8=int8,
            float16=fp16,
            nhwc=layout != "nchw",
            options=options,
            layers=layers,
            banks=banks,  # type: ignore[arg-type]  # export checks it
            io=io,  # type: ignore[arg-type]  # export checks it
            calib=calib,
            input_shape=shape,
            run_simplifier=simplify,
            min_sqnr_db=min_sqnr,
            parity_report=parity_report,
            run_sensitivity=sensitivity,
            keep_samples=keep_samples,
            sparse=sparse,
            on_step=status.update,
        )
        prepared = None
        if prepare_for:
            status.update("preparing")
            prepared = prepare_onnx(path, chosen)
    if as_json:
        typer.echo(report.ledger_path.read_text(encoding="utf-8"))
    else:
        render_export(report, out)
        if report.sensitivity:
            render_sensitivity(report.sensitivity, out)
        if prepared:
            from edgeks.cli.prepare import render as render_prepared

            render_prepared(prepared)


def _convert(
    source: Source, path: Path, target: Target, about_edgeks: Mapping[str, object], *, as_json: bool, **options: Any
) -> None:
    """`export --converter litert-torch`."""
    from edgeks.checkpoint import Checkpoint
    from edgeks.conversion_report import render
    from edgeks.litert_converter import convert_with_litert_torch

    given = [option for option, value in about_edgeks.items() if value]
    if given:
        raise ConfigError(f"{given[0]} is about edgeks' own lowering: leave it out with --converter litert-torch")
    if not isinstance(source, Checkpoint):
        raise ConfigError(f"--converter litert-torch needs a checkpoint, and {source.path.name} is an ONNX file")
    report = convert_with_litert_torch(source, path, target, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        render(report, out)
