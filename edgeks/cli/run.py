"""`edgeks run`: a recipe from training to summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import JsonOption, OverlayOption, SetOption, err, out, print_json, set_layers
from edgeks.errors import DataError

if TYPE_CHECKING:
    from edgeks.pipeline import StageState
    from edgeks.train.progress import TrainingProgress


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's TOML file, or one that `edgeks recipes` lists.")],
    folder: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder. Default: runs/RECIPE.")] = None,
    data: Annotated[str | None, typer.Option(help="Instead of the recipe's data: cifar10:DIR …")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Instead of the recipe's target, form and activations: tflite, rpi-4 …"),
    ] = None,
    files: OverlayOption = None,
    values: SetOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rehearsal of one epoch. Default folder: runs/RECIPE_quick.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Where the folder holds another training: remove its files, and train anew."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe: train → export → footprint → accuracy → bench. Finished stages are not run again."""
    from dataclasses import replace

    from edgeks.layered_toml import Layer
    from edgeks.pipeline import run_recipe
    from edgeks.recipe import QUICK, load_recipe, read_overlay
    from edgeks.summary import render as render_summary
    from edgeks.target import load_target

    over = [layer for file in files or () for layer in read_overlay(file)]
    if quick:
        over.append(QUICK)
    over += set_layers(values)
    if data:
        over.append(Layer({"data": {"source": data}}, "--data"))
    chosen = load_recipe(recipe, over)
    if target:
        chosen = replace(chosen, target=load_target(target), form=None, activations=None)
    folder = folder or Path("runs") / f"{chosen.name}{'_quick' if quick else ''}"
    try:
        summary = run_recipe(chosen, folder, _RunLines(), overwrite=overwrite)
    except DataError as error:
        kind, _, where = chosen.data.partition(":")
        if data or not where or Path(where).expanduser().exists():
            raise
        raise DataError(f"{error}; --data {kind}:DIR says where yours are") from error
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
