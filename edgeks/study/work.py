"""Running the points of a study: each in its run folder, by as many processes at once as there are."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from edgeks.atomic_write import write_text
from edgeks.errors import EdgeksError, FolderBusy
from edgeks.pipeline import MODEL, StageState, run_recipe, train_recipe
from edgeks.run_folder import RunFolder, locked
from edgeks.study.task import FAILURE_FILE, Task, read_json
from edgeks.summary import SummaryRow
from edgeks.train.data import load_dataset
from edgeks.train.dataset import Dataset
from edgeks.train.progress import EpochRecord, NoProgress, TrainingProgress

BEGUN_FILE, EPOCHS_FILE = "begun", "epochs.json"
LOCK_FILE = ".point.lock"  # the run in the folder has a lock of its own
WAIT_SECONDS = 1.0
LEAVING = threading.Event()  # set: what is raised now comes of this job being taken off its machine, and is no failure

Outcome = Literal["done", "failed", "busy"]


@dataclass(frozen=True, slots=True)
class Worker:
    """Runs every task that no other process is running, until none is left. It can be sent to another process.

    `attempt` names one call of `edgeks study`: what failed in it is not tried again before the next.
    """

    tasks: tuple[Task, ...]
    attempt: str
    visible_devices: str | None = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))

    def __call__(self) -> None:
        """Run until every task is done or has failed, here or elsewhere."""
        if self.visible_devices is None:  # submitit hides the GPUs from its local processes
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible_devices
        run_tasks(self.tasks, self.attempt)

    def checkpoint(self) -> Any:
        """Slurm is about to take the machine away: what goes on there later, from the last epoch."""
        from submitit.helpers import DelayedSubmission

        LEAVING.set()
        return DelayedSubmission(Worker(self.tasks, f"{self.attempt}+", self.visible_devices))


def run_tasks(
    tasks: Sequence[Task],
    attempt: str,
    progress: Callable[[Task], TrainingProgress] = lambda task: NoProgress(),
    told: Callable[[Task], None] = lambda task: None,
    dataset: Dataset | None = None,
) -> None:
    """Run every task that no other process is running, until all are done or have failed. `told` after each.

    `dataset` is that of all tasks; None: it is loaded once, when a task needs it.
    """

    @cache
    def data() -> Dataset:
        recipe = tasks[0].point.recipe
        return dataset or load_dataset(recipe.data, recipe.data_size)

    left = list(tasks)
    while left:
        busy = []
        for task in left:
            if run_task(task, attempt, progress, data) == "busy":
                busy.append(task)
            else:
                told(task)
        if len(busy) == len(left):
            time.sleep(WAIT_SECONDS)
        left = busy


def run_task(
    task: Task, attempt: str, progress: Callable[[Task], TrainingProgress], data: Callable[[], Dataset]
) -> Outcome:
    """Run a task that is not finished, unless another process is at it."""
    if task.result() is not None:
        return "done"
    if task.failure(attempt) is not None:
        return "failed"
    RunFolder(task.folder)  # makes it
    try:
        with locked(task.folder / LOCK_FILE):
            return _run_locked(task, attempt, progress, data)
    except FolderBusy:
        return "busy"


def _run_locked(
    task: Task, attempt: str, progress: Callable[[Task], TrainingProgress], data: Callable[[], Dataset]
) -> Outcome:
    if task.result() is not None:
        return "done"
    begun = task.folder / BEGUN_FILE
    if begun.is_file() and begun.read_text(encoding="utf-8") == attempt:
        task.write_failure(attempt, "the process that trained it ended without a word; was there too little memory?")
        return "failed"
    write_text(begun, attempt)
    try:
        result = _run(task, progress(task), data())
    except FolderBusy:
        raise
    except EdgeksError as error:
        task.write_failure(attempt, str(error))
    except Exception as error:  # the network may be the user's own code; memory may not do
        if LEAVING.is_set():
            raise
        task.write_failure(attempt, f"{type(error).__name__}: {str(error) or 'without a word'}")
    else:
        task.write_result(result)
        for file in (begun, task.folder / FAILURE_FILE):
            file.unlink(missing_ok=True)
        return "done"
    return "failed"


def _run(task: Task, progress: TrainingProgress, dataset: Dataset) -> dict[str, Any]:
    """Train the point and, where artefacts are wanted, make and measure them → figures for the table."""
    point, epochs = task.point, _Epochs(task.folder / EPOCHS_FILE, progress)
    checkpoint = train_recipe(point.recipe, task.folder, _Quiet(epochs), dataset=dataset, overwrite=task.overwrite)
    rows: tuple[SummaryRow, ...] = ()
    if task.exports:
        rows = run_recipe(point.recipe, task.folder, _Quiet(epochs), dataset=dataset, overwrite=task.overwrite).rows
    metrics = checkpoint.metrics
    return {
        "accuracy": metrics["test_accuracy"],
        "epochs": int(metrics["epochs"]),
        "train_seconds": epochs.seconds(),
        "checkpoint_bytes": (task.folder / MODEL).stat().st_size,
        "artefacts": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }


class _Quiet:
    """A run that says nothing of its stages; its training tells `epochs`."""

    def __init__(self, epochs: TrainingProgress) -> None:
        self._epochs = epochs

    def stage(self, name: str, state: StageState, detail: str) -> None:
        """Nothing."""

    def training(self) -> TrainingProgress:
        """Who is told about the training."""
        return self._epochs


class _Epochs:
    """Keeps what each epoch gave, and its seconds, in a file, so that a training that was killed loses neither."""

    def __init__(self, file: Path, progress: TrainingProgress) -> None:
        self._file, self._progress, self._since = file, progress, time.monotonic()

    def seconds(self) -> float:
        """Seconds of all epochs, whichever process trained them."""
        return sum(float(epoch["seconds"]) for epoch in self._epochs())

    def start(self, total: int, done: int, epochs: int) -> None:
        """Training begins, or goes on."""
        self._since = time.monotonic()
        self._progress.start(total, done, epochs)

    def iteration(self, epoch: int, done: int, loss: float, accuracy: float) -> None:
        """An iteration is over."""
        self._progress.iteration(epoch, done, loss, accuracy)

    def epoch(self, record: EpochRecord) -> None:
        """Writes the epoch; what a training before this one wrote from here on is dropped."""
        now = time.monotonic()
        kept = [epoch for epoch in self._epochs() if epoch["epoch"] < record.epoch]
        write_text(self._file, json.dumps([*kept, {**asdict(record), "seconds": now - self._since}], indent=1))
        self._since = now
        self._progress.epoch(record)

    def stop(self) -> None:
        """Training is over or broken off."""
        self._progress.stop()

    def _epochs(self) -> list[dict[str, Any]]:
        epochs = read_json(self._file)
        return epochs if isinstance(epochs, list) else []
