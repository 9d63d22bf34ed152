"""Restore identity: layers of one kernel read one Value."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, kernel_reads, reads_by_kernel
from edgeks.sharing.plan import SharingPlan
from edgeks.wording import counted


def tie_initializers(model: ir.Model, plan: SharingPlan) -> str:
    """Byte-equal kernels of one group of `plan` → one Value. Kernels outside the groups stay apart, equal or not."""
    kernel_of = {str(read.node.name): read.kernel for read in kernel_reads(model)}
    merged = 0
    for group in plan.groups:
        kernels = list(dict.fromkeys(kernel_of[layer] for layer in group.layers if layer in kernel_of))
        for copy in kernels[1:]:
            if np.array_equal(array(copy), array(kernels[0])):
                _replace(model, copy, kernels[0])
                merged += 1
    return _note(merged)


def tie_equal_kernels(model: ir.Model) -> str:
    """Kernels that are equal byte by byte → one Value: a file does not say which of them were one in training."""
    first: dict[tuple[object, ...], ir.Value] = {}
    merged = 0
    for kernel in reads_by_kernel(model):
        content = np.ascontiguousarray(array(kernel))
        key = (content.dtype.str, content.shape, hashlib.sha256(content.tobytes()).digest())
        if key not in first:
            first[key] = kernel
        elif not kernel.is_graph_output():
            _replace(model, kernel, first[key])
            merged += 1
    return _note(merged)


def _replace(model: ir.Model, copy: ir.Value, kernel: ir.Value) -> None:
    copy.replace_all_uses_with(kernel)
    model.graph.initializers.pop(str(copy.name))


def _note(merged: int) -> str:
    return f"{counted(merged, 'copy', 'copies')} merged" if merged else "nothing to do: every tie is intact"
