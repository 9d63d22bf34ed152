"""Small networks for tests, with BN statistics that a trained network could have: untrained ones say nothing."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgeks.checkpoint import Checkpoint
from edgeks.preprocessing import Preprocessing


@torch.no_grad()
def randomise_batch_norm(model: nn.Module, samples: Tensor, *, negative: float = 0.0, seed: int = 0) -> nn.Module:
    """Statistics from a forward pass over `samples`, then random γ (a share `negative` of them below 0) and β."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches seen: here one
        size = norm.weight.shape
        sign = torch.where(torch.rand(size, generator=generator) < negative, -1.0, 1.0)
        norm.weight.copy_(sign * (0.5 + torch.rand(size, generator=generator)))
        norm.bias.copy_(0.3 * torch.randn(size, generator=generator))
    model.train()
    model(samples)
    return model.eval()


def smooth_samples(shape: Sequence[int], seed: int = 0) -> Tensor:
    """N×C×H×W float32 with neighbours alike, as in images: noise, blurred by a 3×3 mean."""
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.avg_pool2d(2 * torch.randn(*shape, generator=generator), 3, stride=1, padding=1)


def checkpoint_of(model: nn.Module, shape: tuple[int, int, int], *, samples: int = 32, seed: int = 1) -> Checkpoint:
    """Checkpoint with `samples` random calibration images of C×H×W bytes, and the preprocessing to read them."""
    channels, height, width = shape
    images = smooth_samples((samples, *shape), seed) * 60 + 128
    return Checkpoint(
        model=model.eval(),
        preprocessing=Preprocessing(channels, height, width, (0.5,) * channels, (0.25,) * channels, ("a", "b")),
        calibration=images.clamp(0, 255).to(torch.uint8).numpy(),
    )


def inputs_of(checkpoint: Checkpoint) -> np.ndarray:
    """The checkpoint's calibration images as the network takes them: float32 N×C×H×W."""
    assert checkpoint.preprocessing is not None and checkpoint.calibration is not None
    return checkpoint.preprocessing.normalise(checkpoint.calibration)


class SharedConvs(nn.Module):
    """conv(W) → BN_l → ReLU, as often as `strides` says, all of one kernel; then mean and Linear head.

    `convolutions` have strides (and dilations) of their own: isomorphic layers share whatever these are.
    """

    def __init__(
        self,
        channels: int = 8,
        strides: Sequence[int] = (1, 1, 1),
        *,
        dilations: Sequence[int] | None = None,
        in_channels: int = 3,
        classes: int = 5,
        bias: bool = False,
        groups: int = 1,
        shared: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for stride, dilation in zip(strides, dilations or (1,) * len(strides), strict=True):
            conv = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=groups, bias=bias)
            if shared and len(self.convs):
                conv.weight = self.convs[0].weight
            self.convs.append(conv)
            self.norms.append(nn.BatchNorm2d(channels))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


def small_checkpoint(model: nn.Module, size: int = 12, *, negative: float = 0.0, channels: int = 3) -> Checkpoint:
    """`model` with BN statistics of its own calibration images, and those images."""
    checkpoint = checkpoint_of(model, (channels, size, size))
    randomise_batch_norm(model, torch.from_numpy(inputs_of(checkpoint)), negative=negative)
    return checkpoint
