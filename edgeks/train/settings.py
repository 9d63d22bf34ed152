"""TrainSettings: how a network is trained. Everything that decides the result, and nothing else but speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from edgeks.errors import ConfigError

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "milestones", "plateau"]
Precision = Literal["fp32", "bf16", "fp16"]
Augmentation = Literal["crop", "resized_crop", "flip"]
Qat = Literal["off", "learned", "moving_average"]

_WHOLE = {
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "accumulation": (1, 4096),
    "patience": (0, 100_000),
    "cutout": (0, 4096),
    "seed": (0, 2**31 - 1),
    "threads": (1, 1024),
    "processes": (1, 1024),
}
_NUMBERS = {
    "lr": (1e-9, 1e3),
    "weight_decay": (0.0, 10.0),
    "momentum": (0.0, 0.9999),
    "gamma": (1e-6, 1.0),
    "label_smoothing": (0.0, 0.99),
    "adam_eps": (1e-12, 1.0),
    "clip_norm": (0.0, 1e6),
    "ema": (0.0, 0.999999),
    "randaugment": (0.0, 10.0),
    "mixup": (0.0, 100.0),
    "cutmix": (0.0, 100.0),
    "erasing": (0.0, 1.0),
    "distillation": (0.0, 1.0),
    "temperature": (0.01, 100.0),
    "validation": (0.0, 0.5),
}
_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "milestones", "plateau"),
    "precision": ("fp32", "bf16", "fp16"),
    "qat": ("off", "learned", "moving_average"),
    "device": ("auto", "cpu", "cuda"),
}
SPEED_ONLY = ("threads", "device", "processes")
AUGMENTATIONS = ("crop", "resized_crop", "flip")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a network is trained.

    `schedule` "cosine" lowers `lr` to 0 over all iterations; "milestones" multiplies it by `gamma` after each of the
    epochs in `milestones`; "plateau" multiplies it by `gamma` when the accuracy held out (without validation: the
    training loss) has not improved for more than `patience` epochs. `momentum` is SGD's (AdamW has torch's default
    betas). Weight decay spares biases and BN. `clip_norm` bounds the norm of all gradients; 0: unbounded.

    `batch_size` images make a step, however many processes share them; with `accumulation` k they are computed in k
    parts, whose BN statistics are each part's own. `precision` is what the network computes in; its weights are fp32.
    `ema`: decay of the running mean of the weights that is evaluated and kept; 0: the weights themselves are.

    `augment`: "crop" shifts each image by up to an eighth of its side (4 pixels of 32), black filling in, or, where
    the data keep a frame around the network's size, cuts out any part of that size; "resized_crop" cuts out 8 to 100 %
    of the area, resized; "flip" mirrors half of the images left to right. Beyond these, each 0 for off: `randaugment`,
    a magnitude 0…10 (two operations an image); `mixup` and `cutmix`, the α of their Beta distributions; `erasing`, the
    share of images in which a rectangle becomes noise; `cutout`, the side in pixels of a square that becomes the mean
    colour. docs/data.md has the ranges and their sources.

    `distillation` is the weight of the teacher's softened logits (at `temperature`) beside the labels, where there is
    a teacher (arXiv 1503.02531).

    `validation` is the share of the training images that is held out to choose the best epoch, so that the test images
    are looked at once, at the end. 0: all images are trained on and the last epoch is kept.

    `positive_scales` keeps the γ of every BN above 0, so that no int8 weight scale is negative.

    `qat` trains with fake quantisation (docs/qat.md), step sizes "learned" or by "moving_average". In the last
    `frozen_norm_epochs` epochs every BN uses its running statistics, as the exported network does.

    `threads` (of each process; None: torch's own choice), `processes` (on this machine, docs/training.md) and `device`
    ("auto": a GPU if there is one) decide about speed: with others, sums are rounded differently.

    Raises:
        ConfigError: a value of the wrong type or out of bounds.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 0.01
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    patience: int = 10
    weight_decay: float = 0.01
    momentum: float = 0.9
    adam_eps: float = 1e-8
    clip_norm: float = 0.0
    accumulation: int = 1
    precision: Precision = "fp32"
    ema: float = 0.0
    label_smoothing: float = 0.0
    augment: tuple[Augmentation, ...] = ()
    randaugment: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    cutout: int = 0
    distillation: float = 0.0
    temperature: float = 4.0
    validation: float = 0.1
    positive_scales: bool = True
    qat: Qat = "off"
    frozen_norm_epochs: int = 0
    seed: int = 0
    threads: int | None = None
    device: str = "auto"
    processes: int = 1

    def __post_init__(self) -> None:
        for key, (low, high) in _WHOLE.items():
            value = getattr(self, key)
            if not (key == "threads" and value is None) and not _is_whole(value, low, high):
                raise ConfigError(f"training: {key} is {value!r}; legal: a whole number, {low} to {high}")
        for key, (lowest, highest) in _NUMBERS.items():
            value = getattr(self, key)
            if not _is_number(value) or not lowest <= value <= highest:
                raise ConfigError(f"training: {key} is {value!r}; legal: a number from {lowest:g} to {highest:g}")
        for key, choices in _CHOICES.items():
            value = getattr(self, key)
            if value not in choices:
                raise ConfigError(f"training: {key} is {value!r}; legal: {', '.join(choices)}")
        if not _is_whole(self.frozen_norm_epochs, 0, self.epochs):
            raise ConfigError(
                f"training: frozen_norm_epochs is {self.frozen_norm_epochs!r}; legal: a whole number, "
                f"0 to {self.epochs}"
            )
        if not isinstance(self.positive_scales, bool):
            raise ConfigError(f"training: positive_scales is {self.positive_scales!r}; legal: true, false")
        if self.qat != "off" and self.precision != "fp32":
            raise ConfigError(
                f"training: precision is {self.precision!r} with fake quantisation; legal: 'fp32', for the steps "
                "between int8 values are below what 16 bits tell apart"
            )
        self._check_lists()

    def _check_lists(self) -> None:
        if not isinstance(self.augment, tuple) or not all(a in AUGMENTATIONS for a in self.augment):
            raise ConfigError(f"training: augment is {self.augment!r}; legal: a list of {', '.join(AUGMENTATIONS)}")
        if {"crop", "resized_crop"} <= {*self.augment}:
            raise ConfigError("training: augment has crop and resized_crop; legal: one of them")
        stones = self.milestones
        rising = isinstance(stones, tuple) and all(_is_whole(s, *_WHOLE["epochs"]) for s in stones)
        if not rising or list(stones) != sorted(set(stones)):
            raise ConfigError(f"training: milestones is {stones!r}; legal: a rising list of epochs, each 1 or more")
        if stones and stones[-1] >= self.epochs:
            raise ConfigError(
                f"training: epochs is {self.epochs}, and milestones go to {stones[-1]}; legal: milestones before the "
                "last epoch; set milestones too, or schedule=cosine and milestones=[]"
            )
        if bool(stones) != (self.schedule == "milestones"):
            raise ConfigError(
                f"training: schedule is {self.schedule!r} and milestones is {list(stones)!r}; legal: milestones for "
                "the schedule 'milestones', and none for the others"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and text, for JSON and checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def deciding(self) -> dict[str, Any]:
        """As `to_dict`, without what decides about speed only."""
        return {key: value for key, value in self.to_dict().items() if key not in SPEED_ONLY}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainSettings:
        """Inverse of `to_dict`; keys that are missing have their defaults.

        Raises:
            ConfigError: an unknown key, a missing `epochs`, or an illegal value.
        """
        legal = [field.name for field in fields(cls)]
        for key in data:
            if key not in legal:
                raise ConfigError(f"training: unknown key {key!r}; legal: {', '.join(legal)}")
        if "epochs" not in data:
            raise ConfigError("training: epochs is missing; legal: a whole number, 1 or more")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**arguments)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
