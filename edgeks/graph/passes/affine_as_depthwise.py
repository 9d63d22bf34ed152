"""The affine behind a layer as a depthwise convolution, which int8 has a kernel with a scale per channel for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.kernels import array, reads_by_kernel, sole_use
from edgeks.graph.passes.separate_affine import is_dense_map
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer, replace_node
from edgeks.sharing.plan import SharingGroup, SharingPlan


def affine_as_depthwise(model: ir.Model, plan: SharingPlan) -> tuple[SharingPlan, str]:
    """conv(x, W)·a_l + b_l → depthwise(conv(x, W), a_l) + b_l, 1×1, for every W that several 2-D convolutions of
    one group read; a depthwise W is too small to need it.

    Follows `separate_affine`. A Mul and an Add by constants would leave the integers, one convolution does not: its
    codes are ±127, its scales |a_l|/127. It is a kernel of one layer: it joins the plan (docs/adr/0018).
    """
    made: list[SharingGroup] = []
    for readers in reads_by_kernel(model).values():
        if len(readers) < 2 or not all(is_dense_map(read) for read in readers):
            continue
        for read in readers:
            found = _affine_behind(read.node.outputs[0], width=array(read.kernel).shape[0])
            if found is not None:
                made.append(_as_depthwise(model, read.node, *found))
    drop_unused_initializers(model)
    note = f"{len(made)} affines behind shared kernels as depthwise convolutions"
    return replace(plan, unshared=(*plan.unshared, *made)), note


def _affine_behind(
    value: ir.Value, width: int
) -> tuple[list[ir.Node], NDArray[np.generic] | None, NDArray[np.generic]] | None:
    """The nodes of value·a + b or value + b, with a and b for each of `width` channels; None where there is none."""
    nodes: list[ir.Node] = []
    gain: NDArray[np.generic] | None = None
    use = sole_use(value)
    if use is not None and use[0].op_type == "Mul" and (gain := _constant(use[0], width)) is not None:
        nodes.append(use[0])
        use = sole_use(use[0].outputs[0])
    offset = _constant(use[0], width) if use is not None and use[0].op_type == "Add" else None
    if use is None or offset is None:
        return None
    return [*nodes, use[0]], gain, offset


def _constant(node: ir.Node, width: int) -> NDArray[np.generic] | None:
    """Input 1 where it is one number for each of `width` channels of a feature map."""
    value = node.inputs[1]
    if value is None or not value.is_initializer():
        return None
    content = array(value)
    return content if content.shape == (width, 1, 1) else None


def _as_depthwise(
    model: ir.Model,
    layer: ir.Node,
    nodes: list[ir.Node],
    gain: NDArray[np.generic] | None,
    offset: NDArray[np.generic],
) -> SharingGroup:
    width, name = offset.size, f"{layer.name}.affine"
    factors = np.ones(width, np.float32) if gain is None else gain.astype(np.float32)
    kernel = new_initializer(model, f"{name}.weight", factors.reshape(width, 1, 1, 1))
    bias = new_initializer(model, f"{name}.bias", offset.astype(np.float32).ravel())
    conv = ir.node("Conv", [layer.outputs[0], kernel, bias], attributes={"group": width}, name=name)
    replace_node(model, nodes[-1], [conv])
    for node in reversed(nodes[:-1]):
        model.graph.remove(node, safe=True)
    return SharingGroup(name, (name,), (width, 1, 1, 1), "own")
