"""Bytes as text, one way everywhere: kB and MB are powers of ten."""

from __future__ import annotations


def in_mb(size: int) -> str:
    """Megabytes of 10⁶ bytes with two decimals; small sizes in kilobytes or bytes."""
    return f"{size / 1e6:,.2f} MB" if abs(size) >= 100_000 else in_kb(size)


def in_kb(size: int) -> str:
    """Kilobytes of 10³ bytes with one decimal; below one kilobyte, bytes."""
    return f"{size / 1e3:,.1f} kB" if abs(size) >= 1000 else f"{size} B"
