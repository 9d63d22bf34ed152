"""What must hold of a graph after every pass."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.errors import SharingBroken
from edgeks.graph.kernels import readers
from edgeks.sharing.plan import SharingPlan


def verify(model: ir.Model, plan: SharingPlan, step: str) -> None:
    """Check that every kernel of the plan is one Value, read by its layers and no others, and that the graph is sound.

    Raises:
        SharingBroken: naming the step that broke a tie, the group, and what was found.
    """
    found = readers(model)
    kernel_of = {layer: kernel for kernel, layers in found.items() for layer in layers}
    for group in plan.kernels:
        missing = [layer for layer in group.layers if layer not in kernel_of]
        if missing:
            raise SharingBroken(f"after {step}: layer {missing[0]!r} of group {group.name!r} reads no kernel any more")
        kernels = {kernel_of[layer] for layer in group.layers}
        if len(kernels) != 1:
            raise SharingBroken(
                f"after {step}: group {group.name!r} of {len(group.layers)} layers holds {len(kernels)} kernels, not 1"
            )
        others = set(found[kernels.pop()]) - set(group.layers)
        if others:
            raise SharingBroken(f"after {step}: the kernel of {group.name!r} is also read by {sorted(others)[0]!r}")
    _check_order(model, step)


def _check_order(model: ir.Model, step: str) -> None:
    """Every input is a graph input, an initializer, or the output of an earlier node."""
    known = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise SharingBroken(f"after {step}: node {node.name!r} reads {value.name!r} before it is computed")
        known.update(node.outputs)
    for value in model.graph.outputs:
        if value not in known:
            raise SharingBroken(f"after {step}: graph output {value.name!r} is not computed")
