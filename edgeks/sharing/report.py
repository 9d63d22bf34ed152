"""A sharing plan as a table for the terminal, and as plain data for --json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from edgeks.sharing.plan import SharingGroup, SharingPlan, SoftGroup
from edgeks.terminal import table
from edgeks.wording import counted

SCHEMA = "edgeks.plan/1"
SHOWN_LAYERS = 3


def plan_table(plan: SharingPlan) -> Table:
    """One row per sharing group and template bank, one for all layers with kernels of their own, the totals (fp32)."""
    stored = sum(kernel.stored_bytes for kernel in plan.kernels) + sum(bank.stored_bytes for bank in plan.banks)
    saved = sum(group.saved_bytes for group in plan.groups) + sum(bank.saved_bytes for bank in plan.banks)
    banks = f"{counted(len(plan.banks), 'template bank')}, " if plan.banks else ""
    rows = table(
        f"{counted(len(plan.groups), 'sharing group')}, {banks}{counted(len(plan.unshared), 'unshared layer')}",
        left=("group", "kernel", "layers", "bias"),
        right=("bytes stored", "bytes saved"),
    )
    for group in plan.groups:
        rows.add_row(
            group.name, _shape(group), _layers(group), group.bias, f"{group.stored_bytes:,}", f"{group.saved_bytes:,}"
        )
    for bank in plan.banks:
        kernel = f"{counted(bank.templates, 'template')} of {_shape(bank)}"
        rows.add_row(bank.name, kernel, _layers(bank), bank.bias, f"{bank.stored_bytes:,}", f"{bank.saved_bytes:,}")
    if plan.unshared:
        owned = sum(kernel.stored_bytes for kernel in plan.unshared)
        rows.add_row("(unshared)", "", str(len(plan.unshared)), "", f"{owned:,}", "0")
    if any(bank.templates == len(bank.layers) for bank in plan.banks):
        rows.caption = "A bank of as many templates as layers stores no less than the kernels; fewer templates do."
        rows.caption_justify = "left"
    rows.add_section()
    rows.add_row("total", "", str(plan.layer_count), "", f"{stored:,}", f"{saved:,}", style="bold")
    return rows


def plan_json(plan: SharingPlan) -> dict[str, Any]:
    """The plan with bytes stored and saved per group (fp32); `SharingPlan.from_json` reads it back."""
    data: dict[str, Any] = json.loads(plan.to_json())
    kinds: tuple[tuple[str, Sequence[SharingGroup | SoftGroup]], ...] = (
        ("groups", plan.groups), ("unshared", plan.unshared), ("banks", plan.banks)
    )  # fmt: skip
    for kind, kernels in kinds:
        for row, kernel in zip(data.get(kind, []), kernels, strict=True):
            row["bytes_stored"], row["bytes_saved"] = kernel.stored_bytes, kernel.saved_bytes
    return {"schema": SCHEMA, **data}


def _shape(group: SharingGroup | SoftGroup) -> str:
    return "×".join(map(str, group.kernel_shape))


def _layers(group: SharingGroup | SoftGroup) -> str:
    """How many, and which where the group's name does not tell."""
    if "*" not in group.name and "…" not in group.name:
        return str(len(group.layers))
    names = list(group.layers)
    if len(names) > SHOWN_LAYERS:
        names = [names[0], "…", names[-1]]
    return f"{len(group.layers)}: {', '.join(names)}"
