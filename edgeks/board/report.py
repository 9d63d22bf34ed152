"""Examinations of boards → a terminal report with the answer first, or JSON of schema edgeks.doctor/1.

The JSON object: schema, boards: [{host, status (ready, ready with warnings, not ready, not reached), facts (as
BoardFacts.to_json) or null, checks [{name, status, found, advice}], set_up {runtime → path of the Python there},
removed [text], error: one line or null}].
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeks.board.checks import Check, worst
from edgeks.board.facts import BoardFacts
from edgeks.terminal import printable

SCHEMA = "edgeks.doctor/1"
WIDTH = 100
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
State = Literal["ready", "ready with warnings", "not ready", "not reached"]
STATES: dict[str, State] = {"ok": "ready", "warn": "ready with warnings", "fail": "not ready"}
STATE_STYLES = {"ready": "bold green", "ready with warnings": "bold yellow"}


@dataclass(frozen=True, slots=True)
class Examination:
    """What doctor found out about one board, or why it could not, and what it did there."""

    name: str
    facts: BoardFacts | None
    checks: tuple[Check, ...] = ()
    set_up: dict[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] | None = None
    error: str | None = None

    @property
    def state(self) -> State:
        """The answer."""
        if self.error is not None:
            return "not reached" if self.facts is None else "not ready"
        return STATES[worst(self.checks)]

    @property
    def exit_code(self) -> int:
        """0: ready. 1: a check failed. 2: it could not be reached, or what was asked could not be done."""
        return 2 if self.error is not None else int(self.state == "not ready")


def to_json(examinations: tuple[Examination, ...]) -> dict[str, Any]:
    """Examinations → plain lists, numbers and text."""
    boards = [
        {
            "host": one.name,
            "status": one.state,
            "facts": one.facts.to_json() if one.facts else None,
            "checks": [asdict(check) for check in one.checks],
            "set_up": one.set_up,
            "removed": list(one.removed or ()),
            "error": one.error,
        }
        for one in examinations
    ]
    return {"schema": SCHEMA, "boards": boards}


def render(examination: Examination, console: Console) -> None:
    """Print one board, at most 100 columns wide: the answer, then every check, then what to do."""
    width = min(WIDTH, console.width)
    console.print(_answer(examination), width=width, highlight=False)
    if examination.removed is not None:
        _print_removed(examination.removed, console, width)
        return
    if examination.checks:
        console.print()
        console.print(_table(examination.checks), width=width, highlight=False)
    for runtime, python in examination.set_up.items():
        console.print(Text.assemble((f"{runtime}: ", "green"), python), width=width, highlight=False, soft_wrap=True)
    advised = [check for check in examination.checks if check.advice and check.status != "ok"]
    if advised:
        console.print("\nwhat to do", style="bold", width=width)
        for check in advised:
            line = Text.assemble("  ", (check.name, STYLES[check.status]), f": {check.advice}")
            console.print(line, soft_wrap=True, highlight=False)


def _print_removed(removed: tuple[str, ...], console: Console, width: int) -> None:
    if not removed:
        console.print("nothing of edgeks is there", width=width)
    for line in removed:
        console.print(Text(f"removed {line}"), width=width, soft_wrap=True)


def _answer(examination: Examination) -> Text:
    state = examination.state
    text = Text.assemble((printable(examination.name), "bold"), ": ")
    if examination.removed is not None and examination.error is None:
        return text.append("cleaned" if examination.removed else "clean", style="bold green")
    text.append(state, style=STATE_STYLES.get(state, "bold red"))
    if examination.error is not None:
        return text.append(f": {printable(examination.error.removeprefix(f'{examination.name}: '))}")
    bad = [check.name for check in examination.checks if check.status == "fail"]
    warned = [check.name for check in examination.checks if check.status == "warn"]
    counts = [f"{', '.join(bad)} failed"] if bad else []
    counts += [f"look at {', '.join(warned)}"] if warned else []
    return text.append(f": {'; '.join(counts)}" if counts else "")


def _table(checks: tuple[Check, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        note = f" ({check.advice})" if check.advice and check.status == "ok" else ""
        found = Text(printable(check.found), style="dim" if "unknown" in check.found else "")
        table.add_row(Text(check.status, style=STYLES[check.status]), check.name, found.append(note, style="dim"))
    return table
