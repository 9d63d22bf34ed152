"""Where a network's fake-quantisers go: asked of the export's own passes (graph/passes/quantize_activations.py).

The network is captured once with a mark on every tensor; the passes decide; the marks lead back to the network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from edgeks.errors import CheckpointError, ConfigError, GraphError
from edgeks.graph.float_graph import float_graph
from edgeks.graph.kernels import kernel_reads, sole_use
from edgeks.graph.marks import marks
from edgeks.graph.passes.absorb_batch_norm import absorb_batch_norm
from edgeks.graph.passes.quantize_activations import Placement, place_activations
from edgeks.graph.passes.quantize_kernels import quantize_kernels
from edgeks.graph.passes.split_large_kernels import is_tile, split_large_kernels
from edgeks.quant.fake_quant import Ranges, checked_ranges
from edgeks.quant.traced_network import insert_behind, kernel_nodes
from edgeks.target import Int8Scheme, Int8Type

OPSET = 20  # of the graph that decides; every target's opset decides the same


@dataclass(frozen=True, slots=True)
class ActivationPoint:
    """A fake-quantiser `name` behind fx node `node`, read by all, or only by the nodes `readers`."""

    name: str
    node: str
    readers: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class BiasPoint:
    """fx node `layer`, the BN behind it that becomes part of its scale, its kernel's node, its input's quantiser."""

    layer: str
    norm: str | None
    kernel: str
    activation: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a network's fake-quantisers are: fx nodes that get a kernel, activation points, int32 biases."""

    integer_type: Int8Type
    ranges: Ranges
    kernels: tuple[str, ...]
    activations: tuple[ActivationPoint, ...]
    biases: tuple[BiasPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and text, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layout:
        """Inverse of `to_dict`.

        Raises:
            CheckpointError: a key is missing or has the wrong type.
        """
        try:
            points = [
                ActivationPoint(
                    str(point["name"]),
                    str(point["node"]),
                    None if point["readers"] is None else tuple(str(reader) for reader in point["readers"]),
                )
                for point in data["activations"]
            ]
            integer_type = data["integer_type"]
            if integer_type not in ("int8", "uint8"):
                raise ValueError(f"integer_type {integer_type!r}")
            kernels = tuple(str(name) for name in data["kernels"])
            biases = [
                BiasPoint(
                    str(point["layer"]),
                    None if point["norm"] is None else str(point["norm"]),
                    str(point["kernel"]),
                    str(point["activation"]),
                )
                for point in data["biases"]
            ]
            return cls(integer_type, checked_ranges(data["ranges"]), kernels, tuple(points), tuple(biases))
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise CheckpointError(f"the layout of its fake-quantisers is malformed: {error!r}") from error


class Mark(nn.Module):
    """Stands in a fake-quantiser's place while the network is captured."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same, marked."""
        return _mark(x, self.number)


def _mark(x: Tensor, number: int) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, float(number), 0, 0, 255)


def find_layout(traced: fx.GraphModule, example: Tensor, scheme: Int8Scheme, ranges: Ranges) -> Layout:
    """Ask the export's own passes where the integer graph of this network quantises."""
    kernels = kernel_nodes(traced)
    nodes = {number: node for number, node in enumerate(traced.graph.nodes, start=1) if node.op != "output"}
    graph, ledger = float_graph(_probe(traced, example, set(kernels)), example.numpy(), OPSET, marked=True)
    node_of_layer, kernel_of_layer = {}, {}
    for read in kernel_reads(graph):
        name = str(read.node.name)
        on_output, on_kernel = _marks_behind(read.node), marks(read.kernel)
        if on_output and on_kernel:
            node_of_layer[name], kernel_of_layer[name] = nodes[on_output[0]], nodes[on_kernel[0]]
    if scheme.format == "tflite":  # as the export does it: tiles have int8 kernels between float activations
        split_large_kernels(graph, ledger.plan)
    tiled = {str(read.node.name): marks(read.kernel) for read in kernel_reads(graph) if is_tile(str(read.node.name))}
    quantize_kernels(graph, scheme.weights, keep_float=tiled, file_format=scheme.format)
    quantised = [str(read.node.name) for read in kernel_reads(graph) if read.dequantize is not None]
    quantised_kernels = {kernel_of_layer[name].name for name in quantised if name in kernel_of_layer}
    quantised_kernels |= {nodes[found[0]].name for found in tiled.values() if found}
    if not quantised_kernels:
        raise GraphError("quantisation-aware training: the network has no layer whose kernel can be quantised")
    absorb_batch_norm(graph)
    placement = place_activations(graph, scheme.format)
    points = _points(placement, nodes, node_of_layer)
    biases = []
    for read in kernel_reads(graph):
        name = str(read.node.name)
        source = placement.source(read.node.inputs[0])
        quantiser = points.get(source) if source is not None else None
        if name not in node_of_layer or read.dequantize is None or quantiser is None or read.node.op_type == "MatMul":
            continue
        if (read.node, 0) not in placement.reads:  # a float stem
            continue
        layer = node_of_layer[name]
        behind = [nodes[mark] for mark in marks(read.node.outputs[0])]
        norm = behind[0].name if behind and behind[0] is not layer else None
        biases.append(BiasPoint(layer.name, norm, kernel_of_layer[name].name, quantiser[0].name))
    return Layout(
        scheme.activations,
        ranges,
        tuple(node.name for node in kernels if node.name in quantised_kernels),
        tuple(point for found in points.values() for point in found),
        tuple(biases),
    )


def _marks_behind(layer: ir.Node) -> list[int]:
    """Marks on a layer's output; on the Add of its bias where that is an operator of its own (a Linear on tokens)."""
    found = marks(layer.outputs[0])
    use = None if found else sole_use(layer.outputs[0])
    return marks(use[0].outputs[0]) if use is not None and use[0].op_type == "Add" else found


def _points(
    placement: Placement, nodes: Mapping[int, fx.Node], node_of_layer: Mapping[str, fx.Node]
) -> dict[ir.Value, list[ActivationPoint]]:
    """Quantised Value → where its fake-quantiser is called; several places where it was made in float."""
    points: dict[ir.Value, list[ActivationPoint]] = {}
    for value in placement.ranged:
        if value in placement.integer:
            found = placement.marks_on(value)
            if found:  # else inside what torch.fx sees as one operation: the export calibrates it
                points[value] = [ActivationPoint(nodes[found[0]].name, nodes[found[0]].name, None)]
            continue
        # Made in float: only layers read the quantised form, and what hands the network's input to one.
        sources: dict[fx.Node, list[str]] = {}
        for node, index in placement.reads:
            layer = _reader(node, nodes, node_of_layer) if node.inputs[index] is value else None
            source = (layer.args[0] if layer.args else layer.kwargs.get("input")) if layer is not None else None
            if layer is not None and isinstance(source, fx.Node):
                sources.setdefault(source, []).append(layer.name)
        for source, readers in sources.items():
            found_before = points.setdefault(value, [])
            name = found_before[0].name if found_before else source.name
            found_before.append(ActivationPoint(name, source.name, tuple(readers)))
    return points


def _reader(node: ir.Node, nodes: Mapping[int, fx.Node], node_of_layer: Mapping[str, fx.Node]) -> fx.Node | None:
    """What `node` is in torch: a layer, or the call that its output bears the mark of."""
    found = marks(node.outputs[0])
    return node_of_layer.get(str(node.name)) or (nodes[found[0]] if found else None)


def _probe(traced: fx.GraphModule, example: Tensor, kernels: set[fx.Node]) -> fx.GraphModule:
    """A copy with the mark of its number on every float tensor, kernels of `kernels` included."""
    probe = copy.deepcopy(traced).eval()
    recorder = _Recorder(probe)
    try:
        with torch.no_grad():
            recorder.run(example)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise GraphError(f"the network does not take inputs of {tuple(example.shape)}: {reason[:300]}") from error
    kernel_names = {node.name for node in kernels}
    for number, node in enumerate(list(probe.graph.nodes), start=1):
        if node not in recorder.floats or (node.op == "get_attr" and node.name not in kernel_names):
            continue
        insert_behind(probe, node, _mark, number)
    probe.recompile()
    return probe


class _Recorder(fx.Interpreter):
    """Runs a GraphModule and remembers which nodes give one float32 tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.floats: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            self.floats.add(n)
        return result
