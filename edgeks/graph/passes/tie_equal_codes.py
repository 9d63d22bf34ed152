"""int8 kernels with the same codes become one: what is left of a kernel that another tool copied per layer."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads, readers
from edgeks.graph.plan import graph_plan
from edgeks.graph.rewrite import drop_unused_initializers
from edgeks.sharing.plan import SharingPlan


def tie_equal_codes(model: ir.Model, plan: SharingPlan) -> tuple[SharingPlan, str]:
    """Kernels of equal codes, each read with scales of its own → one kernel, and the plan that says so; exact.

    A tool that folded BN into a shared kernel W wrote a_l·W for each layer l. Quantised per output channel these have
    the codes of W but for its rounding ties, and a kernel in which none fell otherwise is whole again. Only for graphs
    that come from files: in a network of torch, layers share a kernel when they hold one.
    """
    first: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
    tied = 0
    for kernel in readers(model):
        codes = array(kernel)
        if codes.dtype.kind not in "iu" or not codes.any() or kernel.is_graph_output():
            continue
        key = (codes.dtype.str, codes.shape, codes.tobytes())
        if first.setdefault(key, kernel) is not kernel:
            kernel.replace_all_uses_with(first[key])
            tied += 1
    if not tied:
        return plan, "nothing to do: no two kernels have the same codes"
    drop_unused_initializers(model)
    layers = sum(1 for _ in kernel_reads(model))
    return graph_plan(model), f"{tied} kernels were copies: {len(readers(model))} kernels for {layers} layers"
