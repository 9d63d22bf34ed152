"""Which layers of a network are its blending layers: the 1×1 convolutions that each own their kernel (ShardNet)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeks.errors import PlanError
from edgeks.sharing.plan import SharingGroup
from edgeks.sharing.torch import discover
from edgeks.wording import counted, first_names

NAMED = re.compile(r"(^|[._])blend", re.IGNORECASE)  # of a layer whose author says what it is
LEGAL = "blending, pointwise, or a pattern of layer names such as 'blocks.*.blend'"


@dataclass(frozen=True, slots=True, eq=False)
class ChosenKernel:
    """A kernel, O×I×… , and the layers that read it. `weight` is the network's own tensor, not a copy."""

    name: str
    layers: tuple[str, ...]
    weight: Tensor

    def matrix(self) -> NDArray[np.float32]:
        """The kernel as O×I·kh·kw: a row per output channel."""
        return self.weight.detach().cpu().float().flatten(1).numpy()


def chosen_kernels(model: nn.Module, layers: str = "blending") -> tuple[ChosenKernel, ...]:
    """The kernels of the layers that `layers` names, in the network's order, each once however many layers read it.

    - `blending`: the layers whose names say so (`blend…`); where none does, every 1×1 convolution that owns its kernel,
      has as many outputs as inputs, and neither strides nor groups. Projections of a shortcut and heads are none.
    - `pointwise`: every 1×1 convolution without groups, shared kernels too.
    - anything else is a pattern of layer names, as in a shell: `blocks.*.pointwise`; Conv1d, Conv2d and Linear.

    Raises:
        PlanError: the network has no such layer.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    kernels = _in_order(discover(model).kernels, list(modules))
    if layers == "blending":
        found = [kernel for kernel in kernels if any(NAMED.search(name) for name in kernel.layers)]
        found = found or [kernel for kernel in kernels if _blends(kernel, modules)]
    elif layers == "pointwise":
        found = [kernel for kernel in kernels if _is_pointwise(kernel, modules)]
    else:
        found = [kernel for kernel in kernels if any(fnmatchcase(name, layers) for name in kernel.layers)]
    if not found:
        raise PlanError(f"no layer is {_wanted(layers)}; {_what_there_is(kernels, modules)}; legal: {LEGAL}")
    return tuple(_chosen(kernel, modules) for kernel in found)


def _in_order(kernels: Sequence[SharingGroup], names: list[str]) -> list[SharingGroup]:
    """Kernels in the order of their first layers; `discover` gives shared ones first."""
    place = {name: index for index, name in enumerate(names)}
    return sorted(kernels, key=lambda kernel: place.get(kernel.layers[0], 0))


def _module(name: str, modules: dict[str, nn.Module]) -> nn.Module:
    return modules[name if name in modules else ""]  # the network itself may be a layer


def _chosen(kernel: SharingGroup, modules: dict[str, nn.Module]) -> ChosenKernel:
    weight = _module(kernel.layers[0], modules)._parameters.get("weight")
    if weight is None:
        raise PlanError(
            f"the weight of layer {kernel.layers[0]!r} is computed by a parametrisation (such as weight_norm); remove "
            "it first, with torch.nn.utils.parametrize.remove_parametrizations"
        )
    return ChosenKernel(kernel.name if len(kernel.layers) > 1 else kernel.layers[0], kernel.layers, weight)


def _is_pointwise(kernel: SharingGroup, modules: dict[str, nn.Module]) -> bool:
    layer = _module(kernel.layers[0], modules)
    return isinstance(layer, nn.Conv2d) and tuple(kernel.kernel_shape[2:]) == (1, 1) and layer.groups == 1


def _blends(kernel: SharingGroup, modules: dict[str, nn.Module]) -> bool:
    layer = _module(kernel.layers[0], modules)
    outputs, inputs = kernel.kernel_shape[:2]
    if len(kernel.layers) > 1 or outputs != inputs or not _is_pointwise(kernel, modules):
        return False
    return isinstance(layer, nn.Conv2d) and set(layer.stride) == {1}


def _wanted(layers: str) -> str:
    return {
        "blending": "a blending layer (named blend…, or an n → n 1×1 convolution that owns its kernel)",
        "pointwise": "a 1×1 convolution without groups",
    }.get(layers, f"named {layers!r}")


def _what_there_is(kernels: Sequence[SharingGroup], modules: dict[str, nn.Module]) -> str:
    """The network's layers in a few words: what to name instead."""
    pointwise = [kernel for kernel in kernels if _is_pointwise(kernel, modules)]
    if pointwise:
        readers = sum(len(kernel.layers) for kernel in pointwise)
        kernels_read = counted(len(pointwise), "kernel")
        return f"it has {counted(readers, '1×1 convolution')} that read {kernels_read}: {_some(pointwise)}"
    return f"its layers are {_some(kernels)}" if kernels else "it has no convolution and no Linear layer"


def _some(kernels: Sequence[SharingGroup]) -> str:
    names = [name for kernel in kernels for name in kernel.layers]
    return first_names(names)
