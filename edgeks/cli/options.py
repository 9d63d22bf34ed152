"""What the commands have in common: the consoles, and options that several take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edgeks.errors import ConfigError

if TYPE_CHECKING:
    from edgeks.board.host import Host
    from edgeks.checkpoint import Checkpoint
    from edgeks.layered_toml import Layer

PIPE_WIDTH = 100  # where there is no terminal to ask


class _Console(Console):
    """Rich ends the process with code 1, "a check failed", where the reader of a pipe has gone (`| head`)."""

    def on_broken_pipe(self) -> None:
        """End as if all had been read."""
        raise BrokenPipeError


out = _Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, emoji=False)

ArchOption = Annotated[
    str | None,
    typer.Option(help="Network of a plain state dict: package.module:callable, or a name from `edgeks models`."),
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Load pickled objects from the file: this executes code that it holds.")
]
TargetOption = Annotated[str, typer.Option(help="A name from `edgeks targets`, or the path of a TOML file.")]
BoardFileOption = Annotated[
    Path | None, typer.Option("--hosts", help="TOML file that names that board instead.", metavar="HOSTS.toml")
]
WheelhouseOption = Annotated[bool, typer.Option("--wheelhouse", help="Fetch packages here: a board without internet.")]
OverlayOption = Annotated[
    list[str] | None,
    typer.Option("--with", help="A TOML file, or one of pipelines/, laid over the recipe.", metavar="FILE.toml"),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A key of the recipe: train.epochs=3.", metavar="KEY=VALUE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")]


def read_boards(names: list[str] | None, file: Path | None) -> tuple[Host, ...]:
    """Those of a hosts file, then those that were named.

    Raises:
        ConfigError, BoardError: one is malformed, or there twice.
    """
    from edgeks.board.hosts_file import load_hosts, parse_host, require_distinct

    boards = (*(load_hosts(file) if file is not None else ()), *map(parse_host, names or ()))
    require_distinct(boards)
    return boards


def wheel_folder(wheelhouse: bool, folder: Path | None) -> Path | None:
    """Where --wheelhouse fetches to: `folder`, or the default one; None without it.

    Raises:
        ConfigError: a folder without --wheelhouse.
    """
    from edgeks.board.wheelhouse import default_wheelhouse

    if folder is not None and not wheelhouse:
        raise ConfigError(f"--wheels {folder}: is the folder of --wheelhouse: add it")
    return (folder or default_wheelhouse()) if wheelhouse else None


def key_values(option: str, pairs: list[str], example: str = "train.epochs=3") -> dict[str, Any]:
    """KEY=VALUE pairs of `option` → values: JSON where they can be read as JSON, else text.

    Raises:
        ConfigError: something else than KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"{option} {pair}: legal: KEY=VALUE, such as {example}")
        try:
            found[key] = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            found[key] = value
    return found


def set_layers(pairs: list[str] | None) -> list[Layer]:
    """`--set KEY=VALUE` of a recipe, each as a layer over it.

    Raises:
        ConfigError: something else than KEY=VALUE.
    """
    from edgeks.layered_toml import assignment

    return [assignment(key, value, f"--set {key}") for key, value in key_values("--set", pairs or []).items()]


def given(context: typer.Context, *names: str) -> list[str]:
    """Which of the options `names` (as parameters) are on the command line, as they are written there."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    asked = (name for name in names if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE")
    return [options[name] for name in asked]


def image_size(checkpoint: Checkpoint) -> int | None:
    """The side of the square images that a network takes, as far as its checkpoint says."""
    shape = checkpoint.preprocessing.shape if checkpoint.preprocessing else (0, 0, 1)
    return shape[1] if shape[1] == shape[2] else None


def say(line: str) -> None:
    """A line that no width breaks, so that a path in it can be copied."""
    out.print(line, soft_wrap=True, markup=False)


def print_json(content: dict[str, Any]) -> None:
    """The object on standard output."""
    typer.echo(json.dumps(content, indent=1))
