"""ShaResNet: the 3×3 kernels of a stage are shared between its blocks (arXiv 1702.08782)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeks.errors import CheckpointError
from edgeks.models.argument import MAX_CHANNELS, MAX_CLASSES, affordable, whole_number
from edgeks.models.initialise import convolution
from edgeks.models.preact_resnet import STAGES, PreactResNet

# Depth → blocks of its four stages, and whether they are bottlenecks (arXiv 1512.03385 Table 1).
IMAGENET: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
MAX_WIDTH = 1024
EXPANSION = 4


class ShaResNet(PreactResNet):
    """N×C×H×W float32 → N×classes logits: a pre-activation ResNet for CIFAR.

    In a stage, the last 3×3 convolutions of all blocks but the first read one kernel: a bottleneck has one such, of a
    basic block the first 3×3 is its own.

    Raises:
        CheckpointError: an argument out of bounds.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: int = 1,
        bottleneck: bool = False,
        shared: bool = True,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__("sha_resnet", depth, width, bottleneck=bottleneck, in_channels=in_channels, classes=classes)
        for number in range(1, STAGES + 1) if shared else ():
            last = [convolutions[-1] for convolutions in self.spatial(number)]
            for conv in last:
                conv.weight = last[0].weight


class ShaBlock(nn.Module):
    """conv – BN – ReLU – conv … BN, added to the block's identity, then ReLU; no convolution has a bias.

    Basic: two 3×3, the second of which reads `kernel`. Bottleneck: 1×1, 3×3, 1×1; the 3×3 has the stride, and reads
    `kernel` where that is 1. `kernel` (O×I×3×3) None: of their own.
    """

    def __init__(self, width_in: int, width: int, stride: int, *, bottleneck: bool, kernel: Tensor | None) -> None:
        super().__init__()
        out = width * (EXPANSION if bottleneck else 1)
        if bottleneck:
            spatial = convolution(width, width, 3, stride, kernel if stride == 1 else None)
            convolutions = [convolution(width_in, width, 1), spatial, convolution(width, out, 1)]
        else:
            convolutions = [convolution(width_in, width, 3, stride), convolution(width, width, 3, 1, kernel)]
        self.convs = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in convolutions)
        projects = width_in != out
        self.identity: nn.Module = convolution(width_in, out, 1, stride) if projects else nn.Identity()
        self.identity_norm: nn.Module = nn.BatchNorm2d(out) if projects else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """N×Cin×H×W → N×C×H/stride×W/stride."""
        y = x
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(self.activation(y) if index else y))
        out: Tensor = self.activation(y + self.identity_norm(self.identity(x)))
        return out


class ShaResNetImageNet(nn.Module):
    """N×C×H×W float32 → N×classes logits: ResNet-18/34/50/101/152, of 224×224 images.

    In a stage one kernel is read by the second 3×3 of every basic block, or by the 3×3 of every bottleneck whose stride
    is 1. `width` is the first stage's (64 in all of the paper's).

    Raises:
        CheckpointError: an argument out of bounds.
    """

    def __init__(
        self, depth: int, *, width: int = 64, shared: bool = True, in_channels: int = 3, classes: int = 1000
    ) -> None:
        super().__init__()
        _check_imagenet(depth, width, in_channels, classes)
        blocks, bottleneck = IMAGENET[depth]
        self.stem = convolution(in_channels, width, 7, 2)
        self.stem_norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()
        self.stem_pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleDict()
        width_in = width
        for number, count in enumerate(blocks, start=1):
            wide, stride = width * 2 ** (number - 1), 1 if number == 1 else 2
            kernel = convolution(wide, wide, 3).weight if shared else None
            stage = nn.Sequential()
            for _ in range(count):
                stage.append(ShaBlock(width_in, wide, stride, bottleneck=bottleneck, kernel=kernel))
                width_in, stride = wide * (EXPANSION if bottleneck else 1), 1
            self.stages[str(number)] = stage
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×classes logits."""
        x = self.stem_pool(self.activation(self.stem_norm(self.stem(x))))
        for stage in self.stages.values():
            x = stage(x)
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits


def _check_imagenet(depth: int, width: int, in_channels: int, classes: int) -> None:
    name = "sha_resnet_imagenet"
    if not isinstance(depth, int) or isinstance(depth, bool) or depth not in IMAGENET:
        raise CheckpointError(f"{name}: depth is {depth!r}; legal: {', '.join(map(str, IMAGENET))}")
    whole_number(name, "width", width, 1, MAX_WIDTH)
    whole_number(name, "in_channels", in_channels, 1, MAX_CHANNELS)
    whole_number(name, "classes", classes, 1, MAX_CLASSES)
    blocks, bottleneck = IMAGENET[depth]
    per_block = 9 + 2 * EXPANSION if bottleneck else 18
    kernels = sum(per_block * count * (width * 2**stage) ** 2 for stage, count in enumerate(blocks))
    affordable(name, kernels + classes * width * 8 * (EXPANSION if bottleneck else 1))
