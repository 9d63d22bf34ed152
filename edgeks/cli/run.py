"""`edgeks run`: a recipe from data to measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import JsonOption, err, out, print_json

if TYPE_CHECKING:
    from edgeks.pipeline import StageState
    from edgeks.train.progress import TrainingProgress


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's TOML file, or a shipped one: quickstart.")],
    folder: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder. Default: runs/RECIPE.")] = None,
    data: Annotated[str | None, typer.Option(help="Instead of the recipe's data: cifar10:DIR …")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Instead of the recipe's target, form and activations: tflite, rpi-4 …"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe: train → export → footprint → accuracy → bench. Finished stages are not run again."""
    from dataclasses import replace

    from edgeks.pipeline import run_recipe
    from edgeks.recipe import load_recipe
    from edgeks.summary import render as render_summary
    from edgeks.target import load_target

    chosen = load_recipe(recipe)
    if data:
        chosen = replace(chosen, data=data)
    if target:
        chosen = replace(chosen, target=load_target(target), form=None, activations=None)
    folder = folder or Path("runs") / chosen.name
    summary = run_recipe(chosen, folder, _RunLines())
    if as_json:
        print_json(summary.to_json())
    else:
        render_summary(summary, folder, out)


class _RunLines:
    """A line when a stage of a recipe starts, and one when it is finished."""

    def stage(self, name: str, state: StageState, detail: str) -> None:
        mark = "[dim]…[/]" if state == "running" else "[green]✓[/]"
        err.print(f"{mark} {name}{' (reused)' if state == 'reused' else ''}[dim]{'  ' + detail if detail else ''}[/]")

    def training(self) -> TrainingProgress:
        from edgeks.train.progress import progress_for

        return progress_for(err)
