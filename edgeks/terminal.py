"""How tables look on a terminal: one style for every command."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table


def table(title: str, left: tuple[str, ...] = (), right: tuple[str, ...] = (), last: str | None = None) -> Table:
    """Table with `left`-justified columns, then `right`-justified ones (figures), then a `last` one that may wrap."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for column in left:
        made.add_column(column, overflow="fold")
    for column in right:
        made.add_column(column, justify="right", no_wrap=True)
    if last is not None:
        made.add_column(last, overflow="fold")
    return made


def printable(text: object) -> str:
    """What a file or a board says, without what would move the cursor or change colours."""
    return "".join(letter if letter.isprintable() else "�" for letter in str(text))
