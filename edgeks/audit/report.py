"""Footprint → a report on the terminal, the answer first, at most 100 columns wide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeks import terminal
from edgeks.audit.budgets import BudgetCheck
from edgeks.audit.diff import Diff, DiffRow
from edgeks.audit.flash import CopySet, Flash
from edgeks.audit.footprint import Footprint, ProfileRam
from edgeks.audit.onnx.shapes import OPEN_SIZES
from edgeks.audit.sizes import in_kb, in_mb

WIDTH = 100
ROWS_SHOWN = 8
NAMED = 2  # ops that one note is about
LABEL_WIDTH = 48  # of an op's name within a sentence
NAME_WIDTH = 28
MIN_WIDTH = {"type": len("float32"), "change": len("−1,106.1 kB (-45.5 %)")}
PARTS = ("mapped", "heap", "packed", "arena", "library")


def render(footprint: Footprint, console: Console, changed: Diff | None = None) -> None:
    """Print the report: whether it fits, what it is, what would lower it; then where the bytes are."""
    width = min(WIDTH, console.width)

    def say(line: Text | Table) -> None:
        if isinstance(line, Table):
            _keep_figures(line)
        console.print(line, width=width, highlight=False)

    for text in (*_verdict(footprint), _answer(footprint), *_remarks(footprint)):
        say(text)
    for table in _tables(footprint, changed, width):
        console.print()
        say(table)
        if table.title == "RAM by runtime profile":
            for line in _below_ram(footprint):
                say(line)
    for note in _summed_up(_notes(footprint)):
        say(Text(terminal.printable(f"note: {note}"), style="dim"))


def _verdict(footprint: Footprint) -> Iterator[Text]:
    if footprint.limits is None or all(check.budget_bytes is None for check in footprint.budgets):
        return
    unknown = [check.resource for check in footprint.budgets if check.needed_bytes is None and check.budget_bytes]
    good = f"{'flash ' if unknown else ''}fits"
    head = (good, "bold green") if footprint.fits else ("does not fit", "bold red")
    parts = ", ".join(_budget(check) for check in footprint.budgets)
    yield Text.assemble(head, f" {terminal.printable(footprint.limits.name)}: {parts}")


def _budget(check: BudgetCheck) -> str:
    name = "flash" if check.resource == "flash" else "RAM"
    if check.needed_bytes is None:
        return f"{name} unknown, {'no limit' if check.budget_bytes is None else f'limit {in_mb(check.budget_bytes)}'}"
    limit = " (no limit)" if check.budget_bytes is None else f" of {in_mb(check.budget_bytes)}"
    over = f" ({in_mb(check.over_bytes)} over)" if check.fits is False else ""
    return f"{name} {in_mb(check.needed_bytes)}{limit}{over}"


def _answer(footprint: Footprint) -> Text:
    flash, first, peak = footprint.flash, footprint.ram[0], footprint.arena.peak
    text = Text.assemble(
        (terminal.printable(footprint.path.name), "bold"), ": ", (f"{in_mb(flash.file_bytes)} in flash", "bold green")
    )
    ram, running = first.needed_bytes, first.run_peak_bytes
    text.append(", ")
    text.append(f"{in_mb(ram)} RAM" if ram is not None else "RAM unknown", "bold green")
    loading = f" while loading, {in_mb(running)} running" if ram and running and ram > running else ""
    text.append(f"{loading} ({terminal.printable(first.profile.name)})")
    kernels = "1 kernel" if flash.kernels == 1 else f"{flash.kernels} kernels"
    layers = "1 layer" if flash.layers == 1 else f"{flash.layers} layers"
    text.append(f"; {kernels} for {layers}")
    if flash.saved_bytes:
        text.append(f", sharing saves {in_mb(flash.saved_bytes)}")
    text.append(f"; peak activations {in_mb(peak.peak_bytes) if peak else 'unknown'}")
    if peak and peak.node:
        name = peak.node if peak.op_type in peak.node else f"{peak.op_type} {peak.node}"
        text.append(f" at {terminal.printable(name if len(name) <= LABEL_WIDTH else f'{name[: LABEL_WIDTH - 1]}…')}")
    compute = footprint.compute
    macs = "unknown" if compute.incomplete and not compute.macs else _count(compute.macs)
    text.append(f"; {'more than ' if compute.incomplete and compute.macs else ''}{macs} MACs")
    text.append(f", {compute.parameters:,} parameters")
    bound = footprint.latency_bound
    if bound is not None:
        text.append(f"; at the very least {1e3 * bound.seconds:.2g} ms (bound by {bound.limited_by})")
    return text


def _remarks(footprint: Footprint) -> Iterator[Text]:
    scaled = footprint.flash.scaled_copies
    if scaled:
        wasted = sum(copies.wasted_bytes for copies in scaled)
        count = sum(len(copies.constants) for copies in scaled)
        yield Text.assemble(
            ("sharing lost: ", "bold yellow"),
            f"{count} stored kernels are {len(scaled)} up to a factor per channel; stored once: {in_mb(wasted)} less",
        )
    for suggestion in footprint.suggestions:
        yield Text.assemble(("would help: ", "bold cyan"), terminal.printable(suggestion.text))


def _tables(footprint: Footprint, changed: Diff | None, width: int) -> Iterator[Table]:
    flash = footprint.flash
    if changed:
        yield _diff_table(changed)
    yield _ram_table(footprint.ram, width)
    yield _bytes_table(flash)
    if flash.shared:
        table = _table("sharing groups", "kernel", "shape", "type", "stored", "saved", "layers")
        for kernel in flash.shared[:ROWS_SHOWN]:
            figures = (in_kb(kernel.stored_bytes), in_kb(kernel.saved_bytes))
            readers = f"{kernel.reads}: {kernel.readers[0]}{' …' if len(kernel.readers) > 1 else ''}"
            _add_row(table, kernel.constant, _shape(kernel.shape), kernel.dtype, *figures, readers)
        yield _with_rest(table, len(flash.shared))
    copies = [copy for copy in flash.copies if copy.kind == "scaled" or copy.wasted_bytes >= 1000]
    if copies:
        table = _table("stored more than once", "constants", "shape", "how alike", "copies", "wasted")
        for copy in copies[:ROWS_SHOWN]:
            names = f"{copy.constants[0]}, {copy.constants[1]}{' …' if len(copy.constants) > 2 else ''}"
            _add_row(table, names, _shape(copy.shape), _alike(copy), str(len(copy.constants)), in_kb(copy.wasted_bytes))
        yield _with_rest(table, len(copies))
    table = _table("constants by the op that reads them", "op", "nodes", "constants", "stored")
    for row in flash.ops[:ROWS_SHOWN]:
        _add_row(table, row.op_type, str(row.nodes or "–"), str(row.constants), in_kb(row.stored_bytes))
    yield _with_rest(table, len(flash.ops))
    yield from _activation_tables(footprint)
    layers = sorted(footprint.compute.layers, key=lambda layer: -layer.macs)
    if layers:
        table = _table("layers with the most MACs", "layer", "op", "output", "MACs", "parameters", "MAC/byte")
        for layer in layers[:ROWS_SHOWN]:
            intensity = layer.arithmetic_intensity
            shape = "unknown" if layer.output_shape is None else _shape(layer.output_shape)
            cells = (layer.name, layer.op_type, shape, _count(layer.macs), f"{layer.parameters:,}")
            _add_row(table, *cells, "–" if intensity is None else f"{intensity:.1f}")
        yield _with_rest(table, len(layers))


def _ram_table(rows: tuple[ProfileRam, ...], width: int) -> Table:
    """One line per profile; where `width` is too small for all figures, the parts of the peak are left out."""
    measured = any(row.measured or row.failed for row in rows)
    names = ["predicted, MB", "loading", "loaded", *PARTS, "peak", *(["measured", "error"] if measured else [])]
    lines = []
    for row in rows:
        found, cells = row.predicted, [row.profile.name]
        if found is None:
            cells += ["–"] * 7 + ["–" if row.unusable else "unknown"]
        else:
            parts = [getattr(found.run_peak, f"{name}_bytes") for name in PARTS]
            sizes = (found.load_peak_bytes, found.loaded.total_bytes, *parts, found.run_peak.total_bytes)
            cells += ["–" if size is None else f"{size / 1e6:,.1f}" for size in sizes]
        lines.append(cells + (_measured_cells(row) if measured else []))
    needed = sum(max(map(len, column)) + 2 for column in zip(names, *lines, strict=True))
    kept = [index for index, name in enumerate(names) if needed <= width or name not in PARTS]
    table = terminal.table("RAM by runtime profile")
    table.add_column(names[0], no_wrap=True, overflow="ellipsis", min_width=10)
    for index in kept[1:]:
        style = "bold" if names[index] == "peak" else ""
        table.add_column(names[index], justify="right", no_wrap=True, style=style)
    for cells in lines:
        _add_row(table, *(cells[index] for index in kept))
    return table


def _keep_figures(table: Table) -> None:
    """A narrow terminal cuts names short, never figures."""
    for column in table.columns:
        if column.justify == "right":
            column.min_width = max((len(str(cell)) for cell in column.cells), default=1)


def _measured_cells(row: ProfileRam) -> list[str]:
    if row.measured is None:
        return ["–", "–"]
    error = row.error_bytes
    peak = row.measured.run_peak_bytes
    return [f"{peak / 1e6:,.1f}", "–" if error is None else f"{100 * error / max(1, peak):+.1f} %"]


def _below_ram(footprint: Footprint) -> Iterator[Text]:
    """How many copies of the shared kernels each profile holds, and why something was not measured."""
    held: dict[str, list[str]] = {}
    kernels = layers = 0
    for row in footprint.ram:
        shared = [kernel for kernel in row.predicted.kernels if kernel.layers > 1] if row.predicted else []
        kernels, layers = max(kernels, len(shared)), max(layers, sum(kernel.layers for kernel in shared))
        copies, size = (
            sum(figures) for figures in zip((0, 0), *((k.copies, k.copies * k.copy_bytes) for k in shared), strict=True)
        )
        if shared:
            text = f"{copies} ({in_mb(size)})" if copies else "none, read in the file,"
            held.setdefault(text, []).append(row.profile.name)
    if held:
        name = "the shared kernel" if kernels == 1 else f"the {kernels} shared kernels"
        parts = "; ".join(f"{text} under {', '.join(profiles)}" for text, profiles in held.items())
        yield Text(terminal.printable(f"copies of {name} of {layers} layers in RAM: {parts}"))
    for row in footprint.ram:
        if row.unusable:
            yield Text(terminal.printable(f"not under {row.profile.name}: {row.unusable}"))
        if row.failed:
            yield Text(terminal.printable(f"{row.profile.name} not measured: {row.failed}"), style="yellow")
    if footprint.ram[0].predicted is None:
        yield Text(terminal.printable(f"RAM cannot be predicted: {_why_unknown(footprint)}"), style="yellow")
    else:
        base = footprint.ram[0].predicted.baseline_bytes
        yield Text(
            f"MB above the process with the runtime imported ({in_mb(base)}), on {footprint.machine}", style="dim"
        )


def _why_unknown(footprint: Footprint) -> str:
    open_sizes = next((note for note in footprint.arena.notes if note.startswith(OPEN_SIZES)), None)
    if open_sizes:
        return f"{open_sizes}; name its sizes: --input NAME=1x3x224x224"
    return next((note.partition(": ")[2] for note in footprint.arena.notes if "unknown" in note), "see the notes")


def _activation_tables(footprint: Footprint) -> Iterator[Table]:
    peak, timeline = footprint.arena.peak, footprint.arena.timeline
    if timeline and len(timeline.moments) > 1:
        table = _table("live activations over the ops", "op", "bytes", "")
        table.columns[2].max_width = 40
        for moment in sorted(timeline.moments, key=lambda moment: -moment.live_bytes)[:5]:
            share = round(40 * moment.live_bytes / max(1, timeline.moments[timeline.peak].live_bytes))
            _add_row(table, moment.node, in_kb(moment.live_bytes), "█" * share)
        table.caption = f"the 5 fullest moments of {len(timeline.moments)} (all of them with --html)"
        table.caption_justify = "left"
        yield table
    if peak and peak.alive:
        table = _table("activations alive at the peak", "activation", "shape", "type", "bytes")
        for tensor in peak.alive[:ROWS_SHOWN]:
            _add_row(table, tensor.made_by or tensor.name, _shape(tensor.shape), tensor.dtype, in_kb(tensor.size_bytes))
        yield _with_rest(table, len(peak.alive))


def _bytes_table(flash: Flash) -> Table:
    table = _table("flash", "part", "bytes", "share")
    parts = [
        ("constants, each once", flash.unique_bytes),
        ("byte-equal copies", flash.constant_bytes - flash.unique_bytes),
        ("graph and names", flash.structure_bytes),
        ("metadata", flash.metadata_bytes),
        ("file", flash.file_bytes),
        ("floor: each kernel once", flash.floor_bytes),
        ("over the floor", flash.overhead_bytes),
    ]
    if flash.compressed_bytes is not None:
        parts.append(("compressed, about" if flash.compressed_is_estimate else "compressed", flash.compressed_bytes))
    for name, size in parts:
        style = "bold" if name == "file" else "dim" if name.startswith(("floor", "over", "compressed")) else ""
        _add_row(table, name, in_kb(size), f"{100 * size / max(1, flash.file_bytes):.1f} %", style=style)
    return table


def _diff_table(changed: Diff) -> Table:
    table = _table(f"since {terminal.printable(Path(changed.old).name)}", "what", "before", "now", "change")
    for row in changed.rows:
        style = "" if row.change else "dim"
        _add_row(table, row.what, *(_figure(row, value) for value in (row.old, row.new)), _change(row), style=style)
    for title, groups in (("no longer shared", changed.groups_lost), ("newly shared", changed.groups_gained)):
        for group in groups[:ROWS_SHOWN]:
            _add_row(table, title, "", "", group)
    return table


def _figure(row: DiffRow, value: int | None) -> str:
    return "unknown" if value is None else in_kb(value) if row.unit == "bytes" else f"{value:,}"


def _change(row: DiffRow) -> str:
    if row.change is None or row.old is None:
        return ""
    if not row.change:
        return "="
    percent = f" ({100 * row.change / row.old:+.1f} %)" if row.old else ""
    sign = "+" if row.change > 0 else "−"
    return f"{sign}{_figure(row, abs(row.change))}{percent}"


def _notes(footprint: Footprint) -> Iterator[str]:
    yield from footprint.arena.notes
    yield from footprint.compute.unknown
    first = footprint.ram[0].predicted
    yield from first.notes if first else ()


def _summed_up(notes: Iterable[str]) -> Iterator[str]:
    """What is true of several ops ("Conv 'a': …", "Conv 'b': …") in one line; each on its own with --json."""
    subjects: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        of, mark, what = note.partition("': ")
        subjects.setdefault(what if mark else note, []).append(f"{of}'" if mark else "")
    for what, named in subjects.items():
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        yield f"{', '.join(named[:NAMED])}{more}: {what}" if named[0] else what


def _table(title: str, *columns: str) -> Table:
    table = terminal.table(title)
    numbers = (
        *("bytes", "share", "stored", "saved", "wasted", "nodes", "constants", "copies"),
        *("MACs", "parameters", "MAC/byte", "before", "now"),
    )
    for column in columns:
        right = column in numbers and not (column == "constants" and columns[0] == "constants")
        table.add_column(
            column,
            justify="right" if right else "left",
            overflow="ellipsis",
            no_wrap=True,
            min_width=MIN_WIDTH.get(column),
            max_width=NAME_WIDTH,
        )
    return table


def _add_row(table: Table, *cells: str, style: str = "") -> None:
    """Cells as plain text: a name from a file is never read as markup."""
    table.add_row(*(Text(terminal.printable(cell)) for cell in cells), style=style)


def _with_rest(table: Table, total: int) -> Table:
    if total > ROWS_SHOWN:
        table.caption = f"and {total - ROWS_SHOWN} more (all of them with --json)"
        table.caption_justify = "left"
    return table


def _alike(copy: CopySet) -> str:
    return "byte for byte" if copy.kind == "equal" else "up to a factor"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def render_exports(exports: Mapping[str, Footprint], console: Console) -> None:
    """Print what the exports of one checkpoint will take: a verdict and an answer each."""
    for found in exports.values():
        for text in (*_verdict(found), _answer(found)):
            console.print(text, width=min(WIDTH, console.width), highlight=False)
