"""Checkpoint → checkpoint whose layers are tied by a plan."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from edgeks.checkpoint import Checkpoint, save_checkpoint
from edgeks.errors import PlanError
from edgeks.sharing.plan import SharingPlan
from edgeks.sharing.torch import apply_plan, discover, plan_sharing


def share(
    checkpoint: Checkpoint,
    groups: str,
    *,
    init: str = "first",
    tie_bias: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    out: Path | None = None,
) -> Checkpoint:
    """Tie the checkpoint's layers by `groups` (all, stage, a number, or the path of a plan) and write it to `out`.

    Raises:
        PlanError: unknown scheme, or a plan that does not fit the network.
        OutputError: `out` cannot be written.
    """
    shape = input_shape
    if shape is None and checkpoint.preprocessing:
        shape = checkpoint.preprocessing.shape
    example = torch.zeros(1, *shape) if shape else None
    if groups.endswith(".json"):
        try:
            plan = SharingPlan.from_json(Path(groups).read_text(encoding="utf-8"))
        except PlanError as error:
            raise PlanError(f"{groups}: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{groups}: cannot be read as a sharing plan ({error})") from error
    else:
        scheme = int(groups) if re.fullmatch("[0-9]{1,9}", groups) else groups
        plan = plan_sharing(checkpoint.model, scheme, tie_bias=tie_bias, example_input=example)
    apply_plan(checkpoint.model, plan, init)  # type: ignore[arg-type]  # apply_plan checks it
    shared = replace(checkpoint, plan=discover(checkpoint.model), metrics={})
    if out is not None:
        save_checkpoint(out, shared)
    return shared
