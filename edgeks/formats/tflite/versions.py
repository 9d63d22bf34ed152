"""Version of each operator, so that a runtime that is too old for one says so instead of computing something else.

Matches tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc for the operators that edgeks writes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

# Operator → version for int8; 1 for float unless FLOAT says otherwise.
INT8 = {
    "ADD": 2, "SUB": 3, "MUL": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "TRANSPOSE_CONV": 2,
    "AVERAGE_POOL_2D": 2, "MAX_POOL_2D": 2, "MEAN": 2, "REDUCE_MAX": 2, "SUM": 2, "RELU": 2, "RELU6": 2, "TANH": 2,
    "LOGISTIC": 2, "SOFTMAX": 2, "PAD": 2, "PADV2": 2, "CONCATENATION": 2, "TRANSPOSE": 2, "RESIZE_BILINEAR": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2, "STRIDED_SLICE": 2, "SLICE": 2, "SPLIT": 2, "SPLIT_V": 2, "LEAKY_RELU": 2,
    "DEQUANTIZE": 2, "GATHER": 2, "MAXIMUM": 2, "MINIMUM": 2, "DEPTH_TO_SPACE": 2, "SPACE_TO_DEPTH": 2, "MIRROR_PAD": 2,
    "HARD_SWISH": 1, "GELU": 1, "PRELU": 1, "TILE": 2, "BATCH_MATMUL": 2, "RELU_0_TO_1": 1, "ABS": 2, "RSQRT": 2,
}  # fmt: skip
FLOAT = {"DEPTHWISE_CONV_2D": 2, "RESIZE_BILINEAR": 3, "RESIZE_NEAREST_NEIGHBOR": 3, "TRANSPOSE_CONV": 1}
WITH_BIAS = 3  # inputs of a TRANSPOSE_CONV with a bias: one more


def version(name: str, types: Collection[str], options: Any, inputs: Sequence[str | None]) -> int:
    """Version of operator `name` over tensors of `types` (numpy's names) with `options` of the schema."""
    found = INT8.get(name, 1) if "int8" in types else FLOAT.get(name, 1)
    if name in ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D") and inputs[:2] == ["float32", "int8"]:
        found = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 9}[name]  # hybrid, scales per channel
    if name == "TRANSPOSE_CONV" and len(inputs) > WITH_BIAS:
        found = 3
    if name == "QUANTIZE" and "float32" not in types:
        found = 2
    if name == "DEQUANTIZE" and "float16" in types:
        found = 3
    if name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR") and getattr(options, "halfPixelCenters", False):
        found = 3
    return found
