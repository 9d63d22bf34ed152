"""Loop of the graph → WHILE: a condition and a body of their own, the body lowered by the ordinary table.

What a WHILE carries: a counter, the Values that the Loop carries, and behind them the activations of the outer graph
that the body reads, which it hands on unchanged. Kernels that the body reads are constants of its own graph that point
to the one buffer; what differs from iteration to iteration is a GATHER of a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema

from edgeks.errors import GraphError
from edgeks.formats.tflite.layout import channels_last
from edgeks.formats.tflite.lowering import Held, Lowering
from edgeks.formats.tflite.network import Network, Tensor
from edgeks.formats.tflite.shapes import captured_in, carried_in, shapes_in_body
from edgeks.formats.tflite.values import (
    Unsupported,
    body_of,
    constant_content,
    layers_in,
    makes_kernel,
    quantised_on_the_fly,
    stack_of,
)

MAP_RANK = 4
LowerAll = Callable[[Lowering, ir.Graph], None]


def lower_loop(ctx: Lowering, node: ir.Node, lower_all: LowerAll) -> None:
    """WHILE. `lower_all` lowers the nodes of the body.

    Feature maps are carried as N×H×W×C, so that a TRANSPOSE, where one is needed, is ahead of the loop or behind it.

    Raises:
        Unsupported: it is no loop over a constant number of iterations that carries tensors of one shape and type.
        GraphError: integer layers in it have scales that differ from iteration to iteration.
    """
    trips = _trips(ctx, node)
    body = body_of(node)
    _require_common_scales(node, body)
    carried = [(value, _as_carried(ctx, initial)) for value, initial in carried_in(node)]
    captured = [(value, ctx.held(value)) for value in _activations(body)]
    inner = Lowering(body, shapes_in_body(node, ctx.shapes), ctx)
    inner.iteration = inner.network.activation("", (), "int32")
    inputs = [inner.iteration]
    for value, held in (*carried, *captured):
        inputs.append(_twin(inner.network, held.tensor))
        inner.hold(value, inputs[-1], held.order)
    going_on = body.outputs[0].producer()
    assert going_on is not None  # noqa: S101  # _trips has looked
    ctx.done[going_on] = None
    lower_all(inner, body)
    one = inner.network.constant("", np.array(1, np.int32), owner=("number", 1))
    outputs = [inner.step("ADD", [inner.iteration, one], (), schema.AddOptionsT())]
    for value, (carried_value, held) in zip(body.outputs[1:], carried, strict=True):
        made = inner.reordered(inner.held(value), held.order)
        _require_alike(carried_value, held.tensor, made)
        outputs.append(made)
    outputs += inputs[len(outputs) :]
    inner.network.bound(inputs, outputs)
    options = schema.WhileOptionsT()
    options.condSubgraphIndex = _condition(ctx.network, inputs, trips)
    options.bodySubgraphIndex = inner.network.index
    zero = ctx.network.constant("", np.array(0, np.int32), owner=("number", 0))
    initial = [zero, *(held.tensor for _, held in (*carried, *captured))]
    results = [_twin(ctx.network, tensor) for tensor in initial]
    ctx.network.operator("WHILE", initial, results, options)
    for value, result, (_, held) in zip(node.outputs, results[1:], carried, strict=False):
        ctx.hold(value, result, held.order)


def _trips(ctx: Lowering, node: ir.Node) -> int:
    trips = ctx.number(node, 0)
    condition = node.inputs[1]
    going_on = body_of(node).outputs[0].producer()
    starts = None if condition is None else constant_content(condition)
    if trips is None or (condition is not None and (starts is None or not starts.all())):
        raise Unsupported("it ends by a condition that is computed, or does not begin")
    if going_on is None or going_on.op_type != "Identity" or going_on.inputs[0] is not body_of(node).inputs[1]:
        raise Unsupported("it ends by a condition that its body computes")
    if len(node.outputs) != len(node.inputs) - 2:
        raise Unsupported("it has scan outputs")
    return int(trips.ravel()[0])


def _as_carried(ctx: Lowering, initial: ir.Value | None) -> Held:
    held = ctx.held(initial)
    order = channels_last(MAP_RANK) if len(held.order) == MAP_RANK else held.order
    return Held(ctx.reordered(held, order), order)


def _activations(body: ir.Graph) -> list[ir.Value]:
    """What the body reads of the outer graph that is computed there, but kernels that are made of codes."""
    found: list[ir.Value] = []
    for value in captured_in(body):
        producer = value.producer()
        source = None if producer is None else producer.inputs[0]
        if producer is not None and producer.op_type == "DequantizeLinear":
            found.append(quantised_on_the_fly(source) or value)
        elif not value.is_initializer() and not (producer is not None and makes_kernel(producer)):
            found.append(value)
    return [value for value in dict.fromkeys(found) if not _of_constant_codes(value)]


def _of_constant_codes(value: ir.Value) -> bool:
    producer = value.producer()
    source = None if producer is None or producer.op_type != "DequantizeLinear" else producer.inputs[0]
    return source is not None and source.is_initializer()


def _twin(network: Network, tensor: Tensor) -> Tensor:
    """A tensor of another graph, of the same shape and type."""
    return network.activation("", tensor.shape, tensor.type, tensor.quantisation)


def _condition(network: Network, inputs: Sequence[Tensor], trips: int) -> int:
    """The graph `counter < trips`; its number."""
    graph = network.inner("condition")
    given = [_twin(graph, tensor) for tensor in inputs]
    limit = graph.constant("", np.array(trips, np.int32), owner=("number", trips))
    going_on = graph.activation("", (), "bool")
    graph.operator("LESS", [given[0], limit], [going_on], schema.LessOptionsT())
    graph.bound(given, [going_on])
    return graph.index


def _require_alike(value: ir.Value, before: Tensor, after: Tensor) -> None:
    codes = (before.quantisation, after.quantisation)
    same = codes == (None, None) or (codes[0] is not None and codes[1] is not None and codes[0].same_codes(codes[1]))
    if replace(before, index=0, constant=False, quantisation=None) != replace(
        after, index=0, constant=False, quantisation=None
    ):
        raise Unsupported(
            f"{value.name!r} comes as {before.type} {list(before.shape)} and goes as {after.type} {list(after.shape)}"
        )
    if not same:
        raise Unsupported(f"{value.name!r} comes and goes in codes of different scales")


def _require_common_scales(node: ir.Node, body: ir.Graph) -> None:
    """A layer that reads activations in codes has every scale in the file, once: none of them may be picked."""
    for each in body:
        if each.op_type not in ("QuantizeLinear", "DequantizeLinear") or stack_of(each.inputs[1]) is None:
            continue
        codes = each.inputs[0]
        if each.op_type == "DequantizeLinear" and codes is not None and _is_kernel(codes):
            readers = [use.node for use in each.outputs[0].uses()]
            if all(_is_float(reader) for reader in readers):
                continue
        name = next((str(layer.name) for layer in layers_in(body)), str(node.name))
        raise GraphError(
            f"the loop of layer {name!r} computes in static int8 with scales that differ from iteration to iteration; "
            "a .tflite file states the scales of a tensor once. Legal for --form rolled: fp32, or --int8 with dynamic "
            "activations; or export it with --form unrolled"
        )


def _is_kernel(codes: ir.Value) -> bool:
    return codes.is_initializer() or stack_of(codes) is not None


def _is_float(layer: ir.Node) -> bool:
    """Whether the layer's data are float, or quantised on the fly."""
    producer = None if layer.inputs[0] is None else layer.inputs[0].producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return True
    return quantised_on_the_fly(producer.inputs[0]) is not None
