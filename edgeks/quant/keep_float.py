"""Which layers stay in float: names of sharing groups or of layers → names of layers."""

from __future__ import annotations

from collections.abc import Sequence

from edgeks.errors import ConfigError
from edgeks.graph.passes.split_large_kernels import whole
from edgeks.sharing.plan import SharingGroup, SharingPlan

SHOWN = 12


def float_layers(plan: SharingPlan, names: Sequence[str]) -> frozenset[str]:
    """The layers of every named kernel; the name of one layer stands for its kernel, and so for all that read it.

    The name that a kernel or layer had before it was split into tiles stands for all of them.

    Raises:
        ConfigError: a name that is neither a kernel's nor a layer's.
    """
    groups_of: dict[str, set[SharingGroup]] = {}
    for group in plan.kernels:
        for name in (group.name, *group.layers):
            groups_of.setdefault(name, set()).add(group)
            groups_of.setdefault(whole(name), set()).add(group)
    layers: set[str] = set()
    for name in names:
        if name not in groups_of:
            legal = list(dict.fromkeys(whole(group.name) for group in plan.kernels))
            more = f" and {len(legal) - SHOWN} more" if len(legal) > SHOWN else ""
            raise ConfigError(f"--keep-float {name}: no such kernel; legal: {', '.join(legal[:SHOWN])}{more}")
        layers.update(layer for group in groups_of[name] for layer in group.layers)
    return frozenset(layers)
