"""OnnxNetwork → float graph in its plainest form, as `float_graph` makes it from torch: equal kernels are one Value."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx import ModelProto
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir

from edgeks.errors import GraphError
from edgeks.graph.float32 import to_float32
from edgeks.graph.kernels import WEIGHT_INPUT, array, kernel_reads, output_channels
from edgeks.graph.ledger import Ledger
from edgeks.graph.node_names import name_nodes
from edgeks.graph.onnx_network import OnnxNetwork
from edgeks.graph.passes.fuse_gelu import fuse_gelu
from edgeks.graph.passes.tie_initializers import tie_equal_kernels
from edgeks.graph.passes.transpose_kernels import transpose_kernels
from edgeks.graph.plain_form import to_plain_form
from edgeks.graph.plan import graph_plan
from edgeks.sharing.equality import copy_sets
from edgeks.silence import silent
from edgeks.wording import first_names

MAX_FOLDED_ELEMENTS = 1 << 26  # of one constant that is computed from others: 256 MB
VOLUME_RANK = 5
IMAGE_OPS = (*WEIGHT_INPUT, "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization")


def float_graph_from_onnx(
    network: OnnxNetwork, shape: tuple[int, int, int], opset: int
) -> tuple[ir.Model, Ledger, tuple[str, ...]]:
    """Network → float graph for one image of `shape` (C, H, W), its ledger with one verified row per step, warnings.

    Constants are folded, shape arithmetic among them; kernels that are equal byte by byte then become one Value. The
    plan is what the graph shows, layers named by their nodes.

    Raises:
        GraphError: the graph computes nothing, is about volumes, has control flow, or cannot be brought to `opset`.
        SharingBroken: a step broke a tie.
    """
    where, before = network.path.name, len(network.proto.graph.node)
    graph = ir.from_proto(_for_one_image(network.proto, shape))
    name_nodes(graph)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    common.IdentityEliminationPass()(graph)
    transposed = transpose_kernels(graph)  # ahead of folding, which would write one Wᵀ per layer
    _fold(graph, where)
    _require_supported(graph, where)
    if network.opset != opset:
        graph = _convert(graph, network.opset, opset, where)
        _fold(graph, where)
    gelus = fuse_gelu(graph)
    name_nodes(graph)
    tied = tie_equal_kernels(graph)
    _require_finite(graph, where)
    ledger = Ledger(graph_plan(graph))
    read = f"{before} nodes of {where}, opset {network.opset} → {opset}, {len(graph.graph)} after folding constants"
    ledger.record("read", graph, read)
    ledger.run("fuse_gelu", graph, lambda: gelus)
    ledger.run("transpose_kernels", graph, lambda: transposed)
    ledger.run("tie_initializers", graph, lambda: tied)
    found = (*network.warnings, *_lost_sharing(graph))
    to_plain_form(graph, ledger)
    return graph, ledger, found


def _for_one_image(proto: ModelProto, shape: tuple[int, int, int]) -> ModelProto:
    """A copy in float32 that takes 1×C×H×W; what the file says of other shapes is inferred anew."""
    fixed = ModelProto()
    fixed.CopyFrom(proto)
    to_float32(fixed)
    del fixed.metadata_props[:], fixed.graph.value_info[:], fixed.graph.quantization_annotation[:]
    tensor = fixed.graph.input[0].type.tensor_type
    tensor.ClearField("shape")
    for size in (1, *shape):
        tensor.shape.dim.add().dim_value = size
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    return fixed


def _fold(graph: ir.Model, where: str) -> None:
    """Compute what does not depend on the input, kernels too: those computed alike are equal, and tied next."""
    try:
        with silent():  # onnxscript logs what it does not fold
            fold_constants_ir(
                graph, onnx_shape_inference=True, output_size_limit=MAX_FOLDED_ELEMENTS, should_fold=_is_small
            )
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
            common.IdentityEliminationPass()(graph)
            common.RemoveUnusedNodesPass()(graph)
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise GraphError(f"{where}: its shapes and constants contradict each other: {reason[:300]}") from error


def _is_small(node: ir.Node) -> bool:
    """Whether what a node makes has a known and moderate size: it is asked before anything is computed."""
    shapes = [value.shape for value in node.outputs]
    if any(shape is None or not shape.is_static() for shape in shapes):
        return False
    return sum(math.prod(shape.numpy()) for shape in shapes if shape is not None) <= MAX_FOLDED_ELEMENTS


def _convert(graph: ir.Model, version: int, opset: int, where: str) -> ir.Model:
    try:
        with silent():
            converted = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(graph), opset))
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(converted)
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise GraphError(
            f"{where}: cannot be converted from opset {version} to the target's {opset}: {reason[:300]}; "
            f"export it again with opset_version={opset}"
        ) from error
    return converted


def _require_supported(graph: ir.Model, where: str) -> None:
    flow = [node for node in graph.graph if any(attr.type in _BODIES for attr in node.attributes.values())]
    if flow:
        raise GraphError(
            f"{where}: has control flow that depends on the input ({_described(flow)}); edgeks exports graphs without: "
            "trace the network for one path and export it again"
        )
    volumes = [node for node in graph.graph if node.op_type in IMAGE_OPS and _rank(node) == VOLUME_RANK]
    if volumes:
        raise GraphError(
            f"{where}: computes on volumes, 5-D tensors ({_described(volumes)}); edgeks exports networks of images, "
            "N×C×H×W"
        )
    if all(node.op_type == "Identity" for node in graph.graph):  # one stays where an output is the input itself
        raise GraphError(
            f"{where}: computes nothing from its input (no node is left without constants and identities); wrong file?"
        )


_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _rank(node: ir.Node) -> int:
    value = node.inputs[0] if node.inputs else None
    return 0 if value is None or value.shape is None else len(value.shape)


def _require_finite(graph: ir.Model, where: str) -> None:
    for read in kernel_reads(graph):
        kernel = array(read.kernel)
        if kernel.dtype.kind == "f" and not np.isfinite(kernel).all():
            raise GraphError(f"{where}: the kernel of {read.node.name!r} holds NaN or infinity; training diverged?")


def _lost_sharing(graph: ir.Model) -> Iterator[str]:
    """What sharing could have saved, had no other tool multiplied BN into copies of a kernel."""
    reads = {read.kernel: read for read in kernel_reads(graph)}
    values = [np.moveaxis(array(kernel), output_channels(read), 0) for kernel, read in reads.items()]
    sets = copy_sets([value.reshape(len(value), -1) for value in values])
    if sets:
        reads_of = list(reads.values())
        copies = [index for found in sets for index in found[1:]]
        names = [str(reads_of[index].node.name) for found in sets for index in found]
        yield (
            f"{len(names)} kernels are equal up to a factor per channel ({first_names(names)}), as if another tool had "
            f"folded batch norm into copies of {len(sets)}: {sum(values[index].nbytes for index in copies):,} bytes "
            "of float32 are stored that sharing would save; export the checkpoint itself, or make the file unfolded "
            "(torch.onnx.export: do_constant_folding=False; onnxsim: --skip-fuse-bn)"
        )


def _described(nodes: list[ir.Node]) -> str:
    return first_names([f"{node.op_type} {node.name!r}" for node in nodes])
