"""Advice → a report on the terminal: what to use first, then the table it was chosen from, then how to use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from edgeks import terminal
from edgeks.advice.advise import Advice
from edgeks.advice.make import SAME_FILE
from edgeks.advice.rows import Row
from edgeks.audit.sizes import in_kb, in_mb
from edgeks.wording import counted

WIDTH = 100
ROWS_SHOWN = 12
REASON_WIDTH = 150
MARKS = {True: "▸", False: ""}


def render(advice: Advice, console: Console) -> None:
    """Print the report, at most 100 columns wide; commands and programs are never broken."""
    width = min(WIDTH, console.width)
    for text in (*_loudly(advice), *_answer(advice)):
        console.print(text, width=width, highlight=False)
    console.print()
    console.print(_table(advice), width=width, highlight=False)
    for note in _notes(advice):
        console.print(Text(terminal.printable(note), style="dim"), width=width, highlight=False)
    row = advice.recommended
    if row is None:
        return
    console.print()
    if row.candidate.artefact.command:
        console.print(Text("export it", style="bold"))
        console.print(Text(terminal.printable(row.candidate.artefact.command)), soft_wrap=True)
        console.print(Text("the file is here already", style="bold"))
    else:
        console.print(Text("the file", style="bold"))
    console.print(Text(terminal.printable(str(row.candidate.artefact.path))), soft_wrap=True)
    console.print()
    console.print(Text("run it", style="bold"))
    program = (advice.snippet or "").rstrip("\n")
    syntax = Syntax("", "python", theme="ansi_dark", background_color="default")
    console.print(syntax.highlight(program) if console.is_terminal else Text(program), soft_wrap=True, highlight=False)


def _loudly(advice: Advice) -> Iterator[Text]:
    if advice.rules.elsewhere:
        cpu = terminal.printable(str(advice.machine["cpu"]))
        said = (
            f"p50 is of one thread of this machine ({cpu}), not of {advice.board}: what is fast there is not known "
            "here. Chosen by what the target says of its board, within the budgets; flash is exact, RAM the larger of "
            "measured here and predicted there."
        )
        yield Text(said, style="bold yellow")


def _answer(advice: Advice) -> Iterator[Text]:
    row = advice.recommended
    if row is None:
        yield Text("nothing can be recommended", style="bold red")
        return
    candidate = row.candidate
    threads = candidate.profile.session.threads
    text = Text.assemble(
        (terminal.printable(advice.model.name), "bold"),
        ": use ",
        (f"{terminal.printable(candidate.artefact.name)}, {candidate.profile.name}, ", "bold green"),
        (counted(threads, "thread"), "bold green"),
    )
    text.append(f": {_bytes(row.flash_bytes)} in flash, {_bytes(advice.rules.ram_bytes(row))} RAM, {_ms(row.p50_ms)}")
    if advice.rules.elsewhere:
        text.append(" here with one thread")
    if row.parity is not None:
        top1 = row.parity.top1_agreement
        text.append("" if top1 is None else f", top-1 agreement {100 * top1:.1f} %")
        text.append(f", SQNR {row.parity.sqnr_db:.1f} dB")
    yield text
    if "host" in advice.machine:
        yield Text(
            f"measured on {terminal.printable(advice.machine['host'])}: {terminal.printable(advice.machine['cpu'])}"
        )
    yield Text(_why(advice), style="dim")


def _why(advice: Advice) -> str:
    limits = ", ".join(
        f"{name} ≤ {in_mb(budget)}"
        for name, budget in (("flash", advice.rules.flash_budget), ("RAM", advice.rules.ram_budget))
        if budget is not None
    )
    within = f" within {limits}" if limits else ""
    count = f"of {len(advice.ranked)} that may be used{within}"
    if advice.rules.elsewhere and advice.rules.objective == "latency":
        return f"the target's own way, or the nearest to it {count}"
    if advice.rules.objective == "latency":
        percent = f"{100 * advice.tie_share:.0f} %"
        return f"the fastest {count}; those within {percent} of it are as fast, and of them the least RAM, then flash"
    return f"the least {'RAM' if advice.rules.objective == 'ram' else 'flash'} {count}"


def _table(advice: Advice) -> Table:
    table = terminal.table("", left=("",))
    table.title = None
    table.columns[0].min_width = 1
    for name in ("form", "profile"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    here = " here" if advice.rules.elsewhere else ""
    for name in ("threads", "flash", "RAM", f"p50{here}", "±", "top-1", "SQNR"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in _shown(advice):
        profile = row.candidate.profile
        best, edge = row is advice.recommended, any(row is each for each in advice.front)
        cells = (
            MARKS[best],
            row.candidate.artefact.name,
            profile.name,
            str(profile.session.threads),
            _bytes(row.flash_bytes),
            _bytes(advice.rules.ram_bytes(row)),
            _ms(row.p50_ms),
            "–" if row.spread is None else f"{100 * row.spread:.0f} %",
            "–"
            if row.parity is None or row.parity.top1_agreement is None
            else f"{100 * row.parity.top1_agreement:.1f} %",
            "–" if row.parity is None else f"{row.parity.sqnr_db:.1f} dB",
        )
        style = "bold green" if best else "" if edge else "dim"
        table.add_row(*(Text(terminal.printable(cell)) for cell in cells), style=style)
    return table


def _shown(advice: Advice) -> list[Row]:
    """The front; then the best of every other form and profile, rows over budget last."""
    shown = list(advice.front)
    seen = {_way(row) for row in shown}
    others = [row for row in advice.ranked if row not in shown]
    others += sorted((row for row in advice.rows if row.status == "dropped"), key=lambda row: row.p50_ms or 0.0)
    others += [row for row in advice.rows if row.status == "over budget"]
    for row in others:
        if _way(row) not in seen and len(shown) < ROWS_SHOWN:
            seen.add(_way(row))
            shown.append(row)
    return shown


def _way(row: Row) -> tuple[str, str]:
    return row.candidate.artefact.sha256, row.candidate.profile.name


def _notes(advice: Advice) -> Iterator[str]:
    more = len(advice.rows) - len(_shown(advice))
    if advice.front:
        yield f"bright: no row is better in flash, RAM and p50 at once; {more} rows more with --json"
    yield f"against {advice.reference}, on {advice.samples}; {advice.spent_seconds:.0f} s of measuring"
    if not advice.real_samples:
        yield "compared on noise: pass --calib with real samples for figures that mean something"
    for status in ("over budget", "cannot run"):
        yield from _grouped(status, ((r.candidate.name, r.reason) for r in advice.rows if r.status == status))
    refused = [each for each in advice.not_possible if each.error != SAME_FILE]
    yield from _grouped("not possible", ((f"{e.form.name} ({e.form.target.name})", e.reason) for e in refused))
    same = [each for each in advice.not_possible if each.error == SAME_FILE]
    yield from _grouped("not tried", ((f"{e.form.name} ({e.form.target.name})", e.reason) for e in same))
    yield from _grouped("not tried", advice.left_out.items())


def _grouped(what: str, found: Iterable[tuple[str, str]]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in found:
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        short = reason if len(reason) <= REASON_WIDTH else f"{reason[:REASON_WIDTH]}…"
        yield f"{what}: {', '.join(names[:2])}{more}: {short}"


def _bytes(value: int | None) -> str:
    if value is None:
        return "–"
    return in_kb(value) if value < 1_000_000 else in_mb(value)


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.3g} ms"
