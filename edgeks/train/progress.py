"""What a user sees while a network trains: a bar on a terminal, one plain line per epoch elsewhere, or nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The figures of one epoch. Losses are means per image, accuracies shares 0…1; None: nothing was held out."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_accuracy: float | None


class TrainingProgress(Protocol):
    """Told about the training as it goes. `done` and `total` count iterations over all epochs."""

    def start(self, total: int, done: int, epochs: int) -> None:
        """Training begins, or goes on after `done` iterations."""

    def iteration(self, epoch: int, done: int, loss: float, accuracy: float) -> None:
        """An iteration is over; loss and accuracy are the means of the epoch so far."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is over, and its state is on the disk."""

    def stop(self) -> None:
        """Training is over or broken off."""


class NoProgress:
    """Says nothing."""

    def start(self, total: int, done: int, epochs: int) -> None:
        """Nothing."""

    def iteration(self, epoch: int, done: int, loss: float, accuracy: float) -> None:
        """Nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class LineProgress(NoProgress):
    """One plain line per epoch, and one now and then within a long epoch."""

    def __init__(self, console: Console) -> None:
        self._console, self._epochs, self._total = console, 0, 0
        self._said = time.monotonic()

    def start(self, total: int, done: int, epochs: int) -> None:
        """Remembers the number of epochs, and says so where training goes on."""
        self._epochs, self._total = epochs, total
        if done:
            self._console.print(f"resuming after epoch {done * epochs // total}", highlight=False)

    def iteration(self, epoch: int, done: int, loss: float, accuracy: float) -> None:
        """Prints a line when the last one is half a minute old."""
        if time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            share = done / self._total
            self._console.print(f"{share:.0%} done, epoch {epoch}  {_figures(loss, accuracy)}", highlight=False)

    def epoch(self, record: EpochRecord) -> None:
        """Prints the line."""
        self._said = time.monotonic()
        line = f"epoch {record.epoch}/{self._epochs}  {_figures(record.train_loss, record.train_accuracy)}"
        if record.validation_accuracy is not None:
            line += f"  validation {record.validation_accuracy:.2%}"
        self._console.print(line, highlight=False, soft_wrap=True)


class BarProgress:
    """One bar over the whole training, with loss and accuracy."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task, self._epochs, self._validation = self._bar.add_task("training", total=None, figures=""), 0, ""

    def start(self, total: int, done: int, epochs: int) -> None:
        """Shows the bar."""
        self._epochs = epochs
        self._bar.update(self._task, total=total, completed=done)
        self._bar.start()

    def iteration(self, epoch: int, done: int, loss: float, accuracy: float) -> None:
        """Moves the bar."""
        figures = f"{_figures(loss, accuracy)}{self._validation}"
        self._bar.update(
            self._task, completed=done, description=f"training, epoch {epoch}/{self._epochs}", figures=figures
        )

    def epoch(self, record: EpochRecord) -> None:
        """Shows the validation accuracy from now on."""
        if record.validation_accuracy is not None:
            self._validation = f"  validation {record.validation_accuracy:.2%}"

    def stop(self) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()


def progress_for(console: Console, *, quiet: bool = False) -> TrainingProgress:
    """Nothing when quiet, a bar on a terminal, plain lines otherwise."""
    if quiet:
        return NoProgress()
    return BarProgress(console) if console.is_terminal else LineProgress(console)


def _figures(loss: float, accuracy: float) -> str:
    return f"loss {loss:.4f}  accuracy {accuracy:.2%}"
