"""Which layers stay in float: names of sharing groups or of layers → names of layers."""

from __future__ import annotations

from collections.abc import Sequence

from edgeks.errors import ConfigError
from edgeks.sharing.plan import SharingPlan

SHOWN = 12


def float_layers(plan: SharingPlan, names: Sequence[str]) -> frozenset[str]:
    """The layers of every named kernel; the name of one layer stands for its kernel, and so for all that read it.

    Raises:
        ConfigError: a name that is neither a kernel's nor a layer's.
    """
    group_of = {layer: group for group in plan.kernels for layer in group.layers}
    group_of |= {group.name: group for group in plan.kernels}
    layers: set[str] = set()
    for name in names:
        if name not in group_of:
            legal = [group.name for group in plan.kernels]
            more = f" and {len(legal) - SHOWN} more" if len(legal) > SHOWN else ""
            raise ConfigError(f"--keep-float {name}: no such kernel; legal: {', '.join(legal[:SHOWN])}{more}")
        layers.update(group_of[name].layers)
    return frozenset(layers)
