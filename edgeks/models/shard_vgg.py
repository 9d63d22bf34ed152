"""ShardNet's VGG-like networks: every 3×3 convolution n channels wide, all of one kernel (ICLR 2020 submission)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from edgeks.errors import CheckpointError, DataError
from edgeks.models.argument import MAX_CHANNELS, MAX_CLASSES, affordable, whole_number, whole_numbers
from edgeks.models.blending import EVERY, NONE, STAGE, BlendedConv, Blending, PadChannels, blended

MAX_WIDTH = 4096
MAX_STAGES = 7
MAX_CONVOLUTIONS = 64
MAX_HIDDEN = 4


class ShardVGG(nn.Module):
    """N×C×H×W float32 → N×classes logits; H and W of 2^stages or more (VGG-16's five max pools: 32, as for 56).

    (conv 3×3 [– blending 1×1] – BN – ReLU), as often as `convolutions` says, and a 2×2 max pool, stage by stage; then
    mean over H and W, a Linear layer and ReLU for each width in `hidden`, and a linear head. No convolution has a bias.

    `shared` True, `blending` "none": S-VGGNet(n). One kernel n×n×3×3 for all layers, the first one too: the image is
    padded to n channels with zeros. False: E-VGGNet(n), of the same width; its first layer reads the image as it is.

    `blending` says which convolutions an n×n blending layer of their own follows: "stage": the last one of each stage
    but the last, where the scale changes (SL-VGGNet); "every" (SLℓ-VGGNet); or a list of their numbers from 1. That BN
    stands behind the blending layer rather than ahead of it is a reading of edgeks (docs/networks.md).

    Raises:
        CheckpointError: an argument out of bounds.
    """

    def __init__(
        self,
        channels: int,
        shared: bool = True,
        blending: Blending = NONE,
        *,
        convolutions: Sequence[int] = (2, 2, 3, 3, 3),
        hidden: Sequence[int] = (),
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        _check(channels, shared, convolutions=convolutions, hidden=hidden, in_channels=in_channels, classes=classes)
        layers = sum(convolutions)
        last_of_stage = frozenset(accumulate(convolutions)) - {layers}
        words = {NONE: frozenset[int](), EVERY: frozenset(range(1, layers + 1)), STAGE: last_of_stage}
        with_blending = blended("shard_vgg", blending, words, layers)
        kernels = 9 * channels * (channels if shared else in_channels + (layers - 1) * channels)
        widths = (channels, *hidden, classes)
        linear = sum((before + 1) * after for before, after in pairwise(widths))
        rest = channels * (channels * len(with_blending) + 2 * layers) + linear
        affordable("shard_vgg", kernels + rest)
        self.pad = PadChannels(in_channels, channels) if shared else nn.Identity()
        self.stages = nn.ModuleList()
        kernel: Tensor | None = None
        number, width_in = 0, channels if shared else in_channels
        for length in convolutions:
            stage = nn.ModuleList()
            for _ in range(length):
                number += 1
                layer = BlendedConv(width_in, channels, 3, blend=number in with_blending, kernel=kernel)
                kernel = layer.conv.weight if shared else None
                stage.append(layer)
                width_in = channels
            self.stages.append(stage)
        self.activation = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Sequential()
        for before, after in pairwise(widths[:-1]):
            self.hidden.extend([nn.Linear(before, after), nn.ReLU()])
        self.head = nn.Linear(widths[-2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×classes logits."""
        smallest = 2 ** len(self.stages)
        if isinstance(x, Tensor) and min(x.shape[2:]) < smallest:  # torch.fx traces with a stand-in
            raise DataError(
                f"shard_vgg: {len(self.stages)} max pools take images of {smallest}×{smallest} or more, found "
                f"{x.shape[2]}×{x.shape[3]}; give `convolutions` fewer stages"
            )
        x = self.pad(x)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)  # noqa: S101  # for the type checker
            for layer in stage:
                x = self.activation(layer(x))
            x = self.pool(x)
        logits: Tensor = self.head(self.hidden(torch.flatten(self.mean(x), 1)))
        return logits


def _check(
    channels: int,
    shared: bool,
    *,
    convolutions: Sequence[int],
    hidden: Sequence[int],
    in_channels: int,
    classes: int,
) -> None:
    whole_number("shard_vgg", "in_channels", in_channels, 1, MAX_CHANNELS)
    whole_number("shard_vgg", "classes", classes, 1, MAX_CLASSES)
    if not isinstance(shared, bool):
        raise CheckpointError(f"shard_vgg: shared is {shared!r}; legal: true, false")
    whole_number("shard_vgg", "channels", channels, in_channels if shared else 1, MAX_WIDTH)
    whole_numbers("shard_vgg", "convolutions", convolutions, (1, MAX_STAGES), minimum=1, maximum=MAX_CONVOLUTIONS)
    whole_numbers("shard_vgg", "hidden", hidden, (0, MAX_HIDDEN), minimum=1, maximum=MAX_WIDTH)
