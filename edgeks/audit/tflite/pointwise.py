"""TFLite operators that make every element of their output from the elements at the same place of their inputs."""

from __future__ import annotations

POINTWISE = frozenset(
    {"ADD", "SUB", "MUL", "DIV", "SQUARED_DIFFERENCE", "POW", "SQRT", "RSQRT", "EXP", "LOG", "TANH", "LOGISTIC"}
    | {"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "PRELU", "ELU", "GELU", "HARD_SWISH"}
    | {"ABS", "NEG", "MAXIMUM", "MINIMUM", "ADD_N", "SELECT", "SELECT_V2", "SQUARE"}
)
