"""The mean over a feature map, as the node that runtimes have an integer kernel for."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import array
from edgeks.graph.rewrite import drop_unused_initializers, replace_node
from edgeks.wording import counted


def global_average_pool(model: ir.Model) -> str:
    """ReduceMean over H and W of N×C×H×W (L of N×C×L) → GlobalAveragePool (and Flatten where the axes are dropped)."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or len(node.inputs) != 2:
            continue
        source, axes = node.inputs
        if source is None or source.shape is None or len(source.shape) < 3 or axes is None or axes.const_value is None:
            continue
        rank = len(source.shape)
        if {int(axis) % rank for axis in array(axes).ravel()} != set(range(2, rank)):
            continue
        pool = ir.node("GlobalAveragePool", [source], name=f"{node.name}.pool")
        pool.outputs[0].shape = ir.Shape([*source.shape[:2], *[1] * (rank - 2)])
        pool.outputs[0].type = source.type
        made = [pool]
        if not node.attributes.get_int("keepdims", 1):
            made.append(ir.node("Flatten", [pool.outputs[0]], attributes={"axis": 1}, name=f"{node.name}.flatten"))
        replace_node(model, node, made)
        count += 1
    drop_unused_initializers(model)
    return f"{counted(count, 'mean')} over the feature map"
