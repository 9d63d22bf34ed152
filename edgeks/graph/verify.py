"""What must hold of a graph after every pass."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.errors import SharingBroken
from edgeks.graph.kernels import layers_by_kernel
from edgeks.sharing.plan import UNROLLED, Rolled, SharingPlan


def verify(model: ir.Model, plan: SharingPlan, step: str, rolled: Rolled = UNROLLED) -> None:
    """Check that every kernel of the plan is one Value, read by its layers and no others, and that the graph is sound.

    A kernel of a stack, of which a loop gathers one in each trip, counts as a Value. `rolled` says what a body's layer
    stands for.

    Raises:
        SharingBroken: naming the step that broke a tie, the group, and what was found.
    """
    found = layers_by_kernel(model, rolled)
    kernel_of = {layer: kernel for kernel, layers in enumerate(found) for layer in layers}
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
    _check_order(model.graph, step, set())


def _check_order(graph: ir.Graph, step: str, outside: set[ir.Value]) -> None:
    """Every input is a graph input, an initializer, or the output of an earlier node, here or `outside`."""
    known = {*outside, *graph.inputs, *graph.initializers.values()}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise SharingBroken(f"after {step}: node {node.name!r} reads {value.name!r} before it is computed")
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _check_order(attribute.as_graph(), step, known)
        known.update(node.outputs)
    for value in graph.outputs:
        if value not in known:
            raise SharingBroken(f"after {step}: graph output {value.name!r} is not computed")
