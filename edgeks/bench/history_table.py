"""History of records → a table on the terminal, at most 100 columns wide, or JSON of schema edgeks.bench_history/1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from edgeks import terminal
from edgeks.bench import words
from edgeks.bench.plain_data import to_plain
from edgeks.bench.store import History, Row
from edgeks.bench.words import figure, shortened
from edgeks.terminal import printable

SCHEMA = "edgeks.bench_history/1"
WIDTH = 100
HEADS = ("when, UTC", "file", "machine", "how", "p50, ms", "95 %", "change", "RAM", "valid", "id")
LEFT = ("when, UTC", "file", "machine", "how", "id")
SPARED = ("how", "RAM", "95 %", "machine")
LEAST_NAME = 16


def to_json(history: History) -> dict[str, Any]:
    """History → plain lists, numbers and text (docs/bench_schema.md)."""
    return {
        "schema": SCHEMA,
        "rows": [_row(row) for row in history.rows],
        "failed": [{"path": str(path), "error": error} for path, error in history.failed],
        "damaged": list(history.damaged),
    }


def _row(row: Row) -> dict[str, Any]:
    entry, one = row.entry, row.entry.measurement
    return {
        "id": row.id,
        "path": str(row.path),
        "started": row.started,
        "file": str(one.job.path),
        "machine": one.machine,
        "is_emulated": one.is_emulated,
        "runtime": one.job.runtime,
        "threads": one.job.threads,
        "p50_ms": entry.latency.p50_ms if entry.latency else None,
        "p50_interval": to_plain(entry.p50_interval),
        "ram_peak_bytes": entry.ram.peak_bytes if entry.ram else None,
        "taints": list(entry.taints),
        "change": row.change,
        "change_is_shown": row.is_shown,
        "file_changed": row.file_changed,
        "against": row.against,
        "verdict": row.verdict,
        "error": row.error,
    }


def render_history(history: History, console: Console) -> None:
    """Print what was measured in the order of time, each with its change against the run before that is like it."""
    width = min(WIDTH, console.width)
    for line in _lines(history, width):
        console.print(line, width=width, highlight=False)


def _lines(history: History, width: int) -> Iterator[Text | Table]:
    if history.rows:
        yield _table(history.rows, width)
        shown = any(row.change is not None and not row.is_shown for row in history.rows)
        changed = any(row.file_changed for row in history.rows)
        notes = ["~: the intervals meet, no difference is shown"] if shown else []
        notes += ["*: the file has changed since"] if changed else []
        if notes:
            yield Text("; ".join(notes), style="dim")
    else:
        yield Text("no benchmark is recorded there")
    errors = {row.id: row.error for row in history.rows if row.error}
    for row in history.rows:
        if row.verdict:
            name = shortened(row.entry.measurement.job.name)
            yield Text(f"{row.id}: {name} against {shortened(row.against)}: {row.verdict}")
    for name, error in errors.items():
        yield Text(f"{name}: not finished: {shortened(error, 300)}", style="yellow")
    for path, error in history.failed:
        yield Text(f"{shortened(path.name)}: nothing was measured: {shortened(error, 300)}", style="yellow")
    for damaged in history.damaged:
        yield Text(f"left out: {printable(damaged)}", style="yellow")


def _table(rows: tuple[Row, ...], width: int) -> Table:
    lines = [_cells(row) for row in rows]
    one_file = len({row.entry.measurement.job.path.name for row in rows}) == 1
    kept = [index for index, head in enumerate(HEADS) if not (one_file and head == "file")]
    for spared in SPARED:
        widths = {HEADS[i]: max(len(HEADS[i]), *(len(cells[i]) for cells in lines)) for i in kept}
        least = sum(min(LEAST_NAME, wide) if head == "file" else wide for head, wide in widths.items())
        if least + len(kept) > width:
            kept.remove(HEADS.index(spared))
    table = terminal.table("")
    table.padding = (0, 0, 0, 0)
    table.title = Text(shortened(rows[0].entry.measurement.job.path.name), style="bold") if one_file else None
    for index in kept:
        is_file = HEADS[index] == "file"
        justify: JustifyMethod = "left" if HEADS[index] in LEFT else "right"
        table.add_column(HEADS[index], justify=justify, no_wrap=not is_file, overflow="fold")
    for row, cells in zip(rows, lines, strict=True):
        table.add_row(*(_styled(row, HEADS[index], cells[index]) for index in kept))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    entry, one = row.entry, row.entry.measurement
    when = printable(row.started[:16]).replace("T", " ")
    how = f"{shortened(one.job.runtime, 16)} ×{one.job.threads}"
    if one.is_emulated:
        times = ["emulated", "–"]
    else:
        latency = entry.latency
        times = [figure(latency.p50_ms if latency else None), words.interval(entry.p50_interval) or "–"]
    valid = "–" if one.is_emulated else "no" if entry.taints or not entry.latency else "yes"
    ram = words.mb(entry.ram.peak_bytes if entry.ram else None)
    name, machine = shortened(one.job.path.name, 48), shortened(one.machine, 16)
    return when, name, machine, how, *times, _change(row), ram, valid, row.id


def _change(row: Row) -> str:
    if row.change is None:
        return ""
    share = f"{'−' if row.change < 0 else '+'}{abs(100 * row.change):.1f} %"
    return f"{'' if row.is_shown else '~'}{share}{'*' if row.file_changed else ''}"


def _styled(row: Row, head: str, cell: str) -> Text:
    if head == "change" and row.change is not None and row.is_shown:
        return Text(cell, style="bold green" if row.change < 0 else "bold red")
    return Text(cell, style="yellow" if cell == "no" else "dim" if head in ("change", "id") else "")
