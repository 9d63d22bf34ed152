"""`edgeks bench`: how long a file runs, here or on boards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import JsonOption, err, out, print_json, say
from edgeks.errors import CheckFailed, ConfigError, EdgeksError, ParityFailed

if TYPE_CHECKING:
    from edgeks.bench.measurement import Effort, Job
    from edgeks.board.host import Host
    from edgeks.fleet import Findings, Request

WHERE, HOW_LONG, AGAINST, WHAT = "Where", "How long", "Comparing", "What is kept and shown"
MAX_CORES = 1024


def bench(
    model: Annotated[Path | None, typer.Argument(help="Model file: .onnx or .tflite.", metavar="FILE")] = None,
    target: Annotated[
        str | None, typer.Option(help="A name from `edgeks targets`, or a TOML file. Default: onnx or tflite, as FILE.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="Of a .tflite file: litert, litert-compiled (with a weight cache) or tflite-runtime."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(help="Instead of the target's number; 1,4 measures both.", metavar="N[,N…]")
    ] = None,
    pin: Annotated[str | None, typer.Option(help="Cores to stay on, such as 0,1.", metavar="N[,N…]")] = None,
    inputs: Annotated[
        Path | None, typer.Option(help=".npz or .npy to feed, one array per input; default: random.")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help=".npz of real samples N×C×H×W, to compare the machine's outputs on.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="A board, as ssh takes it: pi@raspberrypi.local. Several: at the same time.", rich_help_panel=WHERE
        ),
    ] = None,
    hosts: Annotated[
        Path | None, typer.Option(help="TOML file that names boards.", metavar="HOSTS.toml", rich_help_panel=WHERE)
    ] = None,
    wheelhouse: Annotated[
        Path | None,
        typer.Option(help="Folder of wheels, fetched here, for boards without internet.", rich_help_panel=WHERE),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(
            help="Python of another environment here, which has numpy and the runtime.", rich_help_panel=WHERE
        ),
    ] = None,
    instructions: Annotated[
        bool,
        typer.Option(
            "--instructions",
            help="Count Arm instructions in an emulator: repeatable to 0.1 %, not time.",
            rich_help_panel=WHERE,
        ),
    ] = False,
    cpu: Annotated[
        str, typer.Option(help="Of --instructions: cortex-a53, cortex-a72 or cortex-a76.", rich_help_panel=WHERE)
    ] = "cortex-a72",
    preset: Annotated[
        str,
        typer.Option(
            help="default: 5 processes of 50 runs and 1 s; quick: 3 of 10; mlperf: 1,024 runs and 60 s.",
            rich_help_panel=HOW_LONG,
        ),
    ] = "default",
    runs: Annotated[
        int | None, typer.Option(help="Timed inferences per process, at least.", rich_help_panel=HOW_LONG)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Seconds of them per process, at least.", rich_help_panel=HOW_LONG)
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Fresh processes; the interval needs 3.", rich_help_panel=HOW_LONG)
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(help="Untimed inferences before; default: until latency is stable.", rich_help_panel=HOW_LONG),
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(help="Processes that may replace disturbed ones.", rich_help_panel=HOW_LONG)
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this file, in turns.", metavar="OTHER", rich_help_panel=AGAINST)
    ] = None,
    against_target: Annotated[
        str | None, typer.Option(help="Compare with another target's session.", rich_help_panel=AGAINST)
    ] = None,
    against_runtime: Annotated[
        str | None, typer.Option(help="Compare with another runtime.", rich_help_panel=AGAINST)
    ] = None,
    against_threads: Annotated[
        int | None, typer.Option(help="Compare with another number of threads.", rich_help_panel=AGAINST)
    ] = None,
    against_host: Annotated[
        str | None, typer.Option(help="Compare with another board.", rich_help_panel=AGAINST)
    ] = None,
    ops: Annotated[
        bool,
        typer.Option("--ops", help="Also the time of each operator, where the runtime tells it.", rich_help_panel=WHAT),
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with plots.", metavar="PAGE.html", rich_help_panel=WHAT)
    ] = None,
    records: Annotated[
        Path, typer.Option(help="Folder of the records, one JSON file per run.", rich_help_panel=WHAT)
    ] = Path("runs", "bench"),
    no_record: Annotated[bool, typer.Option("--no-record", help="Keep no record.", rich_help_panel=WHAT)] = False,
    history: Annotated[
        bool, typer.Option("--history", help="List the records, of FILE or all.", rich_help_panel=WHAT)
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Time a model file here or on boards: fresh processes, every sample kept, outputs checked, disturbed runs named."""
