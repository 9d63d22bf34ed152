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

    Where images are mixed, labels are float32 B×classes. `images` is uint8 N×C×H×W, in memory or decoded batch by
    batch, and `labels` int64 N. On a GPU they lie there, where the images take at most half of its free memory and
    Pillow has no part in augmenting them; else they are moved batch by batch. Random numbers are always drawn on the
    CPU, so that every device sees the same batches. A last batch of one image is left out (BN cannot take it where the
    feature map is 1×1), unless it is the only one. `rows`: which images of each batch this process computes; of the
    others no more is computed than mixing needs.
    """

    def __init__(
        self,
        images: Tensor | ImageFiles,
        labels: Tensor,
        preprocessing: Preprocessing,
        settings: TrainSettings,
        *,
        rows: slice = slice(None),
        device: torch.device | None = None,
    ) -> None:
        self.epoch, self._rows = 1, rows
        device = device or labels.device
        self._augmenter = Augmenter(settings, preprocessing, Normalise(preprocessing, device), device)
        self._images, self._labels = images, labels.to(device)
        if isinstance(images, Tensor) and not self._augmenter.draws_pixels:
            self._images = images.to(_room(images, device))
        self._batch_size, self._seed = settings.batch_size, settings.seed

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(len(self._images), self._batch_size)
        return full + (rest > 1 or full == 0)

    def size(self, place: int) -> int:
        """Images of the batch at a place 0…len − 1, whoever computes them."""
        return min(self._batch_size, len(self._images) - place * self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ahead(self._in_order())

    def _in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self.epoch))
        order = torch.randperm(len(self._images), generator=generator)
        for chosen in torch.split(order, self._batch_size)[: len(self)]:
            draws = self._augmenter.draw(len(chosen), self._images.shape[2], generator)
            wanted = torch.arange(len(chosen))[self._rows].contiguous()
            needed = self._augmenter.needed(len(chosen), wanted)
            index = chosen[needed]
            labels = self._labels[index.to(self._labels.device)]
            images, labels = self._augmenter(self._pixels(index), labels, draws.of(needed))
            kept = torch.searchsorted(needed, wanted).to(labels.device)
            yield (images, labels) if len(kept) == len(needed) else (images[kept], labels[kept])

    def _pixels(self, index: Tensor) -> Tensor:
        if isinstance(self._images, Tensor):
            return self._images[index.to(self._images.device)]
        return torch.from_numpy(self._images[index.numpy()])


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches in the same order; the next one is made while one is used. What goes wrong is raised here."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = maker.submit(next, batches, None)
            yield batch


def _room(images: Tensor, device: torch.device) -> torch.device:
    """Where all the images are to lie."""
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return torch.device("cpu")
    return device


class Normalise:
    """uint8 N×C×H×W tensor → float32, as `Preprocessing.normalise` does for arrays."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch."""
        return (images.float() / 255 - self._mean) / self._std
