"""Kernels named after their group, so that any viewer of the file shows who shares what."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.kernels import kernel_reads
from edgeks.sharing.plan import SharingPlan
from edgeks.wording import counted


def name_kernels(model: ir.Model, plan: SharingPlan) -> str:
    """`blocks.19.pw.weight` (torch.export names a shared tensor after its last alias) → `blocks.0-19.pw.weight`."""
    reads = {str(read.node.name): read for read in kernel_reads(model)}
    taken = set(model.graph.initializers)
    renamed = 0
    for group in plan.groups:
        read = reads[group.layers[0]]
        bias = read.node.inputs[2] if len(read.node.inputs) > 2 else None
        named = {"weight": read.kernel, "bias": bias if group.bias == "shared" else None}
        for kind, value in named.items():
            name = f"{group.name}.{kind}"
            if value is not None and name not in taken:
                taken.add(name)
                value.name = name
                renamed += 1
    return f"{counted(renamed, 'constant')} named after their group"
