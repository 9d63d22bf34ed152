"""What sharing did to a network, as a table for the terminal and as plain data for --json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from edgeks.share import ShareResult
from edgeks.sharing.report import plan_json
from edgeks.sharing.torch import discover
from edgeks.terminal import table

STEPS = {
    "original": "original",
    "tied": "tied",
    "measured": "tied, BN statistics measured anew",
    "tuned": "fine-tuned",
}


def render(result: ShareResult, console: Console) -> None:
    """Print how well each group's kernel fits its layers, what was saved, and the accuracies."""
    rows = table(
        f"kernels by {result.init}",
        left=("group",),
        right=("layers", "relative error", "if unrelated"),
    )
    for fit in result.fits:
        rows.add_row(escape(fit.name), str(fit.layers), f"{fit.relative_error:.1%}", f"{fit.unrelated_error:.1%}")
    console.print(rows)
    unscaled = [fit for fit in result.fits if fit.unscaled is not None]
    if unscaled:
        console.print(
            f"[yellow]no scales[/]     {len(unscaled)} of {len(result.fits)} groups start from the mean: "
            f"{escape(str(unscaled[0].unscaled))}",
            soft_wrap=True,
        )
    for name, (before, after) in (("fp32", result.fp32_bytes), ("int8", result.int8_bytes)):
        console.print(f"{name} bytes    {before:,} → {after:,}, {before - after:,} saved", soft_wrap=True)
    if result.accuracies is not None:
        accuracies = table("\naccuracy on the test images", left=("network",), right=("accuracy",))
        for key, value in asdict(result.accuracies).items():
            if value is not None:
                accuracies.add_row(STEPS[key], f"{value:.2%}")
        console.print(accuracies)


def to_json(result: ShareResult) -> dict[str, Any]:
    """The plan, as `edgeks share --json` prints it of any checkpoint, and below "conversion" what it took."""
    keys = ("before", "after")
    return {
        **plan_json(discover(result.checkpoint.model)),
        "conversion": {
            "init": result.init,
            "groups": [{**asdict(fit), "unrelated_error": fit.unrelated_error} for fit in result.fits],
            "fp32_bytes": dict(zip(keys, result.fp32_bytes, strict=True)),
            "int8_bytes": dict(zip(keys, result.int8_bytes, strict=True)),
            "accuracy": None if result.accuracies is None else asdict(result.accuracies),
        },
    }
