"""The command line. A command parses, makes one call, prints; what is heavy is imported inside the command."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from edgeks import __version__
from edgeks.errors import ConfigError, EdgeksError, OutputError
from edgeks.terminal import table

if TYPE_CHECKING:
    from edgeks.export_source import Source
    from edgeks.pipeline import StageState
    from edgeks.target import Target
    from edgeks.train.progress import TrainingProgress

app = typer.Typer(
    name="edgeks",
    help="Kernel-sharing CNNs from PyTorch to a board: every shared kernel stored exactly once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130
PIPE_WIDTH = 100  # where there is no terminal to ask
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, emoji=False)

ArchOption = Annotated[
    str | None,
    typer.Option(help="Network of a plain state dict: package.module:callable, or a name from `edgeks models`."),
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Load pickled objects from the file: this executes code that it holds.")
]
TargetOption = Annotated[str, typer.Option(help="A name from `edgeks targets`, or the path of a TOML file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(f"edgeks {__version__}")
        raise typer.Exit


@app.command()
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
    form: Annotated[str | None, typer.Option(help="Static int8: qdq or qoperator. Default: the target's.")] = None,
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
    from edgeks.target import load_target

    if fp32 + fp16 + int8 > 1:
        raise ConfigError("--fp32, --fp16 and --int8 exclude each other: choose one")
    if layout not in (None, "nhwc", "nchw"):
        raise ConfigError(f"--layout {layout}: legal: nhwc, nchw")
    chosen = load_target(target)
    if layout and chosen.format != "tflite":
        raise ConfigError(f"--layout {layout} is about TFLite; target {chosen.name!r} writes {chosen.format}: N×C×H×W")
    options = Int8Options(
        form=form,  # type: ignore[arg-type]  # Int8Options checks the choices
        activations=activations,  # type: ignore[arg-type]
        calibration=calibration or "minmax",  # type: ignore[arg-type]
        bias_correction=bias_correction,
        rounding=rounding or "nearest",  # type: ignore[arg-type]
        keep_float=tuple(keep_float or ()),
    )
    about_int8 = {
        f"--form {form}": form,
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
            about_edgeks |= {"--simplify": simplify, "--fp16": fp16, f"--io {io}": io != "float"}
            about_edgeks[f"--layout {layout}"] = layout == "nchw"
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
            io=io,  # type: ignore[arg-type]  # export checks it
            calib=calib,
            input_shape=shape,
            run_simplifier=simplify,
            min_sqnr_db=min_sqnr,
            parity_report=parity_report,
            run_sensitivity=sensitivity,
            on_step=status.update,
        )
    if as_json:
        typer.echo(report.ledger_path.read_text(encoding="utf-8"))
    else:
        render_export(report, out)
        if report.sensitivity:
            render_sensitivity(report.sensitivity, out)


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
        _print_json(report.to_dict())
    else:
        render(report, out)


@app.command()
def footprint(
    model: Annotated[
        Path, typer.Argument(help="Model file: .onnx or .tflite, of edgeks or any other tool.", metavar="FILE")
    ],
    target: Annotated[str | None, typer.Option(help="Check the budgets of this target; exit code 1 if over.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Audit a model file: flash bytes, what sharing saves, copies, peak activations (of ONNX), budgets."""
    from edgeks.audit.footprint import footprint as audit
    from edgeks.audit.report import render, to_json
    from edgeks.target import load_target

    result = audit(model, load_target(target) if target else None)
    if as_json:
        _print_json(to_json(result))
    else:
        render(result, out)
    result.require_fit()


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(help="Model file: .onnx or .tflite.", metavar="FILE")],
    target: Annotated[
        str | None, typer.Option(help="A name from `edgeks targets`, or a TOML file. Default: onnx or tflite, as FILE.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="Of a .tflite file: litert, litert-compiled (with a weight cache) or tflite-runtime."),
    ] = None,
    runs: Annotated[int, typer.Option(help="Timed inferences.")] = 200,
    warmup: Annotated[int, typer.Option(help="Untimed inferences before.")] = 20,
    threads: Annotated[int | None, typer.Option(help="Instead of the target's number.")] = None,
    inputs: Annotated[Path | None, typer.Option(help=".npz or .npy to feed; default: random numbers.")] = None,
    python: Annotated[
        Path | None, typer.Option(help="Python of another environment, which has numpy and the runtime.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time a model file on this machine, in a fresh process, with the target's session options."""
    from rich.progress import Progress

    from edgeks.bench.local import bench as measure
    from edgeks.bench.report import render, to_json
    from edgeks.target import load_target

    chosen = load_target(target or ("tflite" if model.suffix == ".tflite" else "onnx"))
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("timing", total=runs)
        result = measure(
            model,
            chosen,
            runs,
            warmup,
            runtime=runtime,
            threads=threads,
            inputs=inputs,
            python=python,
            on_progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        _print_json(to_json(result))
    else:
        render(result, out)


@app.command()
def train(
    model: Annotated[
        str,
        typer.Argument(help="A name from `edgeks models`, package.module:callable, or a checkpoint to go on from."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The checkpoint to write. Default: model.pt; with --qat model_qat.pt."),
    ] = None,
    data: Annotated[str, typer.Option(help="digits, cifar10:DIR, cifar100:DIR or folder:DIR.")] = "digits",
    size: Annotated[int | None, typer.Option(help="Resize every image to SIZE × SIZE.")] = None,
    config: Annotated[
        list[str] | None, typer.Option("--set", help="Config of the network, such as dim=64.", metavar="KEY=VALUE")
    ] = None,
    qat: Annotated[bool, typer.Option("--qat", help="Train with fake quantisation: docs/qat.md.")] = False,
    ranges: Annotated[str, typer.Option(help="With --qat: learned or moving_average step sizes.")] = "learned",
    target: TargetOption = "onnx",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    schedule: Annotated[str, typer.Option(help="cosine or milestones.")] = "cosine",
    milestones: Annotated[str, typer.Option(help="Epochs after which lr is multiplied by gamma: 80,120.")] = "",
    gamma: Annotated[float, typer.Option(help="Factor at a milestone.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of kernels and matrices.")] = 0.01,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    augment: Annotated[list[str] | None, typer.Option(help="crop, flip; may be given several times.")] = None,
    frozen_norm_epochs: Annotated[int, typer.Option(help="Last epochs with the running BN statistics.")] = 0,
    positive_scales: Annotated[
        bool | None,
        typer.Option(
            "--positive-scales/--no-positive-scales",
            help="Keep γ of every BN > 0: no negative int8 scale. Default: yes, unless a checkpoint has some below 0.",
        ),
    ] = None,
    validation: Annotated[float, typer.Option(help="Share held out to choose the best epoch.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: torch's choice.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    arch: ArchOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted training stopped.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train a network and write a checkpoint that `edgeks export` needs nothing else for."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.models.positive_scales import has_negative_scale
    from edgeks.pipeline import TrainJob, train_checkpoint
    from edgeks.target import load_target
    from edgeks.train.data import load_dataset
    from edgeks.train.progress import progress_for
    from edgeks.train.settings import TrainSettings

    if ranges not in ("learned", "moving_average"):
        raise ConfigError(f"--ranges {ranges}: legal: learned, moving_average")
    start = load_checkpoint(Path(model), arch) if Path(model).suffix in (".pt", ".pth", ".safetensors") else None
    if positive_scales is None:
        positive_scales = start is None or not has_negative_scale(start.model)
    settings = TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        optimizer=optimizer,  # type: ignore[arg-type]  # TrainSettings checks the choices
        schedule=schedule,  # type: ignore[arg-type]
        milestones=_whole_numbers(milestones),
        gamma=gamma,
        weight_decay=weight_decay,
        momentum=momentum,
        augment=tuple(augment or ()),  # type: ignore[arg-type]
        qat=ranges if qat else "off",  # type: ignore[arg-type]
        frozen_norm_epochs=frozen_norm_epochs,
        validation=validation,
        positive_scales=positive_scales,
        seed=seed,
        threads=threads,
        device=device,
    )
    output = output or Path("model_qat.pt" if qat else "model.pt")
    if start is not None and output.resolve() == Path(model).resolve():
        raise OutputError(f"-o {output}: is the checkpoint to go on from; name another file")
    scheme = load_target(target).int8
    job = TrainJob(model, _config(config or []), load_dataset(data, size), settings, start, scheme)
    checkpoint = train_checkpoint(job, output, resume=resume, progress=progress_for(err, quiet=quiet))
    accuracy = 100 * checkpoint.metrics["test_accuracy"]
    _say(f"{output}: test accuracy {accuracy:.2f} %, best epoch {checkpoint.metrics['best_epoch']:.0f}")


@app.command()
def share(
    model: Annotated[Path, typer.Argument(help="Checkpoint: .pt or .safetensors.", metavar="MODEL.pt")],
    groups: Annotated[
        str | None, typer.Option(help="Tie layers: all, stage, a number of groups, or a plan (.json).")
    ] = None,
    init: Annotated[str, typer.Option(help="Start the shared kernel from the first layer, or the mean.")] = "first",
    tie_bias: Annotated[bool, typer.Option("--tie-bias", help="Tie the layers' biases too.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The shared checkpoint to write.")] = None,
    arch: ArchOption = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For stage: CxHxW.", metavar="CxHxW")] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which layers share a kernel, or tie layers of an unshared network by a plan (and then fine-tune it)."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.samples import parse_input_shape
    from edgeks.share import share as tie
    from edgeks.sharing.report import plan_json, plan_table
    from edgeks.sharing.torch import discover

    checkpoint = load_checkpoint(model, arch, trust=trust)
    if groups is not None:
        shape = parse_input_shape(input_shape) if input_shape else None
        checkpoint = tie(checkpoint, groups, init=init, tie_bias=tie_bias, input_shape=shape, out=output)
    elif output is not None:
        raise ConfigError("-o without --groups would write nothing new; add --groups all, stage, a number or a plan")
    plan = discover(checkpoint.model)
    if as_json:
        _print_json(plan_json(plan))
    else:
        out.print(plan_table(plan))
        if output:
            _say(f"{output}: written; its accuracy is lost until it is fine-tuned")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's TOML file, or a shipped one: quickstart.")],
    folder: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder. Default: runs/RECIPE.")] = None,
    data: Annotated[str | None, typer.Option(help="Instead of the recipe's data: cifar10:DIR …")] = None,
    target: Annotated[
        str | None, typer.Option(help="Instead of the recipe's target, its form and activations: tflite, rpi-4 …")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe: train → export → footprint → accuracy → bench. Finished stages are not run again."""
    from dataclasses import replace

    from edgeks.pipeline import run_recipe
    from edgeks.recipe import load_recipe
    from edgeks.summary import render as render_summary
    from edgeks.target import load_target

    chosen = load_recipe(recipe)
    if data:
        chosen = replace(chosen, data=data)
    if target:
        chosen = replace(chosen, target=load_target(target), form=None, activations=None)
    folder = folder or Path("runs") / chosen.name
    summary = run_recipe(chosen, folder, _RunLines())
    if as_json:
        _print_json(summary.to_json())
    else:
        render_summary(summary, folder, out)


@app.command()
def targets(as_json: JsonOption = False) -> None:
    """List the targets that an export can be made for."""
    from dataclasses import asdict

    from edgeks.target import catalogue, load_target, target_names

    found = [load_target(name) for name in target_names()]
    if as_json:
        _print_json({"schema": "edgeks.targets/1", "targets": [asdict(target) for target in found]})
        return
    rows = table(
        "targets",
        left=("target", "format"),
        right=("threads", "flash", "RAM"),
        last="description",
    )
    for target in found:
        budgets = (target.flash_budget_bytes, target.ram_budget_bytes)
        flash, ram = ("–" if b is None else f"{b / 1e6:g} MB" for b in budgets)
        rows.add_row(target.name, target.format, str(target.session.threads), flash, ram, target.description)
    out.print(rows)
    _say(f"from {catalogue('export')}; copy one, change it, and pass its path to --target")


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the networks of the zoo, with their parameters (each shared kernel counted once)."""
    from dataclasses import asdict

    from edgeks.models.zoo import describe

    found = describe()
    if as_json:
        _print_json({"schema": "edgeks.models/1", "models": [asdict(row) for row in found]})
        return
    rows = table("models", left=("name",), right=("parameters",), last="description")
    for row in found:
        rows.add_row(row.name, f"{row.parameters:,}", row.description)
    out.print(rows)


class _RunLines:
    """A line when a stage of a recipe starts, and one when it is finished."""

    def stage(self, name: str, state: StageState, detail: str) -> None:
        mark = "[dim]…[/]" if state == "running" else "[green]✓[/]"
        err.print(f"{mark} {name}{' (reused)' if state == 'reused' else ''}[dim]{'  ' + detail if detail else ''}[/]")

    def training(self) -> TrainingProgress:
        from edgeks.train.progress import progress_for

        return progress_for(err)


def _say(line: str) -> None:
    """A line that no width breaks, so that a path in it can be copied."""
    out.print(line, soft_wrap=True, markup=False)


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=1))


def _config(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs → config; a value is JSON where it can be read as JSON, else text."""
    config: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {pair}: legal: KEY=VALUE, such as dim=64")
        try:
            config[key] = json.loads(value)
        except json.JSONDecodeError:
            config[key] = value
    return config


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"--milestones {text}: legal: whole numbers with commas, such as 80,120") from error


class _Terminated(BaseException):
    """SIGTERM. `requested` tells when a library has taken it for an error of its own (an import cut short)."""

    requested = False


def _terminate(_signal: int, _frame: object) -> NoReturn:
    _Terminated.requested = True
    raise _Terminated


def main() -> NoReturn:
    """Entry point: run the command line; errors become one line and an exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    signal.signal(signal.SIGTERM, _terminate)
    code = 0
    try:
        result = app([a for a in arguments if a != "--debug"], standalone_mode=False, prog_name="edgeks")
        code = result if isinstance(result, int) else 0
        if code == INTERRUPTED:  # typer turns KeyboardInterrupt into this code, without a word
            _complain("interrupted; what was finished stays")
    except EdgeksError as error:
        if debug:
            raise
        _complain(f"error: {error}")
        code = error.exit_code
    except typer.TyperException as error:  # a wrong option or argument
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "edgeks"
        if error.format_message():  # empty after `edgeks` alone, which has printed the help
            _complain(f"error: {' '.join(error.format_message().split())} (see `{where} --help`)")
        code = 2
    except _Terminated:
        pass
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; what was finished stays")
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a path that even asking about fails: too long, forbidden, a dead mount
        if debug:
            raise
        _complain(f"error: {error.filename or 'a file'}: cannot be used ({error.strerror or error})")
        code = 2
    except Exception as error:
        if debug:
            raise
        _complain(f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:500]}; --debug shows where")
        code = 1
    sys.exit(128 + signal.SIGTERM if _Terminated.requested else code)


def _complain(message: str) -> None:
    if _Terminated.requested:
        return
    err.print(message, style="red", highlight=False, soft_wrap=True, markup=False)
