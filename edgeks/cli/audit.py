"""`edgeks footprint`: what a file takes."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

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
    say,
    wheel_folder,
)
from edgeks.errors import ConfigError

CHECKPOINTS = (".pt", ".pth", ".pt2", ".safetensors")


def footprint(
    model: Annotated[
        Path,
        typer.Argument(help="Model file of any tool: .onnx, .ort or .tflite; or a checkpoint.", metavar="FILE"),
    ],
    target: Annotated[
        str | None, typer.Option(help="Check the budgets of this target under its session options.")
    ] = None,
    flash: Annotated[str | None, typer.Option(help="Flash budget, such as 2MB; exit code 1 if over.")] = None,
    ram: Annotated[str | None, typer.Option(help="RAM budget, such as 64MB; exit code 1 if over.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="The runtime profile that the RAM budget is about: ort-default, litert-builtin …")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run it here, in a fresh process per profile, and show the error.")
    ] = False,
    python: Annotated[
        Path | None, typer.Option(help="Python of another environment, for runtimes that this one lacks.")
    ] = None,
    diff: Annotated[Path | None, typer.Option(help="Show what changed since this older file.", metavar="OLD")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page that shows it all.", metavar="PAGE.html")] = None,
    host: Annotated[
        str | None, typer.Option(help="Of --measure: on this board, as ssh takes it: pi@raspberrypi.local.")
    ] = None,
    hosts: BoardFileOption = None,
    wheelhouse: WheelhouseOption = False,
    arch: ArchOption = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Sizes that an ONNX file leaves open, of a named or the only input; of a checkpoint CxHxW.",
            metavar="[NAME=]1x3xHxW",
        ),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Audit a model file: flash, RAM per runtime, compute, what sharing saves, what would help, budgets."""
    from rich.markup import escape

    from edgeks.atomic_write import atomic_write
    from edgeks.audit.budgets import parse_size
    from edgeks.audit.diff import diff as compare
    from edgeks.audit.footprint import footprint as audit
    from edgeks.audit.footprint import kind_of, this_machine
    from edgeks.audit.footprint_json import to_json
    from edgeks.audit.html_report import html_page
    from edgeks.audit.report import render, render_exports
    from edgeks.bench.place import BoardPlace
    from edgeks.measured_footprint import with_measurements
    from edgeks.target import load_target

    flash_budget = None if flash is None else parse_size(flash, "--flash")
    ram_budget = None if ram is None else parse_size(ram, "--ram")
    chosen = load_target(target) if target else None
    _refuse_what_would_be_ignored(
        model,
        {"--arch": arch, "--trust": trust},
        {"--measure": measure, "--diff": diff, "--html": html},
    )
    if python and not measure:
        raise ConfigError(f"--python {python}: is what --measure runs the file with; add --measure")
    if html and html.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {html}: names the page to write; legal: a name that ends in .html")
    if model.suffix.lower() in CHECKPOINTS:
        from edgeks.checkpoint import load_checkpoint
        from edgeks.checkpoint_footprint import checkpoint_footprint
        from edgeks.samples import parse_input_shape

        if inputs and len(inputs) > 1:
            raise ConfigError(f"{model}: --input {inputs[1]}: a checkpoint has one input")
        shape = parse_input_shape(inputs[0]) if inputs else None
        checkpoint = load_checkpoint(model, arch, trust=trust)
        with err.status("exporting to a temporary folder"):
            exports = checkpoint_footprint(
                checkpoint,
                chosen or load_target("onnx"),
                shape,
                flash_budget=flash_budget,
                ram_budget=ram_budget,
                profile=profile,
            )
        if as_json:
            print_json({"schema": "edgeks.footprints/1", "exports": [to_json(found) for found in exports.values()]})
        else:
            render_exports(exports, out)
        if not any(found.is_known_to_fit for found in exports.values()):
            exports["int8"].require_fit()
        return
    boards = read_boards([host] if host else None, hosts)
    if len(boards) > 1 or (boards and not measure):
        found = f"{len(boards)} boards are named" if len(boards) > 1 else f"--host {boards[0].name}"
        raise ConfigError(f"{found}: --measure measures on one board; name one, and --measure")
    with ExitStack() as stack:
        status = stack.enter_context(err.status("measuring")) if measure else None
        board = None
        if boards and status:
            folder = wheel_folder(wheelhouse, None)
            board = stack.enter_context(BoardPlace(boards[0], folder, lambda what: status.update(escape(what))))
        result = audit(
            model,
            chosen,
            machine=kind_of(str(board.traits()["machine"])) if board else this_machine() if measure else None,
            inputs=_sizes(inputs or []),
            flash_budget=flash_budget,
            ram_budget=ram_budget,
            profile=profile,
        )
        if measure:
            result = with_measurements(result, python, board)
    changed = compare(audit(diff, chosen, machine=result.machine, profile=profile), result) if diff else None
    if html:
        with atomic_write(html) as temporary:
            temporary.write_text(html_page(to_json(result, changed)), encoding="utf-8")
    if as_json:
        print_json(to_json(result, changed))
    else:
        render(result, out, changed)
        if html:
            say(f"{html}: written")
    result.require_fit()


def _sizes(given: list[str]) -> dict[str, tuple[int, ...]]:
    """["images=1x3x320x320"] → {"images": (1, 3, 320, 320)}; without a name under ""."""
    found: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, _, sizes = text.rpartition("=")
        if not re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9})*", sizes) or name in found:
            raise ConfigError(f"--input {text}: legal: each input once: NAME=1x3x224x224 (of the only one 1x3x224x224)")
        found[name] = tuple(map(int, sizes.split("x")))
    return found


def _refuse_what_would_be_ignored(model: Path, checkpoint: dict[str, object], file: dict[str, object]) -> None:
    """Options that are about a checkpoint only, and about a model file only, by name.

    Raises:
        ConfigError: one of them is given with the other.
    """
    is_checkpoint = model.suffix.lower() in CHECKPOINTS
    given = [name for name, value in (file if is_checkpoint else checkpoint).items() if value]
    if given and is_checkpoint:
        raise ConfigError(f"{model}: {' and '.join(given)}: for a model file only: `edgeks export` makes one")
    if given:
        legal = ", ".join(CHECKPOINTS)
        raise ConfigError(f"{model}: {' and '.join(given)}: for a checkpoint only ({legal}), not for a model file")
