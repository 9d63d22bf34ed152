"""GELU spelt out, as files before opset 20 have it, is one node."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import pattern

HALF_ROOT = 1 / math.sqrt(2)


def fuse_gelu(model: ir.Model) -> str:
    """x·½·(1 + erf(x/√2)), in every order of the products ⇒ Gelu(x), which runtimes compute in one step."""
    fused = _RULES.apply_to_model(model)
    return f"{fused} GELU made one node" if fused else "nothing to do: no GELU is spelt out"


def _halved_last(op: Any, x: Any) -> Any:
    return 0.5 * (x * (op.Erf(x / math.sqrt(2)) + 1.0))


def _halved_inside(op: Any, x: Any) -> Any:
    return x * (0.5 * (op.Erf(x / math.sqrt(2)) + 1.0))


def _halved_first(op: Any, x: Any) -> Any:
    return (x * 0.5) * (op.Erf(x / math.sqrt(2)) + 1.0)


def _multiplied_halved_last(op: Any, x: Any) -> Any:
    return 0.5 * (x * (op.Erf(x * HALF_ROOT) + 1.0))


def _multiplied_halved_inside(op: Any, x: Any) -> Any:
    return x * (0.5 * (op.Erf(x * HALF_ROOT) + 1.0))


def _multiplied_halved_first(op: Any, x: Any) -> Any:
    return (x * 0.5) * (op.Erf(x * HALF_ROOT) + 1.0)


def _gelu(op: Any, x: Any) -> Any:
    return op.Gelu(x)


_SPELLINGS = (
    _halved_last, _halved_inside, _halved_first,
    _multiplied_halved_last, _multiplied_halved_inside, _multiplied_halved_first,
)  # fmt: skip
_RULES = pattern.RewriteRuleSet([pattern.RewriteRule(spelt, _gelu) for spelt in _SPELLINGS], commute=True)
