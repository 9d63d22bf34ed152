"""A few names out of many, for one line of a message."""

from __future__ import annotations

from collections.abc import Sequence


def first_names(names: Sequence[str], shown: int = 3) -> str:
    """`a, b, c and 5 more`; all of them where there are no more than `shown`."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
