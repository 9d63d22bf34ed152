"""`edgeks doctor`: is a board ready to be measured, and what to do where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import JsonOption, err, out, print_json, read_boards, say

if TYPE_CHECKING:
    from edgeks.board.report import Examination

HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", help="A board, as ssh takes it: an alias, user@host, ssh://user@host:port. Repeatable."),
]
HostsOption = Annotated[Path | None, typer.Option("--hosts", help="A TOML file of boards.", metavar="FILE")]


def doctor(
    host: HostOption = None,
    hosts: HostsOption = None,
    setup: Annotated[bool, typer.Option("--setup", help="Make an environment with the runtimes on the board.")] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="onnxruntime, litert or tflite-runtime; repeatable. Default of --setup: what fits the board."
        ),
    ] = None,
    wheelhouse: Annotated[
        bool, typer.Option("--wheelhouse", help="Fetch packages here and push them: a board without internet.")
    ] = False,
    wheels: Annotated[
        Path | None,
        typer.Option(help="Folder of --wheelhouse. Default: ~/.cache/edgeks/wheels.", metavar="DIR"),
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove what edgeks put on the board.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Examine boards over SSH, or this machine: can they be measured, and what to do where they cannot."""
    from rich.markup import escape

    from edgeks.board.examine import clean_boards, examine, examine_here, require_runtimes, set_up
    from edgeks.board.report import render, to_json
    from edgeks.board.wheelhouse import default_wheelhouse
    from edgeks.errors import ConfigError

    boards = read_boards(host, hosts)
    if not boards and (setup or clean):
        raise ConfigError(f"--{'setup' if setup else 'clean'} works on a board; name it: --host user@board")
    if setup and clean:
        raise ConfigError("--setup and --clean are opposites; name one")
    if (wheelhouse or wheels) and not setup:
        raise ConfigError(f"--{'wheels' if wheels else 'wheelhouse'} is for --setup; name both")
    wanted = require_runtimes(tuple(runtime or ()))
    if not boards:
        found: tuple[Examination, ...] = (examine_here(wanted),)
    elif clean:
        found = clean_boards(boards)
    elif setup:
        folder = (wheels or default_wheelhouse()) if wheelhouse or wheels else None
        with err.status("") as status:

            def show(name: str, line: str) -> None:
                status.update(escape(f"{name}: {line}"[: max(20, err.width - 4)]))

            found = set_up(boards, wanted, folder, show)
    else:
        with err.status(escape(f"examining {', '.join(board.name for board in boards)}")):
            found = examine(boards, wanted)
    if as_json:
        print_json(to_json(found))
    else:
        for place, one in enumerate(found):
            if place:
                say("")
            render(one, out)
    code = max(one.exit_code for one in found)
    if code:
        raise typer.Exit(code)
