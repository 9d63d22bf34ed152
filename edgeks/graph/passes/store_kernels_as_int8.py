"""Weight-only int8: the file holds codes, the runtime computes in float (docs/adr/0013)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.kernels import array, kernel_reads, output_channels
from edgeks.graph.passes.quantize_kernels import codes_at, symmetric_codes
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.wording import counted


def store_kernels_as_int8(
    model: ir.Model,
    skip: Collection[ir.Value] = (),
    trained: Mapping[ir.Value, NDArray[np.float32]] = MappingProxyType({}),
) -> str:
    """W → Mul(Cast(W_q), s_W), once for all that read W; float kernels of every op, but those in `skip`.

    W_q = round(W/s_W) is symmetric, |W_q| ≤ 127, with one scale per output channel: max|W|/127, or what training
    decided for a kernel (`trained`). A runtime that folds constants makes one float kernel of it at load, which all
    layers share. Cast and Mul rather than DequantizeLinear: ONNX Runtime keeps a DequantizeLinear for run time, one
    per layer (tests/test_facts.py).
    """
    done, kept = 0, []
    axes = {read.kernel: (output_channels(read), read.node.name) for read in reversed(list(kernel_reads(model)))}
    for kernel, (axis, layer) in reversed(axes.items()):
        weight = array(kernel)
        if kernel in skip or weight.dtype.kind in "iu":
            continue
        if weight.dtype != np.float32 or kernel.is_graph_output():
            kept.append(str(layer))
            continue
        if kernel in trained:
            scale = trained[kernel]
            codes = codes_at(weight, scale, axis)
        else:
            codes, scale = symmetric_codes(weight.astype(np.float64), axis)
        along = [1] * weight.ndim
        along[axis] = -1
        stored = new_initializer(model, f"{kernel.name}_q", codes)
        scales = new_initializer(model, f"{kernel.name}_scale", scale.reshape(along))
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT.value}, name="")
        product = ir.node("Mul", [cast.outputs[0], scales], name="")
        cast.outputs[0].name, product.outputs[0].name = f"{kernel.name}_codes", f"{kernel.name}_dq"
        model.graph.insert_before(model.graph[0], [cast, product])
        kernel.replace_all_uses_with(product.outputs[0])
        done += 1
    drop_unused_initializers(model)
    note = f"{counted(done, 'kernel')} stored as int8 once each, computed with in float"
    return note + (f"; kept in float: {', '.join(kept)}" if kept else "")
