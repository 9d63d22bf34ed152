"""BatchNormalization with two vectors of its own instead of four."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeks.graph.batch_norm import affine, has_constant_parameters
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer


def normalise_batch_norm(model: ir.Model) -> str:
    """BN(γ, β, μ, σ²) → BN(a, b, 0, 1) with a = γ/√(σ²+ε), b = β − a·μ, ε = 0; exact, and half the constants.

    Zeros and ones are shared by all nodes of one width. The node stays a BatchNormalization, which runtimes run faster
    than Mul + Add (docs/adr/0003).
    """
    plain: dict[int, tuple[ir.Value, ir.Value]] = {}
    count = 0
    for node in model.graph:
        if node.op_type != "BatchNormalization" or not has_constant_parameters(node):
            continue
        a, b = affine(node)
        width = int(a.size)
        if width not in plain:
            plain[width] = (
                new_initializer(model, f"zeros_{width}", np.zeros(width, np.float32)),
                new_initializer(model, f"ones_{width}", np.ones(width, np.float32)),
            )
        replacements = (
            new_initializer(model, f"{node.name}.a", a.astype(np.float32)),
            new_initializer(model, f"{node.name}.b", b.astype(np.float32)),
            *plain[width],
        )
        for index, value in enumerate(replacements, start=1):
            node.replace_input_with(index, value)
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
        node.attributes.pop("momentum", None)
        count += 1
    drop_unused_initializers(model)
    return f"{count} BatchNormalization nodes kept, two vectors each"
