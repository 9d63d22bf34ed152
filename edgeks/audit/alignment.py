"""Sizes as allocators and tiles take them."""

from __future__ import annotations

PAGE = 4096


def rounded_up(size: int, step: int) -> int:
    """The least multiple of `step` that is not below `size`."""
    return -(-size // step) * step
