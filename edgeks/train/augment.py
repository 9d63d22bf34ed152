"""Training images as the network sees them: cropped, mirrored, distorted, normalised, erased, mixed.

Every number that chance decides is drawn on the CPU for the whole batch, before an image is looked at, and an image's
own distortions follow from a seed of its own. So a process that computes some rows of a batch needs no other's, and any
number of processes sees the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgeks.errors import DataError
from edgeks.preprocessing import Preprocessing
from edgeks.train.rand_augment import rand_augment
from edgeks.train.settings import TrainSettings

SHIFT = 8  # a shift is at most an eighth of the side
CROP_AREA = (0.08, 1.0)
CROP_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))
ERASED_AREA = (0.02, 1 / 3)
ERASED_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))
ATTEMPTS = 10
LARGEST_SEED = (1 << 63) - 1

Chances = list[np.random.Generator]


@dataclass(frozen=True, slots=True)
class Draws:
    """What chance decides for a batch of N images; None where nothing has to be decided.

    `moves` is int64 2×N×1, how far down and right of the corner the window lies; `mirrored` is bool N; `seeds` int64 N.
    """

    moves: Tensor | None
    mirrored: Tensor | None
    seeds: Tensor | None
    mixing: Mixing | None

    def of(self, rows: Tensor) -> Draws:
        """Those of some rows."""
        return Draws(
            None if self.moves is None else self.moves[:, rows],
            None if self.mirrored is None else self.mirrored[rows],
            None if self.seeds is None else self.seeds[rows],
            self.mixing,
        )


@dataclass(frozen=True, slots=True)
class Mixing:
    """Each image keeps the share `kept` of itself and takes the rest from the one that is as far from the other end of
    the batch: mixup (arXiv 1710.09412), or within the rectangle `box` (top, bottom, left, right): cutmix (1905.04899).
    """

    kept: float
    box: tuple[int, int, int, int] | None


class Augmenter:
    """uint8 images as they are stored → float32 as the network is trained on them, with their labels.

    Order, ranges and defaults are those of timm's training transforms: window or shift, mirror, resized crop,
    RandAugment; normalise; random erasing, cutout; mixup or cutmix. What is done before images are normalised is done
    where they lie, the rest on `device`. `draws_pixels`: whether Pillow has a part in it, which works on the CPU.
    """

    def __init__(
        self,
        settings: TrainSettings,
        preprocessing: Preprocessing,
        normalise: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> None:
        self._settings, self._normalise, self._device = settings, normalise, device
        self._height, self._width = preprocessing.height, preprocessing.width
        self._classes = len(preprocessing.classes)
        fill = tuple(round(255 * mean) for mean in preprocessing.mean)
        self._fill = fill if len(fill) > 1 else fill[0]
        self.draws_pixels = settings.randaugment > 0 or "resized_crop" in settings.augment
        if self.draws_pixels and preprocessing.channels not in (1, 3):
            raise DataError(
                f"randaugment and resized_crop take grey or RGB images, not {preprocessing.channels} channels; "
                "leave them out"
            )

    def draw(self, count: int, height: int, generator: torch.Generator) -> Draws:
        """Chance's decisions for a batch of `count` images that are stored with `height` rows."""
        settings = self._settings
        moves = mirrored = seeds = mixing = None
        if "crop" in settings.augment:
            reach = height - self._height or 2 * self._shift
            moves = torch.randint(0, reach + 1, (2, count, 1), generator=generator)
        if "flip" in settings.augment:
            mirrored = torch.rand(count, generator=generator) < 0.5
        if self.draws_pixels or settings.erasing or settings.cutout:
            seeds = torch.randint(0, LARGEST_SEED, (count,), generator=generator)
        if settings.mixup or settings.cutmix:
            seed = int(torch.randint(0, LARGEST_SEED, (1,), generator=generator))
            mixing = _mixing(settings.mixup, settings.cutmix, self._height, self._width, np.random.default_rng(seed))
        return Draws(moves, mirrored, seeds, mixing)

    def needed(self, count: int, wanted: Tensor) -> Tensor:
        """Which rows of a batch of `count` the `wanted` ones are made of, ascending."""
        if not (self._settings.mixup or self._settings.cutmix):
            return wanted
        both: Tensor = torch.unique(torch.cat([wanted, count - 1 - wanted]))
        return both

    def __call__(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """uint8 N×C×H×W and labels int64 N → float32 N×C×H×W, and the labels; where mixed, float32 N×classes.

        Of a part of a batch (see `needed`) images, labels and draws are those of the part.
        """
        chances = [] if draws.seeds is None else [np.random.default_rng(int(seed)) for seed in draws.seeds]
        images = self._placed(images, draws.moves)
        if draws.mirrored is not None:
            images = torch.where(draws.mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
        if self.draws_pixels:
            images = self._redrawn(images, chances)
        if images.device != self._device:
            images = images.pin_memory().to(self._device, non_blocking=True)
        inputs = self._normalise(images)
        if self._settings.erasing:
            erase(inputs, self._settings.erasing, chances)
        if self._settings.cutout:
            cut_out(inputs, self._settings.cutout, chances)
        if draws.mixing is None:
            return inputs, labels
        return mix(inputs, draws.mixing), mix_labels(labels, self._classes, draws.mixing)

    @property
    def _shift(self) -> int:
        return max(1, self._width // SHIFT)

    def _placed(self, images: Tensor, moves: Tensor | None) -> Tensor:
        """The window that the network sees; images without a frame around it are shifted, 0 filling in."""
        if "resized_crop" in self._settings.augment:
            return images
        margin = images.shape[-2] - self._height
        if moves is None:
            return centre(images, self._height, self._width)
        if not margin:
            images = torch.nn.functional.pad(images, (self._shift,) * 4)
        return windows(images, moves.to(images.device), self._height, self._width)

    def _redrawn(self, images: Tensor, chances: Chances) -> Tensor:
        """Pillow's part: resized crops and RandAugment, image by image."""
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        drawn = np.empty((len(pixels), self._height, self._width, pixels.shape[-1]), np.uint8)
        size = (self._width, self._height)
        for row, rng in enumerate(chances):
            image = Image.fromarray(pixels[row] if pixels.shape[-1] > 1 else pixels[row, :, :, 0])
            if "resized_crop" in self._settings.augment:
                image = image.resize(size, Image.Resampling.BILINEAR, box=crop_box(*image.size, rng))
            if self._settings.randaugment:
                image = rand_augment(image, self._settings.randaugment, self._fill, rng)
            drawn[row] = np.asarray(image).reshape(drawn.shape[1:])
        return torch.from_numpy(drawn).permute(0, 3, 1, 2)


def centre(images: Tensor, height: int, width: int) -> Tensor:
    """The middle height × width of N×C×H×W."""
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def windows(images: Tensor, moves: Tensor, height: int, width: int) -> Tensor:
    """From each image of N×C×H×W the height × width that begins at its `moves` (2×N×1: down, right)."""
    count, channels = images.shape[:2]
    rows = moves[0] + torch.arange(height, device=images.device)
    columns = moves[1] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a rectangle of 8 to 100 % of the area and an aspect ratio of 3:4 to 4:3."""
    for _ in range(ATTEMPTS):
        area = rng.uniform(*CROP_AREA) * width * height
        aspect = math.exp(rng.uniform(*CROP_LOG_ASPECT))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def erase(inputs: Tensor, share: float, chances: Chances) -> None:
    """Random erasing (arXiv 1708.04896), in place: in a share of the images a rectangle becomes normal noise.

    `inputs` are normalised, so the noise has the mean and the deviation of the data.
    """
    _, channels, height, width = inputs.shape
    for row, rng in enumerate(chances):
        if rng.random() >= share:
            continue
        for _ in range(ATTEMPTS):
            area = rng.uniform(*ERASED_AREA) * height * width
            aspect = math.exp(rng.uniform(*ERASED_LOG_ASPECT))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                noise = rng.standard_normal((channels, h, w), np.float32)
                inputs[row, :, top : top + h, left : left + w] = torch.from_numpy(noise).to(inputs.device)
                break


def cut_out(inputs: Tensor, side: int, chances: Chances) -> None:
    """Cutout (arXiv 1708.04552), in place: in every image a square, centred anywhere, becomes 0, the mean colour."""
    height, width = inputs.shape[-2:]
    for row, rng in enumerate(chances):
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        top, left = max(0, y - side // 2), max(0, x - side // 2)
        inputs[row, :, top : y - side // 2 + side, left : x - side // 2 + side] = 0


def mix(inputs: Tensor, mixing: Mixing) -> Tensor:
    """Each image with its partner, the image as far from the other end of N×C×H×W."""
    partners = inputs.flip(0)
    if mixing.box is None:
        return mixing.kept * inputs + (1 - mixing.kept) * partners
    top, bottom, left, right = mixing.box
    inputs[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return inputs


def mix_labels(labels: Tensor, classes: int, mixing: Mixing) -> Tensor:
    """int64 N → float32 N×classes, the share of each class."""
    own = torch.nn.functional.one_hot(labels, classes).float()
    return mixing.kept * own + (1 - mixing.kept) * own.flip(0)


def _mixing(mixup: float, cutmix: float, height: int, width: int, rng: np.random.Generator) -> Mixing:
    """One for the whole batch. Where both are on, either has half a chance. A cut beyond the border counts for less."""
    is_cutmix = rng.random() < 0.5 if mixup and cutmix else cutmix > 0
    kept = float(rng.beta(cutmix, cutmix) if is_cutmix else rng.beta(mixup, mixup))
    if not is_cutmix:
        return Mixing(kept, None)
    cut_height, cut_width = int(height * math.sqrt(1 - kept)), int(width * math.sqrt(1 - kept))
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    top, bottom = max(0, y - cut_height // 2), min(height, y + cut_height // 2)
    left, right = max(0, x - cut_width // 2), min(width, x + cut_width // 2)
    return Mixing(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))
