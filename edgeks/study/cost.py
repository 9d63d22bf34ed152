"""What a network costs, counted on a network without memory: parameters, kernels, multiply-accumulates."""

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


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """`parameters` and `kernel_weights` count what is shared once; `kernel_weights` are those of convolutions alone.

    `macs` are the multiply-accumulates of convolutions and matrix products for one image, products with padding
    included, as an audit of the exported file counts them; sharing does not change them.
    """

    parameters: int
    kernel_weights: int
    macs: int

    @property
    def flops(self) -> int:
        """Two for each multiply-accumulate."""
        return 2 * self.macs


def network_cost(network: nn.Module, shape: tuple[int, int, int]) -> NetworkCost:
    """Network on the meta device, and C×H×W of its images → its cost.

    Raises:
        CheckpointError: the network does not take such images.
    """
    counter = FlopCounterMode(display=False)
    network.eval()
    try:
        with torch.no_grad(), counter:
            network(torch.empty(1, *shape, device="meta"))
    except Exception as error:  # the network may be the user's own code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"the network does not take images of {'×'.join(map(str, shape))} ({reason}); choose its config to match"
        ) from error
    return NetworkCost(count_parameters(network), _kernel_weights(network), counter.get_total_flops() // 2)


def count_parameters(network: nn.Module) -> int:
    """Elements of all parameters, a shared one counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


def meta_network(architecture: str, config: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """Name of an architecture or preset (or package.module:callable) → the network, without memory for its weights.

    Raises:
        CheckpointError: unknown name or key, or a value out of bounds.
    """
    with torch.device("meta"):
        if ":" in architecture:
            return build_architecture(architecture)
        return zoo.build(architecture, {"in_channels": channels, "classes": classes, **config})


def _kernel_weights(network: nn.Module) -> int:
    """Elements of the kernels of convolutions, without biases; a kernel that several layers read counts once."""
    weights = [module.weight for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    return sum(weight.numel() for weight in {id(weight): weight for weight in weights}.values())
