"""What the graph says of a Value: its content, what it is made of, what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.formats.tflite.network import Quantisation

Activation = schema.ActivationFunctionType
NONE: int = Activation.NONE
WITH_KERNEL = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # their outputs bear the names of their layers
LOOP = "Loop"


class Unsupported(Exception):
    """A node that has no form in TFLite; the text says why, for the one error that lists all of them."""


def body_of(node: ir.Node) -> ir.Graph:
    """The graph that a Loop runs."""
    return node.attributes["body"].as_graph()


def layers_in(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes that read a kernel, those in the bodies of loops too."""
    for node in graph:
        if node.op_type in WITH_KERNEL:
            yield node
        elif node.op_type == LOOP:
            yield from layers_in(body_of(node))


def stack_of(value: ir.Value | None) -> ir.Value | None:
    """The constant, trips × …, of which a loop's body picks `value` by the number of the iteration; else None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Gather" or node.graph is None or not node.graph.inputs:
        return None
    stack, index = node.inputs
    picked = index is node.graph.inputs[0] and node.attributes.get_int("axis", 0) == 0
    return stack if picked and stack is not None and stack.is_initializer() else None


def is_computed(value: ir.Value | None) -> bool:
    """Whether a Value is neither a constant nor picked of a stack of them."""
    return value is not None and constant_content(value) is None and stack_of(value) is None


def is_picked(node: ir.Node) -> bool:
    """Whether a loop's body picks a constant of the iteration here."""
    return node.op_type == "Gather" and stack_of(node.outputs[0]) is not None


def makes_kernel(node: ir.Node) -> bool:
    """Cast of stored codes or halves, and the Mul by their scale."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type == "Cast":
        return source is not None and (source.is_initializer() or stack_of(source) is not None)
    if node.op_type == "Mul" and source is not None and (producer := source.producer()) is not None:
        return producer.op_type == "Cast" and makes_kernel(producer)
    return False


def constant_content(value: ir.Value) -> NDArray[Any] | None:
    """What an initializer holds; None for a Value that is computed."""
    if not value.is_initializer() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def quantised_on_the_fly(codes: ir.Value | None) -> ir.Value | None:
    """What a DynamicQuantizeLinear made `codes` of; None where they come from elsewhere."""
    node = None if codes is None else codes.producer()
    return node.inputs[0] if node is not None and node.op_type == "DynamicQuantizeLinear" else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, in its own graph and as its first input, when nothing else does; else None."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].idx != 0:
        return None
    producer, reader = value.producer(), uses[0].node
    return reader if producer is None or producer.graph is reader.graph else None  # not from inside a loop


def quantisation_of(node: ir.Node) -> Quantisation:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear of a whole tensor."""
    scale = None if node.inputs[1] is None else constant_content(node.inputs[1])
    zero = constant_content(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.array(0)
    if scale is None or zero is None or scale.size != 1:
        raise Unsupported("activations are quantised per channel, or with a scale that is computed at run time")
    return Quantisation(scale.reshape(1).astype(np.float32), int(zero.ravel()[0]))


def fused_activation(node: ir.Node) -> int | None:
    """The activation that TFLite merges into the operator before it; None for any other node."""
    if node.op_type == "Relu":
        return int(Activation.RELU)
    if node.op_type == "Clip":
        bounds = clip_bounds(node)
        if bounds == (0.0, 6.0):
            return int(Activation.RELU6)
        if bounds == (-1.0, 1.0):
            return int(Activation.RELU_N1_TO_1)
        if bounds == (0.0, float("inf")):
            return int(Activation.RELU)
    return None


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Lowest and highest value of a Clip; None where they are computed at run time."""
    bounds = [-float("inf"), float("inf")]
    for index in (1, 2):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is not None:
            content = constant_content(value)
            if content is None:
                return None
            bounds[index - 1] = float(content.ravel()[0])
    return bounds[0], bounds[1]
