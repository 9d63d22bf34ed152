"""Training batches: shuffled, augmented and normalised. Everything random comes from the seed and the epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from edgeks.preprocessing import Preprocessing
from edgeks.train.augment import Augmenter
from edgeks.train.image_files import ImageFiles
from edgeks.train.settings import TrainSettings

Batch = TypeVar("Batch")


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch: resuming there needs no saved generator state."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


class Batches:
    """An iterable over one epoch of (images float32 B×C×H×W, labels int64 B); set `epoch` before each pass.

    Where images are mixed, labels are float32 B×classes. `images` is uint8 N×C×H×W, in memory on the device that trains
    or decoded batch by batch; `labels` is int64 N on that device. Random numbers are always drawn on the CPU, so that
    every device sees the same batches. A last batch of one image is left out (BN cannot take it where the feature map
    is 1×1), unless it is the only one.

    `rows`: those of every batch that are wanted. Of the others no more is computed than mixing needs.
    """

    def __init__(
        self,
        images: Tensor | ImageFiles,
        labels: Tensor,
        preprocessing: Preprocessing,
        settings: TrainSettings,
        rows: slice = slice(None),
    ) -> None:
        self.epoch, self._rows = 1, rows
        self._images, self._labels = images, labels
        self._batch_size, self._seed = settings.batch_size, settings.seed
        self._augmenter = Augmenter(settings, preprocessing, Normalise(preprocessing, labels.device))

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(len(self._images), self._batch_size)
        return full + (rest > 1 or full == 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ahead(self._in_order())

    def _in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self.epoch))
        order = torch.randperm(len(self._images), generator=generator)
        for chosen in torch.split(order, self._batch_size)[: len(self)]:
            draws = self._augmenter.draw(len(chosen), self._images.shape[2], generator)
            wanted = torch.arange(len(chosen))[self._rows].contiguous()
            needed = self._augmenter.needed(len(chosen), wanted)
            index = chosen[needed].to(self._labels.device)
            images, labels = self._augmenter(self._pixels(index), self._labels[index], draws.of(needed))
            kept = torch.searchsorted(needed, wanted).to(index.device)
            yield (images, labels) if len(kept) == len(needed) else (images[kept], labels[kept])

    def _pixels(self, index: Tensor) -> Tensor:
        if isinstance(self._images, Tensor):
            return self._images[index]
        return torch.from_numpy(self._images[index.cpu().numpy()]).to(self._labels.device)


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches in the same order; the next one is made while one is used. What goes wrong is raised here."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = maker.submit(next, batches, None)
            yield batch


class Normalise:
    """uint8 N×C×H×W tensor → float32, as `Preprocessing.normalise` does for arrays."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch."""
        return (images.float() / 255 - self._mean) / self._std
