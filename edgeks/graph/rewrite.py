"""Edits that passes are made of: add a constant, drop what is unused, put nodes in place of another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.marks import carry_marks

SOURCE = "source"  # key of Node.meta: the line of the user's Python that the node comes from


def new_initializer(model: ir.Model, name: str, content: NDArray[np.generic]) -> ir.Value:
    """Register a constant under `name`, or the first free `name_2`, `name_3` …"""
    taken = model.graph.initializers
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    value = ir.Value(name=unique, const_value=ir.tensor(content, name=unique))
    value.shape = ir.Shape(content.shape)
    value.dtype = ir.DataType.from_numpy(content.dtype)
    model.graph.register_initializer(value)
    return value


def drop_unused_initializers(model: ir.Model) -> None:
    """Constants that nothing reads any more."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def insert_after_value(model: ir.Model, value: ir.Value, nodes: list[ir.Node]) -> None:
    """Put `nodes` behind the one that computes `value`; ahead of all where none does (an input, a constant)."""
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, nodes)
    else:
        model.graph.insert_before(model.graph[0], nodes)


def replace_node(model: ir.Model, old: ir.Node, new: list[ir.Node]) -> None:
    """Put `new` where `old` is; the output of the last takes over name, shape and uses of `old`'s output.

    All come from the line of Python that `old` comes from.
    """
    if SOURCE in old.meta:
        for node in new:
            node.meta[SOURCE] = old.meta[SOURCE]
    result, replaced = new[-1].outputs[0], old.outputs[0]
    result.shape, result.type = replaced.shape, replaced.type
    name = replaced.name
    model.graph.insert_before(old, new)
    replaced.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(old, safe=True)
    result.name = name
    carry_marks(replaced, result)
