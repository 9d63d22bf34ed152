"""A Linear layer of a 3-D input reads its kernel through a Transpose: store it transposed, read it directly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array
from edgeks.graph.marks import carry_marks
from edgeks.graph.rewrite import new_initializer
from edgeks.wording import counted


def transpose_kernels(model: ir.Model) -> str:
    """Transpose(W) → MatMul, per layer ⇒ MatMul on one stored Wᵀ (OI → IO), which all layers of the kernel read.

    A Gemm with transB = 1 on the same kernel (a layer of the group with a 2-D input) reads Wᵀ with transB = 0. Goes
    before the sharing plan is read off the graph: ahead of it such layers read no kernel. Does not apply to a kernel
    that anything else reads, or that is transposed in several ways.
    """
    stored = 0
    for kernel in list(model.graph.initializers.values()):
        uses = list(kernel.uses())
        transposes = [node for node, _ in uses if node.op_type == "Transpose"]
        if not transposes or kernel.is_graph_output() or any(t.outputs[0].is_graph_output() for t in transposes):
            continue
        rank = array(kernel).ndim
        orders = {tuple(node.attributes.get_ints("perm", tuple(reversed(range(rank))))) for node in transposes}
        others = [(node, index) for node, index in uses if node.op_type != "Transpose"]
        gemms = [node for node, index in others if index == 1 and _reads_transposed(node)]
        if len(orders) != 1 or len(gemms) != len(others) or (gemms and orders != {(1, 0)}):
            continue
        transposed = new_initializer(
            model, f"{kernel.name}_t", np.ascontiguousarray(array(kernel).transpose(orders.pop()))
        )
        carry_marks(kernel, transposed)
        for node in transposes:
            node.outputs[0].replace_all_uses_with(transposed)
            model.graph.remove(node, safe=True)
        for node in gemms:
            node.replace_input_with(1, transposed)
            node.attributes.pop("transB")
        model.graph.initializers.pop(str(kernel.name))
        stored += 1
    return (
        f"{counted(stored, 'kernel')} stored transposed"
        if stored
        else "nothing to do: no layer reads its kernel transposed"
    )


def _reads_transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
