"""What ShardNet's networks are made of: a convolution that may read another's kernel, and a 1×1 layer that blends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeks.errors import CheckpointError
from edgeks.models.initialise import convolution, he_normal

Blending = str | Sequence[int]
NONE, EVERY, BLOCK, STAGE = "none", "every", "block", "stage"


class PadChannels(nn.Module):
    """N×C×H×W → N×channels×H×W: zeros behind the image's own channels, so that a kernel of n inputs can read it."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.added = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """N×C×H×W → N×channels×H×W."""
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.added))


class BlendedConv(nn.Module):
    """conv k×k [– 1×1 blending] – BN; neither layer has a bias.

    With `kernel` the convolution reads that Parameter (OIHW). The blending layer is linear in what the convolution
    gives, and its C×C kernel and the BN are always the layer's own.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        size: int,
        *,
        stride: int = 1,
        blend: bool = False,
        kernel: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.conv = convolution(width_in, width, size, stride, kernel)
        self.blend = nn.Conv2d(width, width, 1, bias=False) if blend else None
        if self.blend is not None:
            he_normal(self.blend.weight)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """N×Cin×H×W → N×C×H/stride×W/stride."""
        y = self.conv(x)
        normalised: Tensor = self.norm(y if self.blend is None else self.blend(y))
        return normalised


def blended(architecture: str, blending: Blending, layers_of: dict[str, frozenset[int]], layers: int) -> frozenset[int]:
    """Numbers, from 1, of the layers that a blending layer follows. `layers_of`: the words for sets of them.

    Raises:
        CheckpointError: neither such a word nor a list of numbers of layers.
    """
    if isinstance(blending, str) and blending in layers_of:
        return layers_of[blending]
    numbers = [] if isinstance(blending, str) or not isinstance(blending, Sequence) else list(blending)
    followed = frozenset(n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= layers)
    if not numbers or len(followed) != len(numbers):
        raise CheckpointError(
            f"{architecture}: blending is {blending!r}; legal: {', '.join(layers_of)}, or a list of the "
            f"{layers} convolutions that a blending layer follows, by their numbers from 1"
        )
    return followed
