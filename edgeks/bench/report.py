"""Record → a report on the terminal, the answer first, at most 100 columns wide."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeks import terminal
from edgeks.bench import words
from edgeks.bench.measurement import Comparison
from edgeks.bench.record import Entry, Record
from edgeks.bench.words import figure, middle, ms, plural, shortened
from edgeks.terminal import printable

WIDTH = 100
OPS_SHOWN = 8
NAME_WIDTH = 28
FIGURES = ("p50, ms", "95 %", "p90", "p99", "load", "first", "RAM", "valid")
# Columns that a narrow terminal has no room for, the first to go first.
SPARED = ("first", "load", "p99", "p90", "RAM")


def render(record: Record, console: Console) -> None:
    """Print verdicts of comparisons, or the latency; whether that is valid; then on what and with what."""
    width = min(WIDTH, console.width)
    for line in _lines(record, width):
        console.print(line, width=width, highlight=False)


def _lines(record: Record, width: int) -> Iterator[Text | Table | str]:
    for comparison in record.comparisons:
        yield from _comparison(comparison)
    alone = len(record.entries) == 1
    if alone:
        yield from _answer(record.entries[0])
    elif not record.comparisons and record.entries:
        yield _answer_of_all(record)
    if record.entries and not (alone and not record.failures):
        yield ""
        yield _table_of_all(record, width)
    for failure in record.failures:
        # An error of the link begins with `name: ` or `name (destination): `.
        named = failure.error.startswith(f"{failure.machine} (")
        about = ", ".join(part for part in ("" if named else failure.machine, failure.job) if part)
        error = failure.error.removeprefix(f"{failure.machine}: ")
        yield Text(printable(f"✗ {about}: {error}" if about else f"✗ {error}"), style="red")
    described: set[str] = set()
    for entry, label in zip(record.entries, words.labels([one.measurement for one in record.entries]), strict=True):
        one = entry.measurement
        if not alone:
            yield ""
            yield Text(f"{shortened(one.machine)}: {label}", style="bold")
        if not one.is_emulated:
            yield _validity(entry)
        if alone and not entry.measurement.is_emulated and entry.latency:
            yield ""
            yield _latency_table(entry)
        if alone:
            yield ""
        yield _facts(entry, record, alone=alone, is_new=one.machine not in described)
        described.add(one.machine)
        yield from _ops(entry, alone=alone)
        if alone:
            yield from _too_few(entry)


def _comparison(comparison: Comparison) -> Iterator[Text]:
    decided = not comparison.taints and not words.is_emulated(comparison)
    style = {"faster": "bold green", "slower": "bold red"}.get(comparison.verdict, "bold")
    text = Text(words.verdict(comparison), style=style if decided else "bold yellow")
    if not words.is_emulated(comparison):
        text.append(f": {words.ratio(comparison)}", style="not bold default")
    yield text
    for taint in comparison.taints:
        yield Text(printable(f"✗ invalid: {taint}"), style="yellow")


def _answer(entry: Entry) -> Iterator[Text]:
    one, latency = entry.measurement, entry.latency
    text = Text.assemble((shortened(one.job.path.name), "bold"), f" on {printable(one.machine)}: ")
    if one.is_emulated:
        text.append(words.EMULATED, "bold yellow")
        text.append(f"; RAM {words.mb(entry.ram.peak_bytes)}" if entry.ram else "")
        text.append(f"; {words.threads(one.job)}, {words.runtime(one)}.")
        yield text
        return
    if latency is None:
        text.append("no process came to its end", "bold red")
        yield text
        return
    value, name = (latency.mean_ms, "mean") if latency.p50_ms is None else (latency.p50_ms, "p50")
    text.append(f"{name} {ms(value)}", "bold green" if not entry.taints else "bold yellow")
    if entry.p50_interval and latency.p50_ms is not None:
        text.append(f" {words.interval(entry.p50_interval)}")
    for percent in (90, 99):
        found = getattr(latency, f"p{percent}_ms")
        text.append("" if found is None else f", p{percent} {ms(found)}")
    processes = len(one.valid or one.repetitions)
    text.append(f" over {plural(latency.count, 'run')} in {plural(processes, 'process')}, {words.threads(one.job)}, ")
    text.append(f"{words.runtime(one)}.")
    yield text


def _answer_of_all(record: Record) -> Text:
    """The fastest and the slowest."""
    measurements = [entry.measurement for entry in record.entries]
    files = list(dict.fromkeys(shortened(one.job.path.name) for one in measurements))
    of_machines = len({one.machine for one in measurements}) > 1
    text = Text.assemble((files[0] if len(files) == 1 else plural(len(files), "file"), "bold"))
    text.append(f", {plural(len(measurements), 'measurement')}: ")
    timed = [
        (entry.latency.p50_ms, shortened(entry.measurement.machine) if of_machines else label)
        for entry, label in zip(record.entries, words.labels(measurements), strict=True)
        if entry.latency and entry.latency.p50_ms is not None and not entry.taints
    ]
    if timed:
        (best, at), (worst, there) = min(timed), max(timed)
        text.append(f"p50 {ms(best)} ({at})", "bold green")
        text.append(f" to {ms(worst)} ({there})" if len(timed) > 1 else "")
    else:
        emulated = all(one.is_emulated for one in measurements)
        text.append(words.EMULATED if emulated else "no valid time", "bold yellow")
    left_out = len(measurements) - len(timed)
    text.append(f"; {left_out} without a valid time" if left_out and timed else "")
    text.append(f"; {len(record.failures)} failed" if record.failures else "", "red")
    return text


def _validity(entry: Entry) -> Text:
    says, is_valid = words.validity(entry)
    return Text(f"{'✓' if is_valid else '✗'} {says}", style="green" if is_valid else "yellow")


def _table_of_all(record: Record, width: int) -> Table:
    """One line per measurement, and one per failure of a machine that measured nothing; times in ms."""
    machines = {entry.measurement.machine for entry in record.entries}
    of_machines = len(machines) > 1 or bool(record.failures)
    of_jobs = not of_machines or len({entry.measurement.job for entry in record.entries}) > 1
    heads = [*(["machine"] if of_machines else []), *(["job"] if of_jobs else []), *FIGURES]
    lines = []
    for entry, label in zip(record.entries, words.labels([one.measurement for one in record.entries]), strict=True):
        name = [*([shortened(entry.measurement.machine, 20)] if of_machines else []), *([label] if of_jobs else [])]
        lines.append(([*name, *_figures(entry)], "yellow" if entry.taints or not entry.latency else ""))
    for failure in record.failures:
        if failure.machine not in machines:
            name = [shortened(failure.machine, 20), *([shortened(failure.job, NAME_WIDTH)] if of_jobs else [])]
            lines.append(([*name, "failed", *[""] * (len(FIGURES) - 1)], "red"))
    kept = list(range(len(heads)))
    for spared in SPARED:
        if sum(max([len(heads[i]), *(len(cells[i]) for cells, _ in lines)]) + 2 for i in kept) > width:
            kept.remove(heads.index(spared))
    table = terminal.table("")
    table.title = None
    for index in kept:
        left = heads[index] in ("machine", "job")
        table.add_column(heads[index], justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for cells, style in lines:
        table.add_row(*(Text(cells[index]) for index in kept), style=style)
    return table


def _figures(entry: Entry) -> list[str]:
    """The cells of FIGURES."""
    one, latency, size = entry.measurement, entry.latency, words.mb(entry.ram.peak_bytes if entry.ram else None)
    if one.is_emulated:
        return ["emulated", *["–"] * 5, size, "–"]
    if latency is None:
        return ["none", *["–"] * 5, size, "no"]
    counted = one.valid or one.repetitions
    times = [middle(process.load_ms for process in counted), middle(process.first_inference_ms for process in counted)]
    shown = [figure(latency.p50_ms), words.interval(entry.p50_interval) or "–", figure(latency.p90_ms)]
    return [*shown, figure(latency.p99_ms), *map(figure, times), size, "no" if entry.taints else "yes"]


def _latency_table(entry: Entry) -> Table:
    """Load and first inference are the middle one of the processes."""
    latency, counted = entry.latency, entry.measurement.valid or entry.measurement.repetitions
    assert latency is not None  # noqa: S101
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    cells = {
        "load": middle(process.load_ms for process in counted),
        "first": middle(process.first_inference_ms for process in counted),
        "min": latency.min_ms,
        "p50": latency.p50_ms,
        "mean": latency.mean_ms,
        "p90": latency.p90_ms,
        "p99": latency.p99_ms,
        "max": latency.max_ms,
    }
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*map(ms, cells.values()))
    return table


def _facts(entry: Entry, record: Record, *, alone: bool, is_new: bool) -> Table:
    one = entry.measurement
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=len("measured on"))
    table.add_column(overflow="fold")
    rows = [("measured on", words.device(entry))] if is_new else []
    rows += [] if one.is_emulated else [("conditions", words.conditions(one))]
    rows += [("RAM", words.ram(entry)), ("parity", words.parity(one))]
    if alone:
        rows += [("session", words.session(one)), ("inputs", _inputs(entry)), ("warm-up", _warmup(entry))]
        rows += [("file", f"sha256 {file.sha256[:16]}…, {file.bytes:,} bytes") for file in entry.files[:1]]
        if record.command:
            rows.append(("command", shlex.join(record.command)))
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    return table


def _inputs(entry: Entry) -> str:
    one = entry.measurement
    fed = one.repetitions[0].inputs if one.repetitions else {}
    shapes = (
        f"{name} {'×'.join(map(str, of.get('shape', ())))} {of.get('dtype', '')}"
        for name, of in fed.items()
        if isinstance(of, dict)
    )
    return f"{', '.join(shapes)}, {entry.inputs_file.path if entry.inputs_file else 'random'}"


def _warmup(entry: Entry) -> str:
    repetitions = entry.measurement.repetitions
    if not repetitions:
        return "–"
    counts = sorted({one.warmup for one in repetitions})
    runs = plural(counts[0], "run") if len(counts) == 1 else f"{counts[0]:,} to {plural(counts[-1], 'run')}"
    stable = [one.warmup_stable for one in repetitions]
    if all(one is None for one in stable):
        return f"{runs}, as given"
    unstable = sum(one is False for one in stable)
    return (
        f"{runs}, until stable"
        if not unstable
        else f"{runs}; {unstable} of {plural(len(stable), 'process')} not stable"
    )


def _ops(entry: Entry, *, alone: bool) -> Iterator[Text | Table]:
    one = entry.measurement
    if one.ops is None:
        if one.effort.profile and one.ops_reason:
            yield Text(f"no times per operator: {printable(one.ops_reason)}", style="dim")
        return
    if not alone or one.is_emulated:
        return
    total = sum(op.ms for op in one.ops if op.depth == 0)
    table = terminal.table("slowest operators", left=("operator", "type"), right=("ms", "share"))
    for op in sorted((op for op in one.ops if op.depth == 0), key=lambda op: -op.ms)[:OPS_SHOWN]:
        share = f"{100 * op.ms / total:.1f} %" if total else "–"
        table.add_row(Text(shortened(op.name, 48)), Text(shortened(op.type, NAME_WIDTH)), figure(op.ms), share)
    if len(one.ops) > OPS_SHOWN:
        table.caption = f"of {plural(len(one.ops), 'operator')} (all of them with --html or --json)"
        table.caption_justify = "left"
    yield Text("")
    yield table


def _too_few(entry: Entry) -> Iterator[Text]:
    latency, one = entry.latency, entry.measurement
    if latency is None:
        return
    lacking = [percent for percent in (50, 90, 99) if getattr(latency, f"p{percent}_ms") is None]
    if lacking:
        needed = ", ".join(f"p{percent} needs {100 // (100 - percent)}" for percent in lacking)
        yield Text(f"note: {plural(latency.count, 'run')}: too few; {needed} runs or more.", style="dim")
    if entry.p50_interval is None:
        counted = plural(len(one.valid or one.repetitions), "process")
        yield Text(f"note: {counted}: too few for an interval of p50, which needs 3.", style="dim")
