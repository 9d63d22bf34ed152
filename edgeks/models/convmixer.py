"""ConvMixer with kernels shared between blocks (arXiv 2201.09792; the sharing: arXiv 2210.14151)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeks.errors import CheckpointError
from edgeks.models.argument import MAX_CHANNELS, MAX_CLASSES, affordable, whole_number

MAX_DIM = 8192
MAX_DEPTH = 512
MAX_KERNEL = 63
MAX_PATCH = 64


class ConvMixerBlock(nn.Module):
    """N×D×H×W → N×D×H×W: x + BN(GELU(depthwise k×k)), then BN(GELU(pointwise 1×1)).

    With `kernels_of`, both convolutions read that block's kernels and biases: the same Parameter objects. BN stays own.
    """

    def __init__(self, dim: int, kernel_size: int, kernels_of: ConvMixerBlock | None = None) -> None:
        super().__init__()
        device = None if kernels_of is None else "meta"  # a kernel that is replaced at once is never allocated
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device)
        self.depthwise_norm = nn.BatchNorm2d(dim)
        self.pointwise = nn.Conv2d(dim, dim, 1, device=device)
        self.pointwise_norm = nn.BatchNorm2d(dim)
        self.activation = nn.GELU()
        if kernels_of is not None:
            self.depthwise.weight, self.depthwise.bias = kernels_of.depthwise.weight, kernels_of.depthwise.bias
            self.pointwise.weight, self.pointwise.bias = kernels_of.pointwise.weight, kernels_of.pointwise.bias

    def forward(self, x: Tensor) -> Tensor:
        """N×D×H×W → N×D×H×W."""
        x = x + self.depthwise_norm(self.activation(self.depthwise(x)))
        mixed: Tensor = self.pointwise_norm(self.activation(self.pointwise(x)))
        return mixed


class ConvMixer(nn.Module):
    """N×C×H×W float32 → N×classes logits.

    `kernels` is the number of distinct kernels over all blocks. 0: every block owns its two. An even number 2·g: the
    depth is cut into g contiguous groups (as even as possible, longer ones first), each with one depthwise and one
    pointwise kernel, bias included, that all its blocks read.

    Raises:
        CheckpointError: an argument out of bounds.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        kernel_size: int,
        patch_size: int,
        kernels: int = 0,
        *,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        _check(dim, depth, kernel_size, patch_size, kernels, in_channels=in_channels, classes=classes)
        self.stem = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.stem_norm = nn.BatchNorm2d(dim)
        self.activation = nn.GELU()
        self.blocks = nn.Sequential()
        for group_depth in _group_depths(depth, kernels):
            first = ConvMixerBlock(dim, kernel_size)
            self.blocks.append(first)
            for _ in range(group_depth - 1):
                self.blocks.append(ConvMixerBlock(dim, kernel_size, kernels_of=first))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×classes logits."""
        x = self.stem_norm(self.activation(self.stem(x)))
        x = self.pool(self.blocks(x))
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


def _group_depths(depth: int, kernels: int) -> list[int]:
    """Number of blocks in each contiguous group; their sum is `depth`."""
    groups = kernels // 2 or depth
    return [depth // groups + (index < depth % groups) for index in range(groups)]


def _check(
    dim: int, depth: int, kernel_size: int, patch_size: int, kernels: int, *, in_channels: int, classes: int
) -> None:
    whole_number("convmixer", "dim", dim, 1, MAX_DIM)
    whole_number("convmixer", "depth", depth, 1, MAX_DEPTH)
    whole_number("convmixer", "kernel_size", kernel_size, 1, MAX_KERNEL)
    whole_number("convmixer", "patch_size", patch_size, 1, MAX_PATCH)
    whole_number("convmixer", "kernels", kernels, 0, 2 * depth)
    whole_number("convmixer", "in_channels", in_channels, 1, MAX_CHANNELS)
    whole_number("convmixer", "classes", classes, 1, MAX_CLASSES)
    if kernel_size % 2 == 0:
        raise CheckpointError(f"convmixer: kernel_size is {kernel_size}; legal: an odd number, 1 to {MAX_KERNEL}")
    if kernels % 2:
        raise CheckpointError(
            f"convmixer: kernels is {kernels}; legal: 0 (unshared), or an even number up to twice the depth, "
            f"{2 * depth} (one depthwise and one pointwise kernel per group of blocks)"
        )
    block = dim * (kernel_size**2 + 1) + dim * (dim + 1)
    stem_and_head = dim * (in_channels * patch_size**2 + 3) + classes * (dim + 1)
    affordable("convmixer", (kernels // 2 or depth) * block + depth * 4 * dim + stem_and_head)
