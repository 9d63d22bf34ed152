"""Marks: numbers that a torch module puts on tensors, found again on the Values of the captured graph.

A mark is a fake quantisation whose scale is the number: the one thing that torch.onnx.export carries through unchanged.
"""

from __future__ import annotations

import onnx_ir as ir

MARKS = "marks"  # key of Value.meta


def marks(value: ir.Value) -> list[int]:
    """The numbers on `value`, in the order in which they were put; empty where there are none."""
    found: list[int] = value.meta.get(MARKS, [])
    return found


def add_marks(old: ir.Value, new: ir.Value) -> None:
    """Readers of `old` now read `new`: its marks count there too, behind those of `new`."""
    more = [mark for mark in marks(old) if mark not in marks(new)]
    if more:
        new.meta[MARKS] = [*marks(new), *more]


def carry_marks(old: ir.Value, new: ir.Value) -> None:
    """`new` stands for what `old` was."""
    if MARKS in old.meta:
        new.meta[MARKS] = old.meta[MARKS]
