"""Restore identity: layers that hold one Parameter in torch read one Value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads
from edgeks.sharing.plan import SharingPlan


def tie_initializers(model: ir.Model, plan: SharingPlan) -> str:
    """Byte-equal kernels of one group of `plan` → one Value. Kernels outside the groups stay apart, equal or not."""
    kernel_of = {str(read.node.name): read.kernel for read in kernel_reads(model)}
    merged = 0
    for group in plan.groups:
        kernels = list(dict.fromkeys(kernel_of[layer] for layer in group.layers if layer in kernel_of))
        for copy in kernels[1:]:
            if np.array_equal(array(copy), array(kernels[0])):
                copy.replace_all_uses_with(kernels[0])
                model.graph.initializers.pop(str(copy.name))
                merged += 1
    return f"{merged} copies merged" if merged else "nothing to do: every tie is intact"
