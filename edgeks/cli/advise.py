"""`edgeks advise`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import (
    ArchOption,
    BoardFileOption,
    JsonOption,
    TrustOption,
    WheelhouseOption,
    err,
    out,
    print_json,
    read_boards,
    wheel_folder,
)
from edgeks.errors import ConfigError

if TYPE_CHECKING:
    from edgeks.target import Format


def advise(
    model: Annotated[
        Path,
        typer.Argument(help="Checkpoint, float .onnx; or a finished .onnx, .ort or .tflite file.", metavar="MODEL"),
    ],
    target: Annotated[
        str | None, typer.Option(help="A name from `edgeks targets`, or a TOML file. Default: any CPU, both formats.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="onnx, tflite or both, instead of the target's own.")
    ] = None,
    objective: Annotated[str, typer.Option("--for", help="What counts first: latency, ram or flash.")] = "latency",
    flash: Annotated[str | None, typer.Option(help="Flash budget, such as 2MB; exit code 1 if nothing fits.")] = None,
    ram: Annotated[str | None, typer.Option(help="RAM budget, such as 64MB; exit code 1 if nothing fits.")] = None,
    threads: Annotated[
        str | None, typer.Option(help="Numbers to try, such as 1,2. Default: 1, 2, 4 … up to the cores.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="For measuring, once all was measured once; exports come on top.")
    ] = 45.0,
    calib: Annotated[
        Path | None,
        typer.Option(help="Real samples: .npz with one array N×C×H×W fed as it is, or a folder of images."),
    ] = None,
    arch: ArchOption = None,
    input_shape: Annotated[
        str | None, typer.Option("--input", help="Input size CxHxW, where nothing else tells it.", metavar="CxHxW")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of exports and measurements, to go on from. Default: runs/advise/MODEL-…."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Measure on this board, as ssh takes it: pi@raspberrypi.local.")
    ] = None,
    hosts: BoardFileOption = None,
    wheelhouse: WheelhouseOption = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Try the forms, runtime profiles and threads that fit; measure them in turns; recommend one, ready to use."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from edgeks.advice.advice_json import to_json
    from edgeks.advice.advise import advise as find
    from edgeks.advice.report import render
    from edgeks.advice.sources import SourceOptions
    from edgeks.audit.budgets import parse_size
    from edgeks.bench.place import BoardPlace
    from edgeks.samples import parse_input_shape

    source = SourceOptions(arch, trust, calib, parse_input_shape(input_shape) if input_shape else None)
    boards = read_boards([host] if host else None, hosts)
    if len(boards) > 1:
        raise ConfigError(f"{len(boards)} boards are named; an advice is for one")
    if wheelhouse and not boards:
        raise ConfigError("--wheelhouse is for a board: add --host")
    with ExitStack() as stack:
        columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        bar = stack.enter_context(Progress(*columns, console=err, transient=True, disable=not err.is_terminal))
        task = bar.add_task("", total=None)
        place = None
        if boards:
            folder = wheel_folder(wheelhouse, None)
            place = stack.enter_context(BoardPlace(boards[0], folder, lambda what: bar.update(task, description=what)))
        advice = find(
            model,
            target,
            formats=_formats(formats),
            objective=objective,  # type: ignore[arg-type]  # advise checks it
            threads=_threads(threads),
            seconds=seconds,
            flash_budget=None if flash is None else parse_size(flash, "--flash"),
            ram_budget=None if ram is None else parse_size(ram, "--ram"),
            source=source,
            work=work,
            place=place,
            on_step=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if as_json:
        print_json(to_json(advice))
    else:
        render(advice, out)
    advice.require_fit()


def _formats(text: str | None) -> tuple[Format, ...] | None:
    legal: dict[str | None, tuple[Format, ...] | None] = {
        None: None, "onnx": ("onnx",), "tflite": ("tflite",), "both": ("onnx", "tflite"),
    }  # fmt: skip
    if text not in legal:
        raise ConfigError(f"--format {text}: legal: onnx, tflite, both")
    return legal[text]


def _threads(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise ConfigError(f"--threads {text}: legal: whole numbers with commas, such as 1,2")
    return tuple(map(int, parts))
