"""The mean over a feature map, as the node that runtimes have an integer kernel for."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import array
from edgeks.graph.passes.normalise_batch_norm import drop_unused_initializers


def global_average_pool(model: ir.Model) -> str:
    """ReduceMean over H and W of an N×C×H×W tensor → GlobalAveragePool (and Flatten where the axes are dropped)."""
    count = 0
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or len(node.inputs) != 2:
            continue
        source, axes = node.inputs
        if source is None or source.shape is None or len(source.shape) != 4 or axes is None or axes.const_value is None:
            continue
        if {int(axis) % 4 for axis in array(axes).ravel()} != {2, 3}:
            continue
        pool = ir.node("GlobalAveragePool", [source], name=f"{node.name}.pool")
        made = [pool]
        if not node.attributes.get_int("keepdims", 1):
            made.append(ir.node("Flatten", [pool.outputs[0]], attributes={"axis": 1}, name=f"{node.name}.flatten"))
        replace_node(model, node, made)
        count += 1
    drop_unused_initializers(model)
    return f"{count} means over the feature map"


def replace_node(model: ir.Model, old: ir.Node, new: list[ir.Node]) -> None:
    """Put `new` where `old` is; the output of the last takes over name, shape and uses of `old`'s output."""
    result, replaced = new[-1].outputs[0], old.outputs[0]
    result.shape, result.type = replaced.shape, replaced.type
    name = replaced.name
    model.graph.insert_before(old, new)
    replaced.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(old, safe=True)
    result.name = name
