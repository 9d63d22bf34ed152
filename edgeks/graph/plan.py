"""The sharing plan that a graph shows."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import array, reads_by_kernel
from edgeks.sharing.plan import Bias, SharingGroup, SharingPlan, group_name, named_plan


def graph_plan(model: ir.Model) -> SharingPlan:
    """One group per kernel Value, one layer per node that reads it, layers named as the nodes are."""
    groups = []
    for kernel, reads in reads_by_kernel(model).items():
        layers = tuple(str(read.node.name) for read in reads)
        bias = _bias([read.node for read in reads])
        groups.append(SharingGroup(group_name(layers), layers, tuple(array(kernel).shape), bias))
    return named_plan(groups)


def _bias(nodes: list[ir.Node]) -> Bias:
    biases = [node.inputs[2] if len(node.inputs) > 2 else None for node in nodes]
    if all(b is None for b in biases):
        return "none"
    return "shared" if len(set(biases)) == 1 and len(nodes) > 1 else "own"
