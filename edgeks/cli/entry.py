"""The commands, and the entry point that runs them."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from edgeks import __version__
from edgeks.cli.advise import advise
from edgeks.cli.audit import footprint
from edgeks.cli.bench import bench
from edgeks.cli.catalogue import models, recipes, targets
from edgeks.cli.doctor import doctor
from edgeks.cli.export import export
from edgeks.cli.options import err
from edgeks.cli.prepare import prepare
from edgeks.cli.prune import blending, prune
from edgeks.cli.run import run
from edgeks.cli.share import share
from edgeks.cli.study import study
from edgeks.cli.train import train
from edgeks.errors import EdgeksError

INTERRUPTED = 130
COMMANDS = (
    export,
    prepare,
    footprint,
    bench,
    doctor,
    advise,
    train,
    share,
    prune,
    blending,
    run,
    study,
    recipes,
    targets,
    models,
)

app = typer.Typer(
    name="edgeks",
    help="Kernel-sharing CNNs from PyTorch to a board: every shared kernel stored exactly once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        typer.echo(f"edgeks {__version__}")
        raise typer.Exit


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
