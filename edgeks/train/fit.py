"""Training a network: pytorch-ignite's engine, seeded, resumable to the same bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeks.errors import CheckFailed, CheckpointError, DataError
from edgeks.models.positive_scales import positive_scales
from edgeks.preprocessing import Preprocessing
from edgeks.quant.qat import without_ranges
from edgeks.train import processes
from edgeks.train.batches import Batches, Normalise, epoch_seed
from edgeks.train.dataset import Dataset, ImageStore, Labels, stratified_split
from edgeks.train.image_files import ImageFiles
from edgeks.train.progress import EpochRecord, NoProgress, TrainingProgress
from edgeks.train.resume import Fingerprint, TrainState, read_state, write_state
from edgeks.train.settings import TrainSettings
from edgeks.train.step import TrainingStep
from edgeks.train.sync_batch_norm import synchronised

EVALUATION_BATCH = 64  # on a CPU; larger ones cost it as much time for fresh memory as for computing


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a training gave. Accuracies are shares 0…1; `test_accuracy` is that of the epoch that was kept.

    `validation_accuracy` is None when nothing was held out: then `best_epoch` is the last one.
    """

    best_epoch: int
    test_accuracy: float
    validation_accuracy: float | None
    history: tuple[EpochRecord, ...]

    def metrics(self) -> dict[str, float | int | None]:
        """Plain figures of the epoch that was kept, for checkpoints and reports."""
        kept = self.history[self.best_epoch - 1]
        return {
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "train_loss": kept.train_loss,
            "train_accuracy": kept.train_accuracy,
            "validation_accuracy": self.validation_accuracy,
            "test_accuracy": self.test_accuracy,
        }


def fit(
    model: nn.Module,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    last: Path,
    resume: bool = False,
    progress: TrainingProgress | None = None,
    teacher: nn.Module | None = None,
    start: str = "",
) -> FitResult:
    """Train `model` in place; it ends with the weights of the best epoch, in evaluation mode, on the CPU.

    `teacher` takes the same images and gives the same logits; `settings.distillation` is its weight beside the labels.
    It is not trained, and ends in evaluation mode on the CPU.

    After every epoch the state is written to `last`, whole or not at all. With `resume` and such a file, training goes
    on after the epoch that it holds and ends with the same bits as a training that was never interrupted (on the same
    machine with the same number of threads). Without `resume` the file is overwritten. `start` names what `model` goes
    on from; a file of a training with another one is refused.

    The best epoch is the one with the highest accuracy on the images held out for validation, the later one of equals.

    Raises:
        DataError: network and data do not fit together.
        CheckpointError: `last` is damaged, or was written under other settings, data or network.
        ConfigError: the device is not there.
        CheckFailed: the training diverged.
    """
    progress = progress or NoProgress()
    device = processes.chosen_device(settings.device)
    scales = positive_scales(model) if settings.positive_scales else nullcontext()
    with _threads(settings.threads), torch.random.fork_rng(devices=[]), scales, synchronised(model):
        _check_fits(model, dataset)
        teacher = teacher if settings.distillation > 0 else None
        if teacher is not None:
            _check_fits(teacher, dataset, who="teacher", trains=False)
            teacher.to(device).eval()
        try:
            # Half the time of a depthwise network on a CPU is saved by this layout.
            model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            training = _Training(model, dataset, settings, last, progress, teacher, start)
            if resume:
                training.resume()
            training.run()
        finally:
            progress.stop()
            if teacher is not None:
                teacher.to("cpu")
            model.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        best = training.best()
        model.load_state_dict(best.best)
        test_accuracy = _accuracy(model.to(device), dataset.test_images, dataset.test_labels, dataset.preprocessing)
        model.to("cpu")
    kept = best.history[best.best_epoch - 1]
    return FitResult(best.best_epoch, test_accuracy, kept.validation_accuracy, tuple(best.history))


def evaluate(model: nn.Module, images: ImageStore, labels: Labels, preprocessing: Preprocessing) -> float:
    """Share 0…1 of the images (uint8 N×C×H×W) whose highest logit is their label's. Leaves the mode as it was."""
    return _right(model, images, labels, preprocessing, 0, 1) / len(images)


def _accuracy(model: nn.Module, images: ImageStore, labels: Labels, preprocessing: Preprocessing) -> float:
    """As `evaluate`; each process looks at its share of the images."""
    found = _right(model, images, labels, preprocessing, processes.rank(), processes.count())
    device = next(model.parameters()).device
    return int(processes.summed(torch.tensor(found, device=device))) / len(images)


def _right(
    model: nn.Module, images: ImageStore, labels: Labels, preprocessing: Preprocessing, first: int, step: int
) -> int:
    """How many are classified right, of every step-th batch."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    normalise = Normalise(preprocessing, device)
    was_training = model.training
    model.eval()
    right = 0
    with torch.inference_mode():
        size = EVALUATION_BATCH * (1 if device.type == "cpu" else 8)
        for start in range(first * size, len(images), step * size):
            batch = slice(start, start + size)
            logits = model(normalise(torch.from_numpy(images[batch]).to(device)))
            right += int((logits.argmax(1).cpu() == torch.from_numpy(labels[batch])).sum())
    model.train(was_training)
    return right


class _Training:
    """The engine, with what happens in each step and around each epoch. Only process 0 writes and reports."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        settings: TrainSettings,
        last: Path,
        progress: TrainingProgress,
        teacher: nn.Module | None,
        start: str,
    ) -> None:
        self._device = next(model.parameters()).device
        self._fingerprint = _agreed(Fingerprint.of(model, dataset, settings, teacher, start), self._device)
        self._model, self._settings, self._last, self._progress = model, settings, last, progress
        self._preprocessing = dataset.preprocessing
        train, held_out = np.arange(len(dataset.train_labels)), np.arange(0)
        if settings.validation > 0:
            train, held_out = stratified_split(dataset.train_labels, settings.validation, settings.seed)
        self._validation = dataset.held_out(held_out)
        images, labels = dataset.training(train)
        self._batches = Batches(
            images if isinstance(images, ImageFiles) else torch.from_numpy(images),
            torch.from_numpy(labels),
            dataset.preprocessing,
            settings,
            rows=slice(processes.rank(), None, processes.count()),
            device=self._device,
        )
        example = Normalise(dataset.preprocessing, self._device)(torch.from_numpy(dataset.sample(np.arange(1))))
        self._step = TrainingStep(model, settings, teacher, len(self._batches), example)
        self._seen, self._loss, self._right = 0, 0.0, 0.0  # of the epoch so far
        self._state: TrainState | None = None
        self._engine = self._make_engine()

    def resume(self) -> None:
        """Go on after the epoch that the state on disk is of, if there is one."""
        found = None
        if processes.rank() == 0 and self._last.exists():
            found = read_state(self._last, self._fingerprint)
        state = processes.from_first(found, self._device)
        if state is None:
            return
        try:
            self._model.load_state_dict(state.model)
            self._step.load_state_dict(state.step)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self._last}: the state does not fit the network; train without resuming"
            ) from error
        self._state = state

    def run(self) -> None:
        """All epochs that are left."""
        epochs, length = self._settings.epochs, len(self._batches)
        done = self._state.epoch if self._state else 0
        self._progress.start(epochs * length, done * length, epochs)
        if done < epochs:
            self._engine.load_state_dict({"epoch": done, "max_epochs": epochs, "epoch_length": length})
            self._engine.run(self._batches)

    def best(self) -> TrainState:
        """The state after the last epoch; it holds the best weights."""
        if self._state is None:
            raise RuntimeError("best() before run()")
        return self._state

    def _make_engine(self) -> Engine:
        engine = Engine(self._take)
        engine.logger = logging.getLogger("edgeks.train")
        engine.logger.addHandler(logging.NullHandler())  # errors reach the user as exceptions, not as log lines as well
        engine.logger.propagate = False
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        return engine

    def _take(self, engine: Engine, batch: tuple[Tensor, Tensor]) -> None:
        epoch, done = engine.state.epoch, engine.state.iteration
        size = self._batches.size((done - 1) % len(self._batches))
        tally = self._step(*batch, size)
        if not math.isfinite(tally.loss):
            raise CheckFailed(
                f"training diverged in epoch {epoch}: the loss is {tally.loss}; lower lr "
                f"(now {self._settings.lr:g}), or look for broken images or labels"
            )
        self._seen += size
        self._loss += tally.loss * size
        self._right += tally.accuracy * size
        self._progress.iteration(epoch, done, self._loss / self._seen, self._right / self._seen)

    def _start_epoch(self, engine: Engine) -> None:
        self._seen, self._loss, self._right = 0, 0.0, 0.0
        self._model.train()
        if engine.state.epoch > self._settings.epochs - self._settings.frozen_norm_epochs:
            for module in self._model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        self._batches.epoch = engine.state.epoch
        # For a network with dropout: each process drops its own.
        torch.manual_seed(epoch_seed(self._settings.seed, engine.state.epoch) + processes.rank())

    def _end_epoch(self, engine: Engine) -> None:
        """Validate, keep the best weights, write the state, and only then report."""
        epoch, kept = engine.state.epoch, self._step.weights
        accuracy = None
        if len(self._validation[0]):
            accuracy = _accuracy(kept, *self._validation, self._preprocessing)
        record = EpochRecord(epoch, self._loss / self._seen, self._right / self._seen, accuracy)
        self._step.end_epoch(accuracy, record.train_loss)
        before = self._state
        is_best = before is None or accuracy is None or accuracy >= _best_accuracy(before)
        model = _on_cpu(self._model)
        self._state = TrainState(
            epoch=epoch,
            model=model,
            step=self._step.state_dict(),
            history=[*(before.history if before else []), record],
            best_epoch=epoch if before is None or is_best else before.best_epoch,
            best=(model if kept is self._model else _on_cpu(kept)) if before is None or is_best else before.best,
        )
        if processes.rank() == 0:
            write_state(self._last, self._state, self._fingerprint)
        self._progress.epoch(record)


def _on_cpu(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _agreed(mine: Fingerprint, device: torch.device) -> Fingerprint:
    """The fingerprint of process 0, where it is this one's too.

    Raises:
        DataError: processes have other data, or another network.
    """
    first = processes.from_first(mine, device)
    if first != mine:
        what = "data" if first.data != mine.data else "settings, network or teacher"
        raise DataError(
            f"training: process {processes.rank()} has other {what} than process 0; give all the same command, and all "
            "machines the same files"
        )
    return first


def _best_accuracy(state: TrainState) -> float:
    return state.history[state.best_epoch - 1].validation_accuracy or 0.0


def _check_fits(model: nn.Module, dataset: Dataset, *, who: str = "network", trains: bool = True) -> None:
    """One training image through the network.

    Raises:
        DataError: the network does not take the images, or has not one logit for each class.
    """
    p = dataset.preprocessing
    if trains and not any(parameter.requires_grad for parameter in model.parameters()):
        raise DataError("the network has no parameters that could be trained")
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), without_ranges(model):
            logits = model(Normalise(p, torch.device("cpu"))(torch.from_numpy(dataset.sample(np.arange(1)))))
    except Exception as error:  # the network may be the user's own code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{dataset.name}: the {who} does not take images of {p.channels}×{p.height}×{p.width} ({reason}); "
            "choose in_channels, patch_size and image size to match"
        ) from error
    finally:
        model.train(was_training)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, len(p.classes)):
        raise DataError(
            f"{dataset.name}: the {who} gives {shape} for one image; legal: (1, {len(p.classes)}), a logit for each "
            f"of the {len(p.classes)} classes; set the {who}'s classes to match"
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch computes with `count` threads inside (None: as before)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
