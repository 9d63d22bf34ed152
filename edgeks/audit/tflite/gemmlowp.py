"""Scratch of int8 products in gemmlowp, which tflite-runtime's wheels for arm64 are built with instead of ruy.

gemmlowp packs blocks that fit a second-level cache, not whole operands, into one allocation that grows to the largest
product and stays (block_params.h, allocator.h and pack.h of google/gemmlowp).
"""

from __future__ import annotations

from edgeks.audit.alignment import rounded_up

CACHE_BYTES = 384 * 1024  # that gemmlowp assumes of every Arm processor
OF_ACTIVATIONS = 0.75  # the part of it for the side with fewer columns
TILE = 4  # rows and columns of its int8 kernel for NEON
REGISTER = 16  # numbers to which depth is rounded
ALIGNMENT = 64


def block_bytes(rows: int, depth: int, columns: int) -> int:
    """A product of rows × depth by depth × columns, one thread → bytes that are written of the allocation."""
    rows, columns = max(rows, columns), min(rows, columns)
    deep = rounded_up(depth, REGISTER)
    wide = _part(columns, int(OF_ACTIVATIONS * (CACHE_BYTES // deep)))
    tall = _part(rows, (CACHE_BYTES - deep * wide) // (deep + 4 * wide))
    sides = sum(rounded_up(deep * side, ALIGNMENT) + rounded_up(4 * side, ALIGNMENT) for side in (wide, tall))
    return sides + rounded_up(4 * wide * tall, ALIGNMENT)


def _part(length: int, most: int) -> int:
    """Parts of equal size, of at most `most` before they are rounded up to a tile."""
    parts = max(1, -(-length // max(1, most)))
    return rounded_up(-(-length // parts), TILE)
