"""ONNX ops that make every element of their output from the elements at the same place of their inputs.

They could write over an input of the output's size. Softmax and the normalisations over rows or channels are not among
them; BatchNormalization is, at inference.
"""

from __future__ import annotations

POINTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "PRelu"}
    | {"Elu", "Selu", "Celu", "Clip", "HardSigmoid", "HardSwish", "Mish", "Softplus", "Softsign", "Swish", "Abs", "Neg"}
    | {"Reciprocal", "Max", "Min", "Sum", "Mean", "Where", "Gelu", "FastGelu", "QuickGelu", "BiasGelu"}
    | {"QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "BatchNormalization"}
)
