"""A sharing plan as a table for the terminal, and as plain data for --json."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table

from edgeks.sharing.plan import SharingGroup, SharingPlan

SCHEMA = "edgeks.plan/1"
SHOWN_LAYERS = 3


def plan_table(plan: SharingPlan) -> Table:
    """One row per sharing group, one for all layers that own their kernel, and the totals (fp32 bytes)."""
    stored = sum(kernel.stored_bytes for kernel in plan.kernels)
    saved = sum(group.saved_bytes for group in plan.groups)
    table = Table(
        title=f"{len(plan.groups)} sharing groups, {len(plan.unshared)} unshared layers", title_justify="left"
    )
    for column in ("group", "kernel", "layers", "bias"):
        table.add_column(column, overflow="fold")
    table.add_column("bytes stored", justify="right")
    table.add_column("bytes saved", justify="right")
    for group in plan.groups:
        table.add_row(
            group.name, _shape(group), _layers(group), group.bias, f"{group.stored_bytes:,}", f"{group.saved_bytes:,}"
        )
    if plan.unshared:
        owned = sum(kernel.stored_bytes for kernel in plan.unshared)
        table.add_row("(unshared)", "", f"{len(plan.unshared)} layers, a kernel each", "", f"{owned:,}", "0")
    table.add_section()
    table.add_row("total", "", f"{plan.layer_count} layers", "", f"{stored:,}", f"{saved:,}", style="bold")
    return table


def plan_json(plan: SharingPlan) -> dict[str, Any]:
    """The plan with bytes stored and saved per group (fp32); `SharingPlan.from_json` reads it back."""
    data: dict[str, Any] = json.loads(plan.to_json())
    for kind, kernels in (("groups", plan.groups), ("unshared", plan.unshared)):
        for row, kernel in zip(data[kind], kernels, strict=True):
            row["bytes_stored"], row["bytes_saved"] = kernel.stored_bytes, kernel.saved_bytes
    return {"schema": SCHEMA, **data}


def _shape(group: SharingGroup) -> str:
    return "×".join(map(str, group.kernel_shape))


def _layers(group: SharingGroup) -> str:
    names = list(group.layers)
    if len(names) > SHOWN_LAYERS:
        names = [names[0], "…", names[-1]]
    return f"{len(group.layers)}: {', '.join(names)}"
