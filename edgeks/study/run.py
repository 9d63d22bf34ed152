"""Running a study: its points planned, farmed out, and gathered into a table and a figure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edgeks.atomic_write import write_text
from edgeks.errors import ConfigError, OutputError
from edgeks.figures.accuracy_and_cost import accuracy_and_cost
from edgeks.figures.style import write_figure
from edgeks.layered_toml import Layer
from edgeks.recipe import QUICK, read_recipe
from edgeks.study.farm import run_here, run_on_slurm
from edgeks.study.points import Images, study_points
from edgeks.study.results import StudyResult, StudyRow, dots
from edgeks.study.settings import Study
from edgeks.study.work import Task, run_tasks
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.progress import NoProgress, TrainingProgress

CSV, FIGURE = "results.csv", "figure"
ENDINGS = (".svg", ".png")


class StudyProgress(Protocol):
    """Told about a study as it goes."""

    def planning(self) -> None:
        """Study and data are read; its networks are built, without memory, and counted."""

    def planned(self, points: int, finished: int) -> None:
        """There are so many points, of which so many were finished before."""

    def training(self, point: str) -> TrainingProgress:
        """Who is told about the training of a point in this process."""

    def point(self, row: StudyRow, over: int, points: int) -> None:
        """A point is finished or has failed; with it, `over` of all `points` are."""


class NoStudyProgress:
    """Says nothing."""

    def planning(self) -> None:
        """Nothing."""

    def planned(self, points: int, finished: int) -> None:
        """Nothing."""

    def training(self, point: str) -> TrainingProgress:
        """One who says nothing."""
        return NoProgress()

    def point(self, row: StudyRow, over: int, points: int) -> None:
        """Nothing."""


def run_study(
    study: Study,
    folder: Path,
    *,
    data: str | None = None,
    over: Sequence[Layer] = (),
    workers: int = 1,
    slurm: Mapping[str, Any] | None = None,
    quick: bool = False,
    collect: bool = False,
    progress: StudyProgress | None = None,
) -> StudyResult:
    """Run every point of `study` that is not finished in `folder`, and write results.csv, figure.svg and figure.png.

    `data` is trained on instead of the recipe's data; `over` is laid over every recipe. With `workers` above 1 points
    run in as many processes; with `slurm` (submitit's parameters of a Slurm job) as jobs of a cluster, `workers` of
    them at once (1: as many as Slurm lets). `quick`: one epoch and one seed each, to see that all of it runs. With
    `collect` nothing is run: the table and the figure are of what is finished.

    A point that fails is a row with an error; the others go on. What is finished is not run again by the next call.

    Raises:
        InputError: the study, its recipe or its data are wrong, or `folder` cannot be written.
    """
    progress = progress or NoStudyProgress()
    if quick:
        study, over = replace(study, seeds=study.seeds[:1]), [QUICK, *over]
    if data is not None:
        over = [*over, Layer({"data": {"source": data}}, "--data")]
    tasks, dataset = _tasks(study, folder, over, progress)
    left = [task for task in tasks if task.result() is None]
    attempt = uuid.uuid4().hex
    total = len(tasks)
    progress.planned(total, total - len(left))
    count = total - len(left)

    def told(task: Task) -> None:
        nonlocal count
        count += 1
        progress.point(_row(task, dataset, folder, attempt), count, total)

    if left and not collect:
        logs = folder / "jobs"
        if slurm is not None:
            run_on_slurm(left, attempt, workers if workers > 1 else None, slurm, logs, told)
        elif workers > 1:
            run_here(left, attempt, workers, logs, told)
        else:
            run_tasks(left, attempt, lambda task: progress.training(task.point.name), told)
    rows = [_row(task, dataset, folder, None if collect else attempt) for task in tasks]
    finished = tuple(row for row in rows if row.accuracy is not None or row.error is not None)
    result = StudyResult(study.name, study.description, study.kind, dataset.name, finished)
    _write(result, folder)
    return result


def _tasks(study: Study, folder: Path, over: Sequence[Layer], progress: StudyProgress) -> tuple[list[Task], Dataset]:
    common = read_recipe(Path(study.recipe), [study.over, Layer(study.plans[0].values, study.over.origin), *over])
    dataset = load_dataset(common.data, common.data_size)
    p = dataset.preprocessing
    progress.planning()
    points = study_points(study, over, Images(p.channels, p.height, p.width, len(p.classes)))
    for point in points:
        if (point.recipe.data, point.recipe.data_size) != (common.data, common.data_size):
            raise ConfigError(f"{study.path}: plan {point.plan!r} has data of its own; legal: one data set for a study")
    fingerprint = dataset.fingerprint()
    # Workers may start elsewhere, but a recipe's own data is where it was looked for here.
    return [
        Task(point, (folder / "points" / point.name).absolute(), fingerprint, bool(study.precisions))
        for point in points
    ], dataset


def _row(task: Task, dataset: Dataset, folder: Path, attempt: str | None) -> StudyRow:
    """A task as it stands; one that is not over has neither accuracy nor error."""
    point, cost = task.point, task.point.cost
    result = task.result()
    artefacts = {row["artefact"].partition(".")[0]: row for row in (result or {}).get("artefacts", [])}

    def of(artefact: str, key: str) -> Any:
        return artefacts[artefact][key] if artefact in artefacts else None

    return StudyRow(
        plan=point.plan,
        width=point.width,
        depth=point.depth,
        seed=point.seed,
        data=dataset.name,
        parameters=cost.parameters,
        conv_weights=cost.conv_weights,
        macs=cost.macs,
        flops=cost.flops,
        test_images=len(dataset.test_labels),
        epochs=result["epochs"] if result else None,
        accuracy=result["accuracy"] if result else None,
        fp32_accuracy=of("fp32", "accuracy"),
        fp32_bytes=of("fp32", "file_bytes"),
        int8_accuracy=of("int8", "accuracy"),
        int8_bytes=of("int8", "file_bytes"),
        train_seconds=round(result["train_seconds"], 1) if result else None,
        folder=str(Path("points", point.name)),
        error=None if result else task.failure(attempt),
    )


def _write(result: StudyResult, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made into a study's folder ({error.strerror})") from error
    write_text(folder / CSV, result.to_csv())
    found = dots(result.rows)
    if not found:
        return
    epochs = {row.epochs for row in result.rows if row.epochs is not None}
    images = result.rows[0].test_images
    note = f"{result.data}, accuracy on {images:,} test images, {_range(epochs)} epoch{'' if epochs == {1} else 's'}"
    for ending in ENDINGS:
        figure = accuracy_and_cost(found, result.kind == "iso_depth", result.description, note)
        write_figure(figure, folder / f"{FIGURE}{ending}")


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
