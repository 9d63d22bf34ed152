"""Footprint → a terminal report with the answer first, or JSON of schema edgeks.footprint/1.

The JSON object (docs/footprint_schema.md): schema, file, flash {file_bytes, constant_bytes, unique_bytes, graph_bytes,
saved_bytes, kernels, layers, sharing_groups, copies, ops}, activations {peak_bytes, node, op_type, alive, notes},
ram_estimate_bytes, target, budgets, fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeks import terminal
from edgeks.audit.arena import Arena
from edgeks.audit.flash import CopySet, Flash
from edgeks.audit.footprint import BudgetCheck, Footprint

SCHEMA = "edgeks.footprint/1"
WIDTH = 100
ROWS_SHOWN = 8
MIN_WIDTH = {column: len("000.0 kB") for column in ("bytes", "stored", "saved", "wasted")} | {"share": 7, "type": 7}
NAME_WIDTH = 28


def to_json(footprint: Footprint) -> dict[str, Any]:
    """Footprint → plain lists, numbers and text; sizes in bytes, unknown ones null."""
    flash, arena = footprint.flash, footprint.arena
    return {
        "schema": SCHEMA,
        "file": str(footprint.path),
        "flash": {
            "file_bytes": flash.file_bytes,
            "constant_bytes": flash.constant_bytes,
            "unique_bytes": flash.unique_bytes,
            "graph_bytes": flash.graph_bytes,
            "saved_bytes": flash.saved_bytes,
            "kernels": flash.kernels,
            "layers": flash.layers,
            "sharing_groups": [
                {
                    "constant": kernel.constant,
                    "dtype": kernel.dtype,
                    "shape": list(kernel.shape),
                    "layers": list(kernel.layers),
                    "stored_bytes": kernel.stored_bytes,
                    "saved_bytes": kernel.saved_bytes,
                }
                for kernel in flash.shared
            ],
            "copies": [
                {
                    "kind": copies.kind,
                    "constants": list(copies.constants),
                    "shape": list(copies.shape),
                    "wasted_bytes": copies.wasted_bytes,
                }
                for copies in flash.copies
            ],
            "ops": [
                {
                    "op_type": row.op_type,
                    "nodes": row.nodes,
                    "constants": row.constants,
                    "stored_bytes": row.stored_bytes,
                }
                for row in flash.ops
            ],
        },
        "activations": _arena_json(arena),
        "folded_bytes": arena.folded_bytes,
        "ram_estimate_bytes": footprint.ram_bytes,
        "target": footprint.target,
        "budgets": [
            {
                "resource": check.resource,
                "needed_bytes": check.needed_bytes,
                "budget_bytes": check.budget_bytes,
                "fits": check.fits,
            }
            for check in footprint.budgets
        ],
        "fits": footprint.fits if footprint.target else None,
    }


def _arena_json(arena: Arena) -> dict[str, Any]:
    peak = arena.peak
    return {
        "peak_bytes": peak.peak_bytes if peak else None,
        "node": peak.node if peak else None,
        "op_type": peak.op_type if peak else None,
        "alive": [
            {
                "name": tensor.name,
                "made_by": tensor.made_by,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                "bytes": tensor.size_bytes,
            }
            for tensor in (peak.alive if peak else ())
        ],
        "notes": list(arena.notes),
    }


def render(footprint: Footprint, console: Console) -> None:
    """Print the report, at most 100 columns wide: the answer, then where the bytes are."""
    width = min(WIDTH, console.width)
    console.print(_answer(footprint), width=width, highlight=False)
    for line in _verdicts(footprint):
        console.print(line, width=width, highlight=False)
    for table in _tables(footprint):
        console.print()
        console.print(table, width=width, highlight=False)
    for note in footprint.arena.notes:
        console.print(Text(_printable(f"note: {note}"), style="dim"), width=width, highlight=False)


def _answer(footprint: Footprint) -> Text:
    flash, peak = footprint.flash, footprint.arena.peak
    text = Text.assemble(
        (_printable(footprint.path.name), "bold"), ": ", (f"{_mb(flash.file_bytes)} in flash", "bold green")
    )
    kernels = "1 kernel" if flash.kernels == 1 else f"{flash.kernels} kernels"
    layers = "1 layer" if flash.layers == 1 else f"{flash.layers} layers"
    text.append(f", {kernels} for {layers}")
    if flash.saved_bytes:
        text.append(f"; sharing saves {_mb(flash.saved_bytes)}")
    text.append(f"; peak activations {_mb(peak.peak_bytes) if peak else 'unknown'}")
    if peak and peak.node:
        name = peak.node if peak.op_type in peak.node else f"{peak.op_type} {peak.node}"
        text.append(f" at {_printable(name)}")
    text.append(".")
    return text


def _verdicts(footprint: Footprint) -> Iterator[Text]:
    if footprint.target:
        unknown = any(check.needed_bytes is None and check.budget_bytes is not None for check in footprint.budgets)
        good = "flash fits" if unknown else "fits"
        head = (good, "bold green") if footprint.fits else ("does not fit", "bold red")
        parts = "; ".join(_budget(check) for check in footprint.budgets)
        yield Text.assemble(head, f" {footprint.target}: {parts}.")
    elif footprint.ram_bytes is not None:
        yield Text(f"RAM estimate {_mb(footprint.ram_bytes)}: constants + peak activations, without the runtime.")
    scaled = footprint.flash.scaled_copies
    if scaled:
        wasted = sum(copies.wasted_bytes for copies in scaled)
        count = sum(len(copies.constants) for copies in scaled)
        yield Text.assemble(
            ("sharing lost: ", "bold yellow"),
            f"{count} stored kernels are {len(scaled)} up to a factor per channel; stored once: {_mb(wasted)} less.",
        )


def _budget(check: BudgetCheck) -> str:
    name, remark = ("flash", "") if check.resource == "flash" else ("RAM", " (estimate, without the runtime)")
    if check.needed_bytes is None:
        return f"{name} unknown, {'no limit' if check.budget_bytes is None else f'limit {_mb(check.budget_bytes)}'}"
    needed = _mb(check.needed_bytes)
    budget = ", no limit" if check.budget_bytes is None else f" of {_mb(check.budget_bytes)}"
    over = ", over budget" if check.fits is False else ""
    return f"{name} {needed}{budget}{remark}{over}"


def _tables(footprint: Footprint) -> Iterator[Table]:
    flash = footprint.flash
    yield _bytes_table(flash)
    if flash.shared:
        table = _table("sharing groups", "kernel", "shape", "type", "stored", "saved", "layers")
        for kernel in flash.shared[:ROWS_SHOWN]:
            figures = (_kb(kernel.stored_bytes), _kb(kernel.saved_bytes))
            layers = f"{len(kernel.layers)}: {kernel.layers[0]} …"
            _add_row(table, kernel.constant, _shape(kernel.shape), kernel.dtype, *figures, layers)
        yield _with_rest(table, len(flash.shared))
    copies = [copy for copy in flash.copies if copy.kind == "scaled" or copy.wasted_bytes >= 1000]
    if copies:
        table = _table("stored more than once", "constants", "shape", "how alike", "copies", "wasted")
        for copy in copies[:ROWS_SHOWN]:
            names = f"{copy.constants[0]}, {copy.constants[1]}{' …' if len(copy.constants) > 2 else ''}"
            _add_row(table, names, _shape(copy.shape), _alike(copy), str(len(copy.constants)), _kb(copy.wasted_bytes))
        yield _with_rest(table, len(copies))
    table = _table("constants by the op that reads them", "op", "nodes", "constants", "stored")
    for row in flash.ops[:ROWS_SHOWN]:
        _add_row(table, row.op_type, str(row.nodes or "–"), str(row.constants), _kb(row.stored_bytes))
    yield _with_rest(table, len(flash.ops))
    peak = footprint.arena.peak
    if peak and peak.alive:
        table = _table("activations alive at the peak", "activation", "shape", "type", "bytes")
        for tensor in peak.alive[:ROWS_SHOWN]:
            _add_row(table, tensor.made_by or tensor.name, _shape(tensor.shape), tensor.dtype, _kb(tensor.size_bytes))
        yield _with_rest(table, len(peak.alive))


def _bytes_table(flash: Flash) -> Table:
    table = _table("flash", "part", "bytes", "share")
    parts = [
        ("constants, each once", flash.unique_bytes),
        ("byte-equal copies", flash.constant_bytes - flash.unique_bytes),
        ("graph, names, metadata", flash.graph_bytes),
        ("file", flash.file_bytes),
    ]
    for name, size in parts:
        style = "bold" if name == "file" else ""
        _add_row(table, name, _kb(size), f"{100 * size / max(1, flash.file_bytes):.1f} %", style=style)
    return table


def _table(title: str, *columns: str) -> Table:
    table = terminal.table(title)
    for column in columns:
        number = column in ("bytes", "share", "stored", "saved", "wasted", "nodes", "constants", "copies")
        right = number and not (column == "constants" and columns[0] == "constants")
        table.add_column(
            column,
            justify="right" if right else "left",
            overflow="ellipsis",
            no_wrap=True,
            min_width=MIN_WIDTH.get(column),  # a narrow terminal cuts names short, never figures
            max_width=NAME_WIDTH,
        )
    return table


def _add_row(table: Table, *cells: str, style: str = "") -> None:
    """Cells as plain text: a name from a file is never read as markup."""
    table.add_row(*(Text(_printable(cell)) for cell in cells), style=style)


def _printable(text: str) -> str:
    """Text from a file must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _with_rest(table: Table, total: int) -> Table:
    if total > ROWS_SHOWN:
        table.caption = f"and {total - ROWS_SHOWN} more (all of them with --json)"
        table.caption_justify = "left"
    return table


def _alike(copy: CopySet) -> str:
    return "byte for byte" if copy.kind == "equal" else "up to a factor"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _mb(size: int) -> str:
    """Megabytes of 10⁶ bytes with two decimals; small sizes in kilobytes or bytes."""
    return f"{size / 1e6:,.2f} MB" if size >= 100_000 else _kb(size)


def _kb(size: int) -> str:
    return f"{size / 1e3:,.1f} kB" if size >= 1000 else f"{size} B"
