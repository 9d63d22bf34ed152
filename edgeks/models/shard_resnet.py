"""ShardNet's residual networks: every block n channels wide, all blocks of the same kernels (ICLR 2020 submission)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgeks.errors import CheckpointError
from edgeks.models.argument import MAX_CHANNELS, MAX_CLASSES, affordable, whole_number, whole_numbers
from edgeks.models.blending import BLOCK, EVERY, NONE, STAGE, BlendedConv, Blending, PadChannels, blended

MAX_WIDTH = 4096
MAX_STAGES = 5
MAX_BLOCKS = 64
BASIC, BOTTLENECK = "basic", "bottleneck"
STEMS = ("none", "3x3", "7x7")
MAX_NARROWING = 64


class Shape(NamedTuple):
    """A convolution of a block; those of one `kernel` number read one kernel where the block is shared."""

    kernel: int
    width_in: int
    width: int
    size: int


class ShardBlock(nn.Module):
    """x + convolutions(x), ReLU; each convolution [– blending] – BN, with ReLU between them.

    The stride is that of the first 3×3 convolution; the identity is averaged over stride×stride then, and has no
    parameters. With `kernels`, a convolution reads the one that is there for its place, or puts its own there. BN and
    blending layers are own.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        *,
        blends: Sequence[bool],
        stride: int = 1,
        kernels: dict[int, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        strided = next(index for index, shape in enumerate(shapes) if shape.size == 3)
        for index, (shape, blend) in enumerate(zip(shapes, blends, strict=True)):
            kernel = None if kernels is None else kernels.get(shape.kernel)
            step = stride if index == strided else 1
            layer = BlendedConv(shape.width_in, shape.width, shape.size, stride=step, blend=blend, kernel=kernel)
            if kernels is not None:
                kernels[shape.kernel] = layer.conv.weight
            self.layers.append(layer)
        self.identity = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×C×H/stride×W/stride."""
        y = x
        for index, layer in enumerate(self.layers):
            y = layer(self.activation(y) if index else y)
        out: Tensor = self.activation(y + self.identity(x))
        return out


class ShardResNet(nn.Module):
    """N×C×H×W float32 → N×classes logits.

    `blocks` per stage, each stage after the first at half the resolution, all n channels wide. `block` "basic": two
    3×3 convolutions; "bottleneck": 1×1 to n/`narrowing` channels, 3×3, 1×1 to n.

    `shared` True: the block is shared as one entity. The 3×3 convolutions of all basic blocks read one kernel; each of
    a bottleneck's three convolutions reads the kernel of its place, so there are three sharing groups. False: E-ResNet.

    `stem` "none": the image is padded to n channels with zeros and goes to the first block; "3x3": a convolution of its
    own, BN, ReLU; "7x7": that of ImageNet's ResNets, stride 2, with a 3×3 max pool of stride 2 behind it.

    `blending` says which convolutions a blending layer of their own follows: "stage": the last one of each stage but
    the last, where the scale changes (SL-ResNet); "block": the last one of each block; "every": the 3×3 ones; a list of
    their numbers from 1, or "none". That a blending layer stands behind its convolution, the shortcut without
    parameters, and that a bottleneck narrows to a quarter, are readings of edgeks (docs/networks.md).

    Raises:
        CheckpointError: an argument out of bounds.
    """

    def __init__(
        self,
        channels: int,
        blocks: Sequence[int],
        shared: bool = True,
        blending: Blending = STAGE,
        *,
        block: str = BASIC,
        narrowing: int = 4,
        stem: str = "none",
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        _check(channels, blocks, shared, block=block, stem=stem, in_channels=in_channels, classes=classes)
        shapes = _shapes(channels, block, narrowing)
        per_block = len(shapes)
        layers = sum(blocks) * per_block
        words = {
            NONE: frozenset[int](),
            EVERY: frozenset(n for n in range(1, layers + 1) if shapes[(n - 1) % per_block].size == 3),
            BLOCK: frozenset(range(per_block, layers + 1, per_block)),
            STAGE: frozenset(per_block * last for last in accumulate(blocks)) - {layers},
        }
        with_blending = blended("shard_resnet", blending, words, layers)
        weights = {s.kernel: s.width_in * s.width * s.size**2 for s in shapes}
        convolutions = sum(weights[s.kernel] for s in shapes) * sum(blocks)
        blends = sum(shapes[(number - 1) % per_block].width ** 2 for number in with_blending)
        norms = 2 * sum(blocks) * sum(shape.width for shape in shapes)
        rest = channels * (49 * in_channels * (stem != "none") + classes) + classes
        affordable("shard_resnet", (sum(weights.values()) if shared else convolutions) + blends + norms + rest)

        self.stem = _stem(stem, in_channels, channels)
        self.stages = nn.ModuleList()
        kernels: dict[int, Tensor] | None = {} if shared else None
        number = 0
        for stage, length in enumerate(blocks):
            made: list[ShardBlock] = []
            for index in range(length):
                own = [number + place in with_blending for place in range(1, per_block + 1)]
                stride = 2 if stage and not index else 1
                made.append(ShardBlock(shapes, blends=own, stride=stride, kernels=kernels))
                number += per_block
            self.stages.append(nn.Sequential(*made))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×classes logits."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits


def _shapes(channels: int, block: str, narrowing: int) -> tuple[Shape, ...]:
    if block == BASIC:
        return (Shape(0, channels, channels, 3),) * 2
    whole_number("shard_resnet", "narrowing", narrowing, 1, MAX_NARROWING)
    if channels % narrowing:
        raise CheckpointError(
            f"shard_resnet: channels is {channels}; legal for bottlenecks: a multiple of narrowing, {narrowing}"
        )
    narrow = channels // narrowing
    return Shape(0, channels, narrow, 1), Shape(1, narrow, narrow, 3), Shape(2, narrow, channels, 1)


def _stem(stem: str, in_channels: int, channels: int) -> nn.Module:
    if stem == "none":
        return PadChannels(in_channels, channels)
    if stem == "3x3":
        return nn.Sequential(BlendedConv(in_channels, channels, 3), nn.ReLU())
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(BlendedConv(in_channels, channels, 7, stride=2), nn.ReLU(), pool)


def _check(
    channels: int, blocks: Sequence[int], shared: bool, *, block: str, stem: str, in_channels: int, classes: int
) -> None:
    whole_number("shard_resnet", "in_channels", in_channels, 1, MAX_CHANNELS)
    whole_number("shard_resnet", "classes", classes, 1, MAX_CLASSES)
    whole_number("shard_resnet", "channels", channels, in_channels if stem == "none" else 1, MAX_WIDTH)
    whole_numbers("shard_resnet", "blocks", blocks, (1, MAX_STAGES), minimum=1, maximum=MAX_BLOCKS)
    if not isinstance(shared, bool):
        raise CheckpointError(f"shard_resnet: shared is {shared!r}; legal: true, false")
    if block not in (BASIC, BOTTLENECK):
        raise CheckpointError(f"shard_resnet: block is {block!r}; legal: {BASIC}, {BOTTLENECK}")
    if stem not in STEMS:
        raise CheckpointError(f"shard_resnet: stem is {stem!r}; legal: {', '.join(STEMS)}")
