"""SE-ResNet for CIFAR with the 3×3 kernels of a stage shared (arXiv 1709.01507; the sharing: arXiv 2210.14151)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeks.errors import CheckpointError
from edgeks.models.argument import MAX_CHANNELS, MAX_CLASSES, affordable, whole_number, whole_numbers
from edgeks.models.initialise import convolution

MAX_BLOCKS = 64
MAX_STAGES = 5
MAX_WIDTH = 4096


class SqueezeExcite(nn.Module):
    """N×C×H×W → the same, every channel scaled by a gate 0…1 computed from all channels' means."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Linear(width, width // reduction, bias=False)
        self.activation = nn.ReLU()
        self.expand = nn.Linear(width // reduction, width, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×C×H×W."""
        means = torch.flatten(self.pool(x), 1)
        gates = self.gate(self.expand(self.activation(self.reduce(means))))
        scaled: Tensor = x * gates[:, :, None, None]
        return scaled


class SEBasicBlock(nn.Module):
    """conv 3×3 – BN – ReLU – conv 3×3 – BN – SE – add – ReLU; no convolution has a bias.

    With `width_in` it is a stage's first block: it changes width and resolution, and its identity goes through a
    strided 1×1 convolution and BN. With `kernel`, both convolutions read that Parameter (C×C×3×3, OIHW).
    """

    def __init__(
        self,
        width: int,
        reduction: int,
        *,
        width_in: int | None = None,
        stride: int = 1,
        kernel: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(width_in or width, width, 3, stride, kernel)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, 1, kernel)
        self.norm2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcite(width, reduction)
        self.identity: nn.Module = nn.Identity()
        self.identity_norm: nn.Module = nn.Identity()
        if width_in is not None:
            self.identity = convolution(width_in, width, 1, stride)
            self.identity_norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """N×Cin×H×W → N×C×H/stride×W/stride."""
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.se(self.norm2(self.conv2(y)))
        out: Tensor = self.activation(y + self.identity_norm(self.identity(x)))
        return out


class SEResNet(nn.Module):
    """N×C×H×W float32 → N×classes logits.

    The layer names count stages from 1, as `shared_stages` does. In a shared stage all 3×3 convolutions but the first
    (which has other input channels) are isomorphic and read one kernel: 2·blocks − 1 layers.

    Raises:
        CheckpointError: an argument out of bounds.
    """

    def __init__(
        self,
        blocks_per_stage: int = 4,
        shared_stages: Sequence[int] = (1, 2, 3),
        *,
        widths: Sequence[int] = (64, 128, 256),
        stem_width: int = 16,
        reduction: int = 16,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        _check(
            blocks_per_stage,
            shared_stages,
            widths=widths,
            stem_width=stem_width,
            reduction=reduction,
            in_channels=in_channels,
            classes=classes,
        )
        self.stem = convolution(in_channels, stem_width, 3)
        self.stem_norm = nn.BatchNorm2d(stem_width)
        self.activation = nn.ReLU()
        self.stages = nn.ModuleDict()
        width_in = stem_width
        for number, width in enumerate(widths, start=1):
            entry = SEBasicBlock(width, reduction, width_in=width_in, stride=1 if number == 1 else 2)
            kernel = entry.conv2.weight if number in shared_stages else None
            rest = [SEBasicBlock(width, reduction, kernel=kernel) for _ in range(blocks_per_stage - 1)]
            self.stages[str(number)] = nn.Sequential(entry, *rest)
            width_in = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×classes logits."""
        x = self.activation(self.stem_norm(self.stem(x)))
        for stage in self.stages.values():
            x = stage(x)
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits


def _check(
    blocks_per_stage: int,
    shared_stages: Sequence[int],
    *,
    widths: Sequence[int],
    stem_width: int,
    reduction: int,
    in_channels: int,
    classes: int,
) -> None:
    whole_number("se_resnet", "blocks_per_stage", blocks_per_stage, 1, MAX_BLOCKS)
    whole_numbers("se_resnet", "widths", widths, (1, MAX_STAGES), minimum=1, maximum=MAX_WIDTH)
    whole_numbers("se_resnet", "shared_stages", shared_stages, (0, len(widths)), minimum=1, maximum=len(widths))
    whole_number("se_resnet", "stem_width", stem_width, 1, MAX_WIDTH)
    whole_number("se_resnet", "reduction", reduction, 1, MAX_WIDTH)
    whole_number("se_resnet", "in_channels", in_channels, 1, MAX_CHANNELS)
    whole_number("se_resnet", "classes", classes, 1, MAX_CLASSES)
    if reduction > min(widths):
        raise CheckpointError(
            f"se_resnet: reduction is {reduction}; legal: 1 to the smallest of the widths, {min(widths)}"
        )
    convolutions = sum(
        9 * width * (width_in + width * (1 if number in shared_stages else 2 * blocks_per_stage - 1))
        for number, (width_in, width) in enumerate(zip((stem_width, *widths), widths, strict=False), start=1)
    )
    gates = blocks_per_stage * sum(2 * width * (width // reduction) for width in widths)
    affordable("se_resnet", convolutions + gates + 9 * in_channels * stem_width + classes * (widths[-1] + 1))
