"""Names and numbers in one line of a message."""

from __future__ import annotations

from collections.abc import Sequence


def first_names(names: Sequence[str], shown: int = 3) -> str:
    """`a, b, c and 5 more`; all of them where there are no more than `shown`."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 layer`, `2 layers`, `1,200 layers`; `plural` where it is not the noun and an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
