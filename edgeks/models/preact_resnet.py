"""Pre-activation ResNets for CIFAR, narrow and wide (arXiv 1603.05027, 1605.07146), in which nothing is shared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeks.errors import CheckpointError
from edgeks.models.argument import MAX_CHANNELS, MAX_CLASSES, affordable, whole_number
from edgeks.models.initialise import he_normal

STEM_WIDTH = 16
STAGES = 3
MAX_DEPTH = 1202
MAX_FACTOR = 64


class PreactBlock(nn.Module):
    """BN – ReLU – conv …, added to the block's input; `spatial` names its 3×3 convolutions, no convolution has a bias.

    A block that changes width or resolution takes its identity behind the first BN and ReLU, through a strided 1×1
    convolution.
    """

    spatial: tuple[str, ...]

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.projects = width_in != width or stride != 1
        self.norm1 = nn.BatchNorm2d(width_in)
        self.activation = nn.ReLU()
        self.identity: nn.Module = _conv(width_in, width, 1, stride) if self.projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """N×Cin×H×W → N×C×H/stride×W/stride."""
        y = self.activation(self.norm1(x))
        out: Tensor = self.branch(y) + self.identity(y if self.projects else x)
        return out

    def branch(self, y: Tensor) -> Tensor:
        """What is added: all behind the first activation."""
        raise NotImplementedError


class BasicBlock(PreactBlock):
    """BN – ReLU – conv 3×3 – BN – ReLU – conv 3×3."""

    spatial = ("conv1", "conv2")

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__(width_in, width, stride)
        self.conv1 = _conv(width_in, width, 3, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)

    def branch(self, y: Tensor) -> Tensor:
        """N×Cin×H×W → N×C×H/stride×W/stride."""
        out: Tensor = self.conv2(self.activation(self.norm2(self.conv1(y))))
        return out


class BottleneckBlock(PreactBlock):
    """BN – ReLU – conv 1×1 – BN – ReLU – conv 3×3 – BN – ReLU – conv 1×1, a quarter as wide inside."""

    spatial = ("conv2",)

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__(width_in, width, stride)
        inner = width // 4
        self.conv1 = _conv(width_in, inner, 1, stride)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3)
        self.norm3 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, width, 1)

    def branch(self, y: Tensor) -> Tensor:
        """N×Cin×H×W → N×C×H/stride×W/stride."""
        y = self.conv2(self.activation(self.norm2(self.conv1(y))))
        out: Tensor = self.conv3(self.activation(self.norm3(y)))
        return out


class PreactResNet(nn.Module):
    """N×C×H×W float32 → N×classes logits: stem 3×3, three stages named from 1, BN, ReLU, mean, Linear.

    `depth` is 6n+4 for basic blocks and 9n+2 for bottlenecks, n blocks a stage; the stages are 16, 32 and 64 times
    `width` wide, four times that with bottlenecks, and halve the resolution but for the first. Nothing is shared.

    Raises:
        CheckpointError: an argument out of bounds, named as of `architecture`.
    """

    def __init__(
        self, architecture: str, depth: int, width: int, *, bottleneck: bool, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        blocks = _blocks(architecture, depth, width, bottleneck, in_channels, classes)
        block: Callable[[int, int, int], PreactBlock] = BottleneckBlock if bottleneck else BasicBlock
        self.stem = _conv(in_channels, STEM_WIDTH, 3)
        self.stages = nn.ModuleDict()
        width_in = STEM_WIDTH
        for number in range(1, STAGES + 1):
            wide = STEM_WIDTH * width * 2 ** (number - 1) * (4 if bottleneck else 1)
            entry = block(width_in, wide, 1 if number == 1 else 2)
            self.stages[str(number)] = nn.Sequential(entry, *[block(wide, wide, 1) for _ in range(blocks - 1)])
            width_in = wide
        self.norm = nn.BatchNorm2d(width_in)
        self.activation = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width_in, classes)

    def spatial(self, number: int) -> list[list[nn.Conv2d]]:
        """The 3×3 convolutions of stage `number` by block, without the first block's."""
        blocks = list(self.stages[str(number)].children())[1:]
        return [
            [block.get_submodule(name) for name in block.spatial]  # type: ignore[misc,union-attr]
            for block in blocks
        ]

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×classes logits."""
        x = self.stem(x)
        for stage in self.stages.values():
            x = stage(x)
        logits: Tensor = self.head(torch.flatten(self.pool(self.activation(self.norm(x))), 1))
        return logits


def _blocks(architecture: str, depth: int, width: int, bottleneck: bool, in_channels: int, classes: int) -> int:
    """Blocks per stage, once every argument is known to be legal."""
    per_block, rest = (9, 2) if bottleneck else (6, 4)
    whole_number(architecture, "depth", depth, per_block + rest, MAX_DEPTH)
    whole_number(architecture, "width", width, 1, MAX_FACTOR)
    whole_number(architecture, "in_channels", in_channels, 1, MAX_CHANNELS)
    whole_number(architecture, "classes", classes, 1, MAX_CLASSES)
    if (depth - rest) % per_block:
        kind = "bottleneck" if bottleneck else "basic"
        raise CheckpointError(
            f"{architecture}: depth is {depth}; legal with {kind} blocks: {per_block}·n + {rest}, such as "
            f"{3 * per_block + rest}"
        )
    blocks = (depth - rest) // per_block
    inner = [STEM_WIDTH * width * 2**stage for stage in range(STAGES)]
    squares = sum(size**2 for size in inner)  # a bottleneck: 9 of 3×3, 4 + 4 of its 1×1s; the projection at most 16
    affordable(architecture, squares * (17 * blocks + 16 if bottleneck else 18 * blocks) + classes * inner[-1])
    return blocks


def _conv(width_in: int, width: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, He-initialised."""
    conv = nn.Conv2d(width_in, width, size, stride=stride, padding=size // 2, bias=False)
    he_normal(conv.weight)
    return conv
