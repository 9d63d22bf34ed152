"""Running the points of a study: each in its run folder, by as many processes at once as there are."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import edgeks
from edgeks.atomic_write import write_text
from edgeks.errors import EdgeksError, FolderBusy
from edgeks.pipeline import MODEL, StageState, run_recipe, train_recipe
from edgeks.run_folder import RunFolder, locked
from edgeks.study.points import Point
from edgeks.summary import SummaryRow
from edgeks.train.progress import EpochRecord, NoProgress, TrainingProgress

POINT_FILE, FAILURE_FILE, BEGUN_FILE, EPOCHS_FILE = "point.json", "failure.json", "begun", "epochs.json"
LOCK_FILE = ".point.lock"  # the run in the folder has a lock of its own
WAIT_SECONDS = 1.0
LEAVING = threading.Event()  # set: what is raised now comes of this job being taken off its machine, and is no failure

Outcome = Literal["done", "failed", "busy"]


@dataclass(frozen=True, slots=True)
class Task:
    """A point, its folder, and the fingerprint of the data that it is trained on."""

    point: Point
    folder: Path
    data: str
    exports: bool

    @property
    def key(self) -> str:
        """Hash of everything that the point's result depends on."""
        recipe = asdict(self.point.recipe)
        inputs = {key: value for key, value in recipe.items() if key not in ("path", "description")}
        inputs |= {"edgeks": edgeks.__version__, "fingerprint": self.data, "exports": self.exports}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()

    def result(self) -> dict[str, Any] | None:
        """What the finished point has given; None: it is not finished."""
        result = _read(self.folder / POINT_FILE)
        return result if isinstance(result, dict) and result.get("key") == self.key else None

    def failure(self, attempt: str | None = None) -> str | None:
        """Why the point failed, in this attempt at the study or in any; None: it has not."""
        failure = _read(self.folder / FAILURE_FILE)
        found = isinstance(failure, dict) and str(failure.get("attempt", "")).startswith(attempt or "")
        return str(failure.get("error")) if failure and found else None


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
) -> None:
    """Run every task that no other process is running, until all are done or have failed. `told` after each."""
    left = list(tasks)
    while left:
        busy = []
        for task in left:
            if run_task(task, attempt, progress) == "busy":
                busy.append(task)
            else:
                told(task)
        if len(busy) == len(left):
            time.sleep(WAIT_SECONDS)
        left = busy


def run_task(task: Task, attempt: str, progress: Callable[[Task], TrainingProgress]) -> Outcome:
    """Run a task that is not finished, unless another process is at it."""
    if task.result() is not None:
        return "done"
    if task.failure(attempt) is not None:
        return "failed"
    RunFolder(task.folder)  # makes it
    try:
        with locked(task.folder / LOCK_FILE):
            return _run_locked(task, attempt, progress)
    except FolderBusy:
        return "busy"


def _run_locked(task: Task, attempt: str, progress: Callable[[Task], TrainingProgress]) -> Outcome:
    if task.result() is not None:
        return "done"
    begun = task.folder / BEGUN_FILE
    if begun.is_file() and begun.read_text(encoding="utf-8") == attempt:
        write_failure(task, attempt, "the process that trained it ended without a word; was there too little memory?")
        return "failed"
    write_text(begun, attempt)
    try:
        result = _run(task, progress(task))
    except FolderBusy:
        raise
    except EdgeksError as error:
        write_failure(task, attempt, str(error))
    except Exception as error:  # the network may be the user's own code; memory may not do
        if LEAVING.is_set():
            raise
        write_failure(task, attempt, f"{type(error).__name__}: {str(error) or 'without a word'}")
    else:
        write_text(task.folder / POINT_FILE, json.dumps({"key": task.key, **result}, indent=1))
        for file in (begun, task.folder / FAILURE_FILE):
            file.unlink(missing_ok=True)
        return "done"
    return "failed"


def write_failure(task: Task, attempt: str, error: str) -> None:
    """Remember why a point failed."""
    write_text(task.folder / FAILURE_FILE, json.dumps({"attempt": attempt, "error": error}, indent=1))


def _run(task: Task, progress: TrainingProgress) -> dict[str, Any]:
    """Train the point and, where artefacts are wanted, make and measure them → figures for the table."""
    point, epochs = task.point, _Epochs(task.folder / EPOCHS_FILE, progress)
    checkpoint = train_recipe(point.recipe, task.folder, _Quiet(epochs), overwrite=True)
    rows: tuple[SummaryRow, ...] = ()
    if task.exports:
        rows = run_recipe(point.recipe, task.folder, _Quiet(epochs), overwrite=True).rows
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
        epochs = _read(self._file)
        return epochs if isinstance(epochs, list) else []


def _read(file: Path) -> Any:
    """A JSON file of a point; one that is missing or damaged reads as empty."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
