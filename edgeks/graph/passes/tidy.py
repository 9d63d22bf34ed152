"""What torch.onnx.export leaves behind: constant sub-graphs, no-ops, zero biases, metadata."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir

from edgeks.graph.kernels import WEIGHT_INPUT, array
from edgeks.wording import counted

FOLD_INPUT_LIMIT = 1 << 16
FOLD_OUTPUT_LIMIT = 1 << 20


def tidy(model: ir.Model) -> str:
    """Fold constant sub-graphs (never a kernel), drop no-ops, all-zero biases, doc strings and metadata."""
    before = len(model.graph)
    fold_constants_ir(
        model,
        input_size_limit=FOLD_INPUT_LIMIT,
        output_size_limit=FOLD_OUTPUT_LIMIT,
        onnx_shape_inference=True,
        should_fold=lambda node: False if _computes_from_kernel(node) else None,
    )
    common.IdentityEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    zero_biases = _drop_zero_biases(model)
    _drop_default_attributes(model)
    _drop_idle_pad_count(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    return f"{before} → {len(model.graph)} nodes, {counted(zero_biases, 'zero bias', 'zero biases')} dropped"


def _computes_from_kernel(node: ir.Node) -> bool:
    """Folding such a node would write a second, derived kernel."""
    reads_weight = any(
        v is not None and v.is_initializer() and v.shape is not None and len(v.shape) > 1 for v in node.inputs
    )
    return reads_weight and node.op_type not in ("Shape", "Size")


def _drop_idle_pad_count(model: ir.Model) -> None:
    """AveragePool counts no padding where there is none: ONNX Runtime's integer kernel fails on it with ceil_mode."""
    for node in model.graph:
        if node.op_type == "AveragePool" and not any(node.attributes.get_ints("pads", ())):
            node.attributes.pop("count_include_pad", None)


def _drop_default_attributes(model: ir.Model) -> None:
    """A Conv says only what the operator's schema would not take for granted: 100 bytes less per layer."""
    for node in model.graph:
        if node.op_type != "Conv":
            continue
        for name, default in (("dilations", 1), ("strides", 1), ("pads", 0)):
            if set(node.attributes.get_ints(name, ())) == {default}:
                node.attributes.pop(name)
        if node.attributes.get_int("group", 1) == 1:
            node.attributes.pop("group", None)
        if node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET":
            node.attributes.pop("auto_pad", None)


def _drop_zero_biases(model: ir.Model) -> int:
    """torch.onnx.export gives every convolution a bias; one that is all zeros says nothing."""
    dropped = 0
    for node in model.graph:
        if node.op_type not in WEIGHT_INPUT or node.op_type == "MatMul" or len(node.inputs) < 3:
            continue
        bias = node.inputs[2]
        if bias is not None and bias.is_initializer() and not np.any(array(bias)):
            node.resize_inputs(2)
            dropped += 1
    return dropped
