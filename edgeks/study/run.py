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
from edgeks.study.farm import run_here, run_on_slurm, slurm_executor
from edgeks.study.points import Images, require_not_varied, study_points
from edgeks.study.results import StudyResult, StudyRow, dots
from edgeks.study.settings import Study
from edgeks.study.task import POINT_FILE, Task
from edgeks.study.work import run_tasks
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.progress import NoProgress, TrainingProgress

CSV, FIGURE = "results.csv", "figure"
ENDINGS = (".svg", ".png")


class StudyProgress(Protocol):
    """Told about a study as it goes."""

    def planning(self) -> None:
        """Study and data are read; its networks are built, without memory, and counted."""

    def planned(self, points: int, finished: int, otherwise: int) -> None:
        """There are so many points; so many were finished before, and so many more trained under other settings."""

    def training(self, point: str) -> TrainingProgress:
        """Who is told about the training of a point in this process."""

    def point(self, row: StudyRow, over: int, points: int) -> None:
        """A point is finished or has failed; with it, `over` of all `points` are."""


class NoStudyProgress:
    """Says nothing."""

    def planning(self) -> None:
        """Nothing."""

    def planned(self, points: int, finished: int, otherwise: int) -> None:
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
    overwrite: bool = False,
    progress: StudyProgress | None = None,
) -> StudyResult:
    """Run every point of `study` that is not finished in `folder`, and write results.csv, figure.svg and figure.png.

    `data` is trained on instead of the recipe's data; `over` is laid over every recipe. With `workers` above 1 points
    run in as many processes; with `slurm` (submitit's parameters of a Slurm job) as jobs of a cluster, `workers` of
    them at once (1: as many as Slurm lets). `quick`: one epoch and one seed each, to see that all of it runs. With
    `collect` nothing is run: the table and the figure are of what is finished. `overwrite`: networks in `folder` that
    were trained under other settings are replaced.

    A point that fails is a row with an error; the others go on. What is finished is not run again by the next call.

    Raises:
        InputError: the study, its recipe or its data are wrong, `folder` cannot be written, or it holds points that
            were trained under other settings.
    """
    progress = progress or NoStudyProgress()
    logs = folder / "jobs"
    slurm_jobs = None if slurm is None else slurm_executor(workers if workers > 1 else None, slurm, logs)
    if data is not None:
        over = [*over, Layer({"data": {"source": data}}, "--data")]
    require_not_varied(study, over)
    if quick:
        study, over = replace(study, seeds=study.seeds[:1]), [QUICK, *over]
    tasks, dataset = _tasks(study, folder, over, overwrite, progress)
    left = [task for task in tasks if task.result() is None]
    others = [f"{task.point.name}: {other}" for task in left if (other := task.other_settings())]
    if collect and len(left) == len(tasks):
        _require_no_points(folder, others)
    elif others and not collect and not overwrite:
        raise OutputError(
            f"{folder}: {_counted(len(others))} trained under other settings ({others[0]}); give the same again, "
            "another -o, or --overwrite"
        )
    attempt = uuid.uuid4().hex
    total = len(tasks)
    count = total - len(left)
    progress.planned(total, count, len(others))

    def told(task: Task) -> None:
        nonlocal count
        count += 1
        progress.point(_row(task, dataset, folder, attempt), count, total)

    if left and not collect:
        if slurm_jobs is not None:
            run_on_slurm(slurm_jobs, left, attempt, logs, told)
        elif workers > 1:
            run_here(left, attempt, workers, logs, told)
        else:
            run_tasks(left, attempt, lambda task: progress.training(task.point.name), told, dataset)
    rows = [_row(task, dataset, folder, None if collect else attempt) for task in tasks]
    finished = tuple(row for row in rows if row.accuracy is not None or row.error is not None)
    result = StudyResult(study.name, study.description, study.kind, dataset.name, finished)
    if finished:
        _write(result, folder)
    return result


def _require_no_points(folder: Path, others: Sequence[str]) -> None:
    """Where nothing is finished under these settings, nothing is under others."""
    count = sum(1 for _ in folder.glob(f"points/*/{POINT_FILE}"))
    if count:
        first = f" ({others[0]})" if others else ""
        raise ConfigError(
            f"{folder}: --collect finds no point of these settings, and {_counted(count)} trained under other "
            f"ones{first}; give the same --set, --with, --data, --seeds and --quick as then"
        )


def _counted(count: int) -> str:
    return "1 point was" if count == 1 else f"{count} points were"


def _tasks(
    study: Study, folder: Path, over: Sequence[Layer], overwrite: bool, progress: StudyProgress
) -> tuple[list[Task], Dataset]:
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
        Task(point, (folder / "points" / point.name).absolute(), fingerprint, bool(study.precisions), overwrite)
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
        for ending in ENDINGS:  # an older one would be of other points
            (folder / f"{FIGURE}{ending}").unlink(missing_ok=True)
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
