"""The sharing plan that a graph shows."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads, readers
from edgeks.sharing.plan import Bias, SharingGroup, SharingPlan, group_name, named_plan


def graph_plan(model: ir.Model) -> SharingPlan:
    """One group per kernel Value, one layer per node that reads it, layers named as the nodes are."""
    nodes = {str(read.node.name): read.node for read in kernel_reads(model)}
    groups = []
    for kernel, layers in readers(model).items():
        shape = tuple(array(kernel).shape)
        groups.append(SharingGroup(group_name(layers), tuple(layers), shape, _bias([nodes[name] for name in layers])))
    return named_plan(groups)


def _bias(nodes: list[ir.Node]) -> Bias:
    biases = [node.inputs[2] if len(node.inputs) > 2 else None for node in nodes]
    if all(b is None for b in biases):
        return "none"
    return "shared" if len(set(biases)) == 1 and len(nodes) > 1 else "own"
