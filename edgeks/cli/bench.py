"""`edgeks bench`: how long a file runs, here or on boards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeks.cli.options import JsonOption, err, out, print_json, read_boards, say, wheel_folder
from edgeks.errors import CheckFailed, ConfigError, EdgeksError, ParityFailed

if TYPE_CHECKING:
    from edgeks.bench.measurement import Job
    from edgeks.bench.record import Failure, Record
    from edgeks.board.host import Host
    from edgeks.fleet import Findings, Request

WHERE, HOW_LONG, AGAINST, WHAT = "Where", "How long", "Comparing", "What is kept and shown"
# Right numbers differ by roundings, 25 dB and more; wrong ones (saturated products, other scales) are far below.
MIN_SQNR_DB = 15.0


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
        bool,
        typer.Option("--wheelhouse", help="Fetch packages here: boards without internet.", rich_help_panel=WHERE),
    ] = False,
    wheels: Annotated[
        Path | None, typer.Option(help="Folder of --wheelhouse.", metavar="DIR", rich_help_panel=WHERE)
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
        str | None,
        typer.Option(help="Of --instructions: cortex-a53, cortex-a72 (default) or cortex-a76.", rich_help_panel=WHERE),
    ] = None,
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
        str | None,
        typer.Option(
            help="Compare with another board: a name of --hosts, or as --host takes it.", rich_help_panel=AGAINST
        ),
    ] = None,
    ops: Annotated[
        bool,
        typer.Option("--ops", help="Also the time of each operator, where the runtime tells it.", rich_help_panel=WHAT),
    ] = False,
    require_valid: Annotated[
        bool,
        typer.Option("--require-valid", help="Exit code 1 where something disturbed it.", rich_help_panel=WHAT),
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
    show: Annotated[
        str | None,
        typer.Option(help="Show a record again, by its id in --history.", metavar="ID", rich_help_panel=WHAT),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time a model file, here or on boards: fresh processes, every sample kept, outputs checked, disturbances named."""
    from edgeks.bench.measurement import PRESETS
    from edgeks.bench.store import record_id
    from edgeks.fleet import Request

    if html and html.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {html}: names the page to write; legal: a name that ends in .html")
    if history:
        _history(records, model, as_json=as_json)
        return
    if show is not None:
        from edgeks.bench.record import load_record
        from edgeks.bench.store import find

        _report(load_record(find(records, show)), html, as_json=as_json)
        return
    if model is None:
        raise ConfigError("name a model file: edgeks bench FILE; or --history for the records")
    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: legal: {', '.join(PRESETS)}")
    asked: dict[str, Any] = {
        "processes": processes, "runs": runs, "seconds": seconds, "warmup": warmup, "repeats": repeat
    }  # fmt: skip
    others = {
        "against": against, "against-target": against_target, "against-runtime": against_runtime,
        "against-threads": against_threads, "against-host": against_host
    }  # fmt: skip
    if instructions:
        _require_none(
            {
                "require-valid": require_valid or None,
                "host": host,
                "hosts": hosts,
                "wheelhouse": wheelhouse or None,
                "wheels": wheels,
                "python": python,
            }
            | {"threads": threads, "pin": pin, "samples": samples, "ops": ops or None, "html": html}
            | {"repeat" if name == "repeats" else name: given for name, given in asked.items()}
            | others,
            "--instructions counts FILE in an emulator, with one thread",
        )
        _instructions(model, target, runtime, inputs, cpu or "cortex-a72", as_json=as_json)
        return
    _require_none({"cpu": cpu}, "without --instructions")
    boards = read_boards(host, hosts)
    if boards:
        _require_none({"python": python}, "of a board it is `python` in the file of --hosts")
    effort = replace(PRESETS[preset], profile=ops, **{name: n for name, n in asked.items() if n is not None})
    jobs = _jobs(model, target, runtime, _numbers(threads, "--threads"), _numbers(pin, "--pin") or (), inputs)
    other = None
    elsewhere = None
    if any(given is not None for given in others.values()):
        if len(jobs) > 1:
            raise ConfigError(f"--threads {threads}: a comparison is of one number; --against-threads names the other")
        other = _against(jobs[0], against, against_target, against_runtime, against_threads)
        if other == jobs[0] and against_host is None:
            raise ConfigError("--against names the very same; change the file, target, runtime, threads or host")
        if against_host is not None:
            boards, elsewhere = _apart(boards, against_host)
    request = Request(
        jobs=jobs,
        effort=effort,
        against=other,
        against_host=elsewhere,
        samples=samples or _samples_beside(model),
        python=python,
        wheelhouse=wheel_folder(wheelhouse, wheels),
    )
    record, findings, kept = _measure(boards, request, None if no_record else records)
    if _measured(record):
        _report(record, html, as_json=as_json)
    if kept and not as_json:
        say(f"record {record_id(kept)}: {kept}")
    if findings.errors:
        raise findings.errors[0]
    _require_right(record)
    if require_valid:
        _require_valid(record)


def _require_none(options: dict[str, object], why: str) -> None:
    """Raise ConfigError for an option that was given and would be ignored."""
    for name, given in options.items():
        if given is not None:
            raise ConfigError(f"--{name}: {why}; leave it out")


def _apart(boards: Sequence[Host], name: str) -> tuple[tuple[Host, ...], Host]:
    """The board to measure, none for this machine, and the one of --against-host: a name of --hosts, or a destination.

    Raises:
        ConfigError: several boards, which would all disturb that one; or none but that one.
    """
    from edgeks.board.hosts_file import parse_host, require_distinct

    other = next((board for board in boards if board.name == name), None)
    rest = tuple(board for board in boards if board is not other)
    if other is not None and not rest:
        raise ConfigError(f"--against-host {name}: is the board that is compared; name another")
    if len(rest) > 1:
        names = ", ".join(board.name for board in rest)
        raise ConfigError(f"--against-host {name}: compares one board with that one; found {names}; name one")
    other = other or parse_host(name)
    require_distinct((*rest, other))
    return rest, other


def _jobs(
    path: Path,
    target: str | None,
    runtime: str | None,
    threads: Sequence[int] | None,
    pin: Sequence[int],
    inputs: Path | None,
) -> tuple[Job, ...]:
    """One job per number of threads, each known to fit its file."""
    from edgeks.bench.local import checked_session
    from edgeks.bench.measurement import Job
    from edgeks.target import load_target

    chosen = load_target(target or ("tflite" if path.suffix == ".tflite" else "onnx"))
    found = []
    for count in threads or (chosen.session.threads,):
        named, _ = checked_session(path, chosen, runtime, count)
        found.append(Job(path, chosen, named, count, tuple(pin), inputs))
    return tuple(found)


def _against(job: Job, path: Path | None, target: str | None, runtime: str | None, threads: int | None) -> Job:
    """The job to compare with: `job` with what was named changed."""
    same_format = path is None or path.suffix == job.path.suffix
    (other,) = _jobs(
        path or job.path,
        target or (job.target.name if same_format else None),
        runtime or (job.runtime if same_format and target is None else None),
        (threads or job.threads,),
        job.pin,
        job.inputs if same_format else None,
    )
    return other


def _measured(record: Record) -> bool:
    """Whether a process ran to its end."""
    return any(entry.measurement.repetitions for entry in record.entries)


def _measure(hosts: Sequence[Host], request: Request, folder: Path | None) -> tuple[Record, Findings, Path | None]:
    """Measure with a bar for each machine; the record is written after every process, and names what was lost.

    Its path, or None where there is none: none is wanted, or nothing was measured.
    """
    from edgeks.bench.place import LOCAL
    from edgeks.bench.record import RUNNING, Failure, make_record
    from edgeks.bench.store import claim, save
    from edgeks.fleet import Findings, run_fleet

    names = [host.name for host in hosts] or [LOCAL]
    known = [*hosts, *([request.against_host] if request.against_host else [])]

    def record_of(found: Findings, *also: Failure) -> Record:
        failures = (*found.failures, *also)
        comparisons, command = found.comparisons, ("edgeks", *sys.argv[1:])
        return make_record(found.measurements, comparisons, command=command, hosts=known, failures=failures)

    path = (
        None if folder is None else claim(folder, request.jobs[0].path.stem, names[0] if len(names) == 1 else "fleet")
    )

    def keep(found: Findings) -> None:
        if path is not None:
            with suppress(EdgeksError):  # a disk that is full now need not end the run; the last record says so
                save(path, record_of(found, Failure("", "", RUNNING)))

    findings = Findings(keep)
    try:
        with _Bars(names) as bars:
            run_fleet(hosts, request, findings, bars.tell)
    except BaseException:
        if path is not None and not _measured(record_of(findings)):
            path.unlink(missing_ok=True)
        raise
    record = record_of(findings)
    if path is None:
        return record, findings, None
    if not _measured(record):
        path.unlink(missing_ok=True)
        return record, findings, None
    try:
        save(path, record)
    except EdgeksError as error:
        findings.errors.append(error)  # once all is shown
    return record, findings, path


class _Bars:
    """A progress bar for each machine, on a terminal."""

    def __init__(self, names: Sequence[str]) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.table import Column

        # A narrow terminal cuts what it does and the bar, never the name and the percentage.
        columns = (
            TextColumn(
                "{task.fields[machine]}",
                markup=False,
                table_column=Column(no_wrap=True, min_width=min(20, max(map(len, names)))),
            ),
            BarColumn(20),
            TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        )
        self._progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._tasks = {name: self._progress.add_task("", total=1.0, machine=name) for name in names}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, machine: str, what: str, fraction: float) -> None:
        """What a machine is doing, and how much of its work is done."""
        if machine in self._tasks:
            self._progress.update(self._tasks[machine], description=what, completed=fraction)


def _report(record: Record, html: Path | None, *, as_json: bool) -> None:
    """What was found, where anything was: JSON or tables, and a page."""
    from edgeks.atomic_write import write_text
    from edgeks.bench.html_report import html_page
    from edgeks.bench.record import to_json
    from edgeks.bench.report import render

    if as_json:
        print_json(to_json(record))
    elif record.entries:
        render(record, out)
    if html and record.entries:
        write_text(html, html_page(record))
        if not as_json:
            say(f"{html}: written")


def _require_right(record: Record) -> None:
    """Raise ParityFailed where a machine computes other numbers than the file says."""
    for entry in record.entries:
        parity = entry.measurement.parity.parity
        if parity is not None and parity.sqnr_db < MIN_SQNR_DB:
            one = entry.measurement
            raise ParityFailed(
                f"{one.machine}: {one.job.name}: its outputs are {parity.sqnr_db:.1f} dB from the file's own "
                f"arithmetic (required: {MIN_SQNR_DB:g}): it computes wrong numbers; try another runtime or form"
            )


def _require_valid(record: Record) -> None:
    """Raise CheckFailed where something disturbed what was measured."""
    for taints, name in (
        *((entry.taints, entry.measurement.job.name) for entry in record.entries),
        *((comparison.taints, "the comparison") for comparison in record.comparisons),
    ):
        if taints:
            raise CheckFailed(f"{name} is invalid: {taints[0]}; --repeat N runs more processes")


def _history(folder: Path, model: Path | None, *, as_json: bool) -> None:
    from edgeks.bench.history_table import render_history, to_json
    from edgeks.bench.store import history

    found = history(folder, str(model) if model else None)
    if as_json:
        print_json(to_json(found))
    else:
        render_history(found, out)


def _instructions(
    model: Path, target: str | None, runtime: str | None, inputs: Path | None, cpu: str, *, as_json: bool
) -> None:
    from rich.markup import escape

    from edgeks.instructions import count_instructions, render, to_json
    from edgeks.target import load_target

    chosen = load_target(target or ("tflite" if model.suffix == ".tflite" else "onnx"))
    with err.status("starting the emulator") as status:
        found = count_instructions(
            model, chosen, cpu, runtime, inputs=inputs, on_step=lambda line: status.update(escape(line))
        )
    if as_json:
        print_json(to_json(found))
    else:
        render(found, out)


def _numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """`1,4` → (1, 4)."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise ConfigError(f"{option} {text}: legal: whole numbers with commas, such as 1,4")
    return tuple(dict.fromkeys(map(int, parts)))


def _samples_beside(model: Path) -> Path | None:
    """What `export --keep-samples` wrote with the file."""
    from edgeks.sample_inputs import samples_beside

    found = samples_beside(model)
    return found if found.is_file() else None
