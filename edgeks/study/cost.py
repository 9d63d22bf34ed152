"""What the network of a point costs, counted without memory for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeks.checkpoint import build_architecture
from edgeks.errors import CheckpointError
from edgeks.models import zoo
from edgeks.models.counts import conv_weights, flops, parameters


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
    counter = FlopCounterMode(display=False)
    channels, height, width = shape
    network.eval()
    try:
        with torch.no_grad(), counter:
            network(torch.empty(1, *shape, device="meta"))
        all_flops = flops(network, height, width, channels)
    except Exception as error:  # the network may be the user's own code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"the network does not take images of {'×'.join(map(str, shape))} ({reason}); choose its config to match"
        ) from error
    return NetworkCost(parameters(network), conv_weights(network), counter.get_total_flops() // 2, all_flops)


def meta_network(architecture: str, config: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """Name of an architecture or preset (or package.module:callable) → the network, without memory for its weights.

    Raises:
        CheckpointError: unknown name or key, or a value out of bounds.
    """
    with torch.device("meta"):
        if ":" in architecture:
            return build_architecture(architecture)
        return zoo.build(architecture, {"in_channels": channels, "classes": classes, **config})
