"""`edgeks study`: many trainings, one table, one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeks.cli.options import JsonOption, OverlayOption, SetOption, err, key_values, out, print_json, say, set_layers
from edgeks.errors import CheckFailed, ConfigError
from edgeks.terminal import table

if TYPE_CHECKING:
    from edgeks.study.results import StudyResult, StudyRow
    from edgeks.train.progress import TrainingProgress


def study(
    file: Annotated[str, typer.Argument(help="A study's TOML file, or a shipped one: quick_iso_channel.")],
    folder: Annotated[Path | None, typer.Option("-o", "--output", help="Folder. Default: runs/STUDY.")] = None,
    data: Annotated[str | None, typer.Option(help="Instead of the recipe's data: cifar10:DIR …")] = None,
    files: OverlayOption = None,
    values: SetOption = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the study's seeds: 0,1.", metavar="SEEDS")] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Points that are trained at once.")] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="Train as Slurm jobs, with these settings: partition=gpu.", metavar="KEY=VALUE"),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rehearsal: one epoch and one seed each.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Run nothing; table and figure of what is done.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace networks that were trained under other settings.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train many networks that differ in size and sharing plan → results.csv and figure.svg. Finished ones are kept."""
    from dataclasses import replace

    from edgeks.recipe import read_overlay
    from edgeks.study.run import run_study
    from edgeks.study.settings import load_study, read_seeds

    chosen = load_study(file)
    if seeds is not None:
        chosen = replace(chosen, seeds=read_seeds(seeds))
    folder = folder or Path("runs") / f"{chosen.name}{'_quick' if quick else ''}"
    if collect and (slurm is not None or overwrite):
        option = "--overwrite" if slurm is None else "--slurm"
        raise ConfigError(f"{option} with --collect: nothing is run; leave one of them out")
    over = [layer for name in files or () for layer in read_overlay(name)]
    over += set_layers(values)
    result = run_study(
        chosen,
        folder,
        data=data,
        over=over,
        workers=workers,
        slurm=None if slurm is None else key_values("--slurm", slurm),
        quick=quick,
        collect=collect,
        overwrite=overwrite,
        progress=_StudyLines(),
    )
    if as_json:
        print_json(result.to_json())
    else:
        _print(result, folder)
    if result.failed:
        row = result.failed[0]
        raise CheckFailed(
            f"{len(result.failed)} of {len(result.rows)} points failed; {row.folder}: {row.error}; "
            "run the same command again to try them once more"
        )


def _print(result: StudyResult, folder: Path) -> None:
    from edgeks.study.results import dots

    rows = table(
        f"{result.study}: test accuracy, mean over the seeds",
        left=("plan",),
        right=("width", "depth", "parameters", "FLOPs", "accuracy", "std. dev.", "seeds"),
    )
    for dot in dots(result.rows):
        rows.add_row(
            dot.plan,
            str(dot.width),
            "–" if dot.depth is None else str(dot.depth),
            f"{dot.parameters:,}",
            f"{dot.flops:,}",
            f"{100 * dot.accuracy:.2f} %",
            "–" if dot.seeds == 1 else f"{100 * dot.deviation:.2f}",
            str(dot.seeds),
        )
    out.print(rows)
    if rows.row_count:
        say(f"{folder}/results.csv has every point; the figure is {folder}/figure.svg and figure.png")
    else:
        say("no point is finished")


class _StudyLines:
    """A line when a point is finished; on a terminal a bar while one is trained."""

    def planning(self) -> None:
        err.print("[dim]…[/] planning: parameters and FLOPs of each network")

    def planned(self, points: int, finished: int, otherwise: int) -> None:
        done = f", {finished} of them finished before" if finished else ""
        err.print(f"{points} points{done}" + (f", {otherwise} trained under other settings" if otherwise else ""))

    def training(self, point: str) -> TrainingProgress:
        from edgeks.train.progress import progress_for

        err.print(f"[dim]…[/] {point}")
        return progress_for(err, quiet=not err.is_terminal)

    def point(self, row: StudyRow, over: int, points: int) -> None:
        depth = "" if row.depth is None else f", depth {row.depth}"
        name = f"{over}/{points}  {row.plan}, width {row.width}{depth}, seed {row.seed}"
        if row.accuracy is None:
            err.print(f"[red]✗[/] {name}: ", end="")
            err.print(row.error, markup=False, soft_wrap=True)
        else:
            err.print(f"[green]✓[/] {name}: {100 * row.accuracy:.2f} % in {row.train_seconds:.0f} s", soft_wrap=True)
