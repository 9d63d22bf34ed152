"""Half the bytes: the file holds float16, the runtime computes in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.kernels import array, reads_by_kernel
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer
from edgeks.wording import counted


def store_kernels_as_float16(model: ir.Model) -> str:
    """W → Cast(float16(W)), once for all that read W. A kernel with a number beyond float16's 65504 stays as it is."""
    done, kept = 0, []
    for kernel in reads_by_kernel(model):
        weight = array(kernel)
        if weight.dtype != np.float32 or kernel.is_graph_output():
            continue
        if np.abs(weight).max(initial=0) > np.finfo(np.float16).max:
            kept.append(str(kernel.name))
            continue
        stored = new_initializer(model, f"{kernel.name}_h", weight.astype(np.float16))
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT.value}, name="")
        cast.outputs[0].name = f"{kernel.name}_f"
        model.graph.insert_before(model.graph[0], cast)
        kernel.replace_all_uses_with(cast.outputs[0])
        done += 1
    drop_unused_initializers(model)
    return f"{counted(done, 'kernel')} stored as float16 once each" + (
        f"; too large: {', '.join(kept)}" if kept else ""
    )
