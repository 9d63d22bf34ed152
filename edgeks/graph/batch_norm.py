"""BatchNormalization as a·y + b, one number of each per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.kernels import array, sole_use

EPSILON = 1e-5  # ONNX's default


def affine(norm: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """BN(γ, β, μ, σ²) → (a, b) with a = γ/√(σ²+ε), b = β − a·μ; its parameters must be constants."""
    gamma, beta, mean, variance = (array(value).astype(np.float64) for value in norm.inputs[1:5] if value is not None)
    a = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", EPSILON))
    return a, beta - a * mean


def has_constant_parameters(norm: ir.Node) -> bool:
    """Whether `affine` can be had: constant parameters, and not the form for training."""
    return len(norm.outputs) == 1 and all(value is not None and value.is_initializer() for value in norm.inputs[1:5])


def sole_batch_norm(value: ir.Value) -> ir.Node | None:
    """The BN that alone reads `value`, with constant parameters."""
    node, index = sole_use(value) or (None, 0)
    if node is None or node.op_type != "BatchNormalization" or index != 0:
        return None
    return node if has_constant_parameters(node) else None
