"""What a user sees while a data set is listed and read, where that takes more than two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from edgeks.train.image_tree import Told

PATIENCE_SECONDS = 2.0
LINE_SECONDS = 10.0


@contextmanager
def loading_progress(console: Console, *, quiet: bool = False) -> Iterator[Told]:
    """Who `load_dataset` tells: a bar on a terminal, gone at the end; elsewhere a line now and then."""
    if quiet:
        yield lambda what, done, total: None
    elif not console.is_terminal:
        yield told_seldom(lambda text: console.print(text, highlight=False))
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task, started = bar.add_task("", visible=False), time.monotonic()

            def show(what: str, done: int, total: int) -> None:
                late = time.monotonic() - started > PATIENCE_SECONDS
                bar.update(task, description=what, completed=done, total=total, visible=late)

            yield show


def told_seldom(say: Callable[[str], None]) -> Told:
    """Says a line after two seconds, and then every ten."""
    due = time.monotonic() + PATIENCE_SECONDS

    def told(what: str, done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_SECONDS
            say(f"{what}: {done:,} of {total:,}")

    return told
