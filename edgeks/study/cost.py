"""What the network of a point costs, counted without memory for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeks.checkpoint import build_architecture
from edgeks.errors import CheckpointError
from edgeks.models import zoo
from edgeks.models.counts import conv_weights, macs_and_normalised, parameters


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """`parameters` and `conv_weights` (of convolutions' kernels alone) count what is shared once.

    `macs` are the multiply-accumulates of convolutions and matrix products for one image, products with padding
    included, as an audit of the exported file counts them; `flops` are the papers' (`edgeks.models.counts.flops`).
    Sharing changes neither.
    """

    parameters: int
    conv_weights: int
    macs: int
    flops: int


def network_cost(network: nn.Module, shape: tuple[int, int, int]) -> NetworkCost:
    """Network on the meta device, and C×H×W of its images → its cost.

    Raises:
        CheckpointError: the network does not take such images.
    """
    channels, height, width = shape
    try:
        macs, normalised = macs_and_normalised(network, height, width, channels)
    except Exception as error:  # the network may be the user's own code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"the network does not take images of {'×'.join(map(str, shape))} ({reason}); choose its config to match"
        ) from error
    return NetworkCost(parameters(network), conv_weights(network), macs, 2 * macs + 4 * normalised)


def meta_network(architecture: str, config: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """Name of an architecture or preset (or package.module:callable) → the network, without memory for its weights.

    Raises:
        CheckpointError: unknown name or key, or a value out of bounds.
    """
    with torch.device("meta"):
        if ":" in architecture:
            return build_architecture(architecture)
        return zoo.build(architecture, {"in_channels": channels, "classes": classes, **config})
