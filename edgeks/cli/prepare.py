"""`edgeks prepare`, and what `edgeks export --prepare-for` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import JsonOption, TargetOption, err, out, print_json, say
from edgeks.wording import counted

if TYPE_CHECKING:
    from edgeks.prepare_onnx import PreparedFile


def prepare(
    model: Annotated[Path, typer.Argument(help="An .onnx file of any tool, float or int8.", metavar="FILE")],
    target: TargetOption = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: FILE.prepared.onnx beside it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write FILE as ONNX Runtime optimises it for this machine's CPU, with kernels that it maps instead of copying."""
    from edgeks.prepare_onnx import prepare_onnx
    from edgeks.target import load_target

    chosen = load_target(target)
    with err.status(f"preparing {model.name}"):
        found = prepare_onnx(model, chosen, output)
    if as_json:
        print_json(to_json(found))
    else:
        render(found)


def to_json(found: PreparedFile) -> dict[str, object]:
    """PreparedFile → plain numbers and text."""
    from dataclasses import asdict

    return {
        "schema": "edgeks.prepared/1",
        "file": str(found.path),
        "data": str(found.data_path),
        "file_bytes": found.model_bytes,
        "data_bytes": found.data_bytes,
        "shared_kernels": found.shared_kernels,
        "prepared": asdict(found.prepared),
        "loader": found.loader,
    }


def render(found: PreparedFile) -> None:
    """What was written, what it is right for, and how it is opened."""
    from rich.markup import escape

    prepared = found.prepared
    many = counted(found.shared_kernels, "shared kernel")
    out.print(
        f"[bold]{escape(str(found.path))}[/]: {found.model_bytes:,} bytes, and {found.data_bytes:,} bytes mapped from "
        f"{escape(found.data_path.name)}",
        soft_wrap=True,
    )
    say(f"exactly once  {many}, each stored once; outputs are those of {prepared.source} bit for bit")
    say(f"only for      {prepared.only_for}: not portable, and elsewhere it may compute wrong numbers")
    say("open it so, with the data file beside it:")
    say(found.loader)
