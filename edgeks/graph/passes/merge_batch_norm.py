"""One BN where two follow each other: the gain of a resolved kernel and the network's own (docs/adr/0021)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.batch_norm import affine, sole_batch_norm
from edgeks.graph.kernels import required, sole_use
from edgeks.graph.rewrite import drop_unused_initializers, new_initializer


def merge_batch_norm(model: ir.Model) -> str:
    """BN₂(BN₁(y)) → BN(y), and BN₂(BN₁(y) + BN₁'(z) …) → BN(y) + BN'(z) …; exact in real arithmetic.

    Runs behind `normalise_batch_norm`. Only where nobody else reads what is in between: each of the convolutions then
    takes its BN into its weight scale (docs/arithmetic.md §1), and none is left behind the sum.
    """
    merged, through_sums = 0, 0
    for norm in list(model.graph):
        if norm.op_type != "BatchNormalization" or sole_batch_norm(required(norm.inputs[0])) is not norm:
            continue
        found = _terms(required(norm.inputs[0]))
        if not found:
            continue
        a, b = affine(norm)
        for index, term in enumerate(found):
            gain, shift = affine(term)
            _set(model, term, gain * a, shift * a + (b if index == 0 else 0))
        result, source = norm.outputs[0], required(norm.inputs[0])
        name = result.name
        result.replace_all_uses_with(source, replace_graph_outputs=True)
        model.graph.remove(norm, safe=True)
        source.name = name
        merged += 1
        through_sums += len(found) > 1
    drop_unused_initializers(model)
    return f"{merged} BN merged into the one before, {through_sums} of them through a sum"


def _terms(value: ir.Value) -> list[ir.Node] | None:
    """The BN that `value` is, or is the sum of; None: of something else, or somebody else reads a part of it."""
    producer = value.producer()
    if producer is None or sole_use(value) is None:
        return None
    if producer.op_type == "BatchNormalization":
        return [producer] if sole_batch_norm(required(producer.inputs[0])) is producer else None
    if producer.op_type != "Add" or len(set(producer.inputs)) < 2:
        return None
    parts = [_terms(required(part)) for part in producer.inputs]
    found = [term for part in parts if part is not None for term in part]
    return found if all(parts) else None


def _set(model: ir.Model, norm: ir.Node, a: NDArray[np.float64], b: NDArray[np.float64]) -> None:
    """BN(…) → BN(a, b, 0, 1)."""
    for index, content in ((1, a), (2, b)):
        norm.replace_input_with(index, new_initializer(model, f"{norm.name}.{'ab'[index - 1]}", content.astype("f4")))
