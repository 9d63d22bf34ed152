"""Training batches: shuffled, augmented and normalised. Everything random comes from the seed and the epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from edgeks.preprocessing import Preprocessing
from edgeks.train.settings import Augmentation


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch: resuming there needs no saved generator state."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


class Batches:
    """An iterable over one epoch of (images float32 B×C×H×W, labels int64 B); set `epoch` before each pass.

    `images` is uint8 N×C×H×W and `labels` int64 N; on a GPU they lie there, where the images take at most half of its
    free memory, and else they are moved batch by batch. Random numbers are always drawn on
    the CPU, so that every device sees the same batches. A last batch of one image is left out (BN cannot take it where
    the feature map is 1×1), unless it is the only one. `rows`: which images of each batch this process computes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        augment: tuple[Augmentation, ...],
        seed: int,
        rows: slice = slice(None),
        device: torch.device | None = None,
    ) -> None:
        self.epoch = 1
        device = device or images.device
        self._images, self._labels = images.to(_room(images, device)), labels.to(device)
        self._normalise = Normalise(preprocessing, device)
        self._batch_size, self._augment, self._seed, self._rows = batch_size, augment, seed, rows

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(len(self._images), self._batch_size)
        return full + (rest > 1 or full == 0)

    def size(self, place: int) -> int:
        """Images of the batch at a place 0…len − 1, whoever computes them."""
        return min(self._batch_size, len(self._images) - place * self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self.epoch))
        order = torch.randperm(len(self._images), generator=generator)
        for chosen in torch.split(order, self._batch_size)[: len(self)]:
            images = self._images[chosen.to(self._images.device)]
            if "crop" in self._augment:
                images = shift(images, max(1, images.shape[-1] // 8), generator)
            if "flip" in self._augment:
                images = flip(images, generator)
            images = images[self._rows]
            if self._labels.is_cuda and not images.is_cuda:
                images = images.pin_memory().to(self._labels.device, non_blocking=True)
            yield self._normalise(images), self._labels[chosen[self._rows].to(self._labels.device)]


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


def shift(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image of N×C×H×W moved by −reach…reach pixels in both directions, 0 filling in."""
    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (reach, reach, reach, reach))
    moves = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator).to(images.device)
    rows = moves[0] + torch.arange(height, device=images.device)
    columns = moves[1] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images of N×C×H×W, by chance, mirrored left to right."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(-1), images)
