"""Pairs of graphs, unrolled and as one Loop, of the contract between `roll` and the formats: equal by construction.

A block is written once, as the nodes of one iteration, by `Iteration`; `unrolled` repeats them with the constants of
each iteration, `rolled` puts them in a Loop that picks those of stacks. Kernels that all iterations read are one
initializer in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

OPSET = 21


class Iteration:
    """Nodes of one iteration as they are added; what differs from iteration to iteration comes from `own`."""

    def __init__(self, pair: Pair, number: int | None, iteration: ir.Value | None) -> None:
        self.pair, self.number, self.iteration = pair, number, iteration
        self.nodes: list[ir.Node] = []

    def own(self, name: str, stack: np.ndarray) -> ir.Value:
        """trips × … → this iteration's …"""
        if self.number is not None:
            return self.pair.constant(f"{name}.{self.number}", stack[self.number])
        return self.op("Gather", [self.pair.constant(f"{name}.stack", stack), self.iteration], axis=0)

    def shared(self, name: str, content: np.ndarray) -> ir.Value:
        """A constant of all iterations."""
        return self.pair.constant(name, content)

    def op(self, op_type: str, inputs: list[Any], name: str = "", outputs: int = 1, **attributes: Any) -> ir.Value:
        """A node; `name` is that of a layer, told apart by the iteration."""
        named = f"{name}.{self.number or 0}" if name else ""
        node = ir.node(op_type, inputs, attributes=attributes, num_outputs=outputs, name=named)
        for output in node.outputs:
            output.name = self.pair.fresh()
        self.nodes.append(node)
        return node.outputs[0]

    def on_the_fly(self, x: ir.Value) -> ir.Value:
        """DynamicQuantizeLinear → DequantizeLinear."""
        self.op("DynamicQuantizeLinear", [x], outputs=3)
        return self.op("DequantizeLinear", list(self.nodes[-1].outputs))


Block = Callable[[Iteration, ir.Value, ir.Value], ir.Value]  # iteration, carried, captured of the outer graph


@dataclass
class Pair:
    """One of the two graphs under construction."""

    model: ir.Model
    names: int = 0
    made: dict[str, ir.Value] = field(default_factory=dict)

    def fresh(self) -> str:
        self.names += 1
        return f"v{self.names}"

    def constant(self, name: str, content: np.ndarray) -> ir.Value:
        """One initializer for each name."""
        if name not in self.made:
            value = ir.Value(name=name, const_value=ir.tensor(content, name=name))
            value.shape, value.dtype = ir.Shape(content.shape), ir.DataType.from_numpy(content.dtype)
            self.model.graph.register_initializer(value)
            self.made[name] = value
        return self.made[name]


def graph_of(block: Block, shape: tuple[int, ...], trips: int, *, rolled: bool, stem: bool = False) -> ir.Model:
    """x of `shape` → a Neg (what a body captures), `trips` iterations of `block` → y. `stem`: a Conv ahead of them."""
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], name="main", opset_imports={"": OPSET})
    pair = Pair(ir.Model(graph, ir_version=10))
    outer = Iteration(pair, 0, None)
    y, captured = x, outer.op("Abs", [x])
    if stem:
        kernel = np.random.default_rng(7).normal(0, 0.3, (shape[1], shape[1], 1, 1)).astype(np.float32)
        y = outer.op("Conv", [x, pair.constant("stem.weight", kernel)], "stem")
    graph.extend(outer.nodes)
    if rolled:
        y = _loop(pair, block, y, captured, trips)
    else:
        for number in range(trips):
            each = Iteration(pair, number, None)
            y = block(each, y, captured)
            graph.extend(each.nodes)
    head = ir.node("Neg", [y], name="")
    head.outputs[0].name, head.outputs[0].dtype = "y", ir.DataType.FLOAT
    head.outputs[0].shape = ir.Shape(shape)
    graph.append(head)
    graph.outputs.append(head.outputs[0])
    for node in list(graph):  # what nothing reads
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    return pair.model


def _loop(pair: Pair, block: Block, initial: ir.Value, captured: ir.Value, trips: int) -> ir.Value:
    iteration = ir.Value(name="iteration", shape=ir.Shape(()), type=ir.TensorType(ir.DataType.INT64))
    condition = ir.Value(name="condition", shape=ir.Shape(()), type=ir.TensorType(ir.DataType.BOOL))
    carried = ir.Value(name="carried", type=ir.TensorType(ir.DataType.FLOAT))
    each = Iteration(pair, None, iteration)
    going_on = each.op("Identity", [condition])
    result = block(each, carried, captured)
    body = ir.Graph([iteration, condition, carried], [going_on, result], nodes=each.nodes, name="body")
    count = pair.constant("trips", np.array(trips, np.int64))
    node = ir.node("Loop", [count, None, initial], attributes={"body": body}, name="loop")
    node.outputs[0].name, node.outputs[0].dtype = "looped", ir.DataType.FLOAT
    pair.model.graph.append(node)
    return node.outputs[0]


def layers(name: str, trips: int) -> dict[str, tuple[str, ...]]:
    """What `Ledger.rolled` says of a layer of the block."""
    return {f"{name}.0": tuple(f"{name}.{number}" for number in range(trips))}


# Blocks


def gains(trips: int, channels: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """trips × C×1×1 of factors near 1 (some negative) and of offsets."""
    rng = np.random.default_rng(seed)
    factors = rng.uniform(0.5, 1.2, (trips, channels, 1, 1)) * rng.choice([1, 1, 1, -1], (trips, channels, 1, 1))
    return factors.astype(np.float32), rng.normal(0, 0.1, (trips, channels, 1, 1)).astype(np.float32)


def kernel(channels: int, taps: int = 3, seed: int = 2) -> np.ndarray:
    """C×C×taps×taps that keeps the size of what it is given."""
    shape = (channels, channels, taps, taps)
    return np.random.default_rng(seed).normal(0, (channels * taps * taps) ** -0.5, shape).astype(np.float32)


def conv_affine(trips: int, channels: int, *, dynamic: bool = False, residual: bool = False) -> Block:
    """relu(gain_i · conv(x, W) + offset_i), with `dynamic` in integers; + x."""
    factors, offsets = gains(trips, channels)
    weight = kernel(channels)
    scale = (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32)
    codes = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)

    def block(each: Iteration, x: ir.Value, _: ir.Value) -> ir.Value:
        if dynamic:
            given = [each.shared("conv.codes", codes), each.shared("conv.scale", scale)]
            read = [each.on_the_fly(x), each.op("DequantizeLinear", given, axis=0)]
        else:
            read = [x, each.shared("conv.weight", weight)]
        y = each.op("Conv", read, "conv", pads=[1, 1, 1, 1])
        y = each.op("Add", [each.op("Mul", [y, each.own("gain", factors)]), each.own("offset", offsets)])
        if residual:
            y = each.op("Add", [y, x])
        return each.op("Relu", [y])

    return block


def with_own_bias_and_scales(trips: int, channels: int) -> Block:
    """relu(conv(x, W·s_i) + b_i), s_i and b_i those of BN that moved into an integer layer."""
    rng = np.random.default_rng(3)
    weight = kernel(channels)
    codes = np.rint(weight * 127 / np.abs(weight).max()).astype(np.int8)
    scales = (rng.uniform(0.5, 1.2, (trips, channels)) * np.abs(weight).max() / 127).astype(np.float32)
    biases = rng.normal(0, 0.1, (trips, channels)).astype(np.float32)

    def block(each: Iteration, x: ir.Value, _: ir.Value) -> ir.Value:
        given = [each.shared("conv.codes", codes), each.own("scale", scales)]
        read = [each.on_the_fly(x), each.op("DequantizeLinear", given, axis=0), each.own("bias", biases)]
        return each.op("Relu", [each.op("Conv", read, "conv", pads=[1, 1, 1, 1])])

    return block


def convmixer(trips: int, channels: int) -> Block:
    """x + a·gelu(depthwise, 6×6 as four tiles of 3×3) + b, then a'·gelu(pointwise) + b'."""
    first, second = gains(trips, channels), gains(trips, channels, 4)
    tiles = np.random.default_rng(5).normal(0, 0.1, (4, channels, 1, 3, 3)).astype(np.float32)
    point = kernel(channels, 1)

    def block(each: Iteration, x: ir.Value, _: ir.Value) -> ir.Value:
        total = None
        for number, (top, left) in enumerate([(4, 4), (4, 2), (2, 4), (2, 2)]):
            pads = [top - 1, left - 1, 4 - top + 1, 4 - left + 1]
            read = [x, each.shared(f"dw#tile{number}.weight", tiles[number])]
            y = each.op("Conv", read, f"dw#tile{number}", group=channels, dilations=[2, 2], pads=pads)
            total = y if total is None else each.op("Add", [total, y])
        y = each.op("Gelu", [total])
        y = each.op("Add", [each.op("Mul", [y, each.own("a", first[0])]), each.own("b", first[1])])
        y = each.op("Add", [y, x])
        y = each.op("Gelu", [each.op("Conv", [y, each.shared("pw.weight", point)], "pw")])
        return each.op("Add", [each.op("Mul", [y, each.own("c", second[0])]), each.own("d", second[1])])

    return block


def squeeze_excite(trips: int, channels: int, *, stored: str = "float") -> Block:
    """A residual block with a SE gate whose two matrices every iteration has for itself: float, or codes."""
    factors, offsets = gains(trips, channels)
    rng = np.random.default_rng(6)
    weight = kernel(channels)
    reduce = rng.normal(0, 0.5, (trips, channels // 2, channels)).astype(np.float32)
    expand = rng.normal(0, 0.5, (trips, channels, channels // 2)).astype(np.float32)

    def matrix(each: Iteration, name: str, stack: np.ndarray) -> ir.Value:
        if stored == "float":
            return each.own(name, stack)
        scales = (np.abs(stack).max(2) / 127).astype(np.float32)
        codes = np.rint(stack / scales[..., None]).astype(np.int8)
        given = [each.own(f"{name}.codes", codes), each.own(f"{name}.scale", scales)]
        return each.op("DequantizeLinear", given, axis=0)

    def block(each: Iteration, x: ir.Value, _: ir.Value) -> ir.Value:
        y = each.op("Conv", [x, each.shared("conv.weight", weight)], "conv", pads=[1, 1, 1, 1])
        y = each.op("Add", [each.op("Mul", [y, each.own("gain", factors)]), each.own("offset", offsets)])
        means = each.op("Flatten", [each.op("GlobalAveragePool", [y])], axis=1)
        z = each.on_the_fly(means) if stored == "codes" else means
        z = each.op("Relu", [each.op("Gemm", [z, matrix(each, "reduce", reduce)], "reduce", transB=1)])
        z = each.on_the_fly(z) if stored == "codes" else z
        z = each.op("Sigmoid", [each.op("Gemm", [z, matrix(each, "expand", expand)], "expand", transB=1)])
        z = each.op("Unsqueeze", [z, each.shared("axes", np.array([2, 3]))])
        return each.op("Relu", [each.op("Add", [each.op("Mul", [y, z]), x])])

    return block


def own_convolutions(trips: int, channels: int) -> Block:
    """gelu(depthwise_i(conv_i(x)) · captured): kernels of every kind, none shared, and a captured map."""
    rng = np.random.default_rng(8)
    full = rng.normal(0, 0.2, (trips, channels, channels, 3, 3)).astype(np.float32)
    depth = rng.normal(0, 0.5, (trips, channels, 1, 3, 3)).astype(np.float32)
    point = rng.normal(0, 0.3, (trips, channels, channels, 1, 1)).astype(np.float32)
    biases = rng.normal(0, 0.1, (trips, channels)).astype(np.float32)

    def block(each: Iteration, x: ir.Value, captured: ir.Value) -> ir.Value:
        y = each.op("Conv", [x, each.own("full", full), each.own("bias", biases)], "full", pads=[1, 1, 1, 1])
        y = each.op("Relu", [y])
        y = each.op("Conv", [y, each.own("depth", depth)], "depth", group=channels, pads=[1, 1, 1, 1])
        y = each.op("Conv", [y, each.own("point", point)], "point")
        return each.op("Gelu", [each.op("Mul", [y, captured])])

    return block


def stored(trips: int, channels: int, kind: str, *, depthwise: bool = False) -> Block:
    """gain_i · conv(x, W) + offset_i in float, W stored as codes or halves and made float in the graph."""
    factors, offsets = gains(trips, channels)
    weight = kernel(channels)[:, :1] * 3 if depthwise else kernel(channels)
    scale = (np.abs(weight).max((1, 2, 3), keepdims=True) / 127).astype(np.float32)
    codes = np.rint(weight / scale).astype(np.int8)

    def block(each: Iteration, x: ir.Value, _: ir.Value) -> ir.Value:
        if kind == "half":
            read = each.op("Cast", [each.shared("w", weight.astype(np.float16))], to=1)
        else:
            read = each.op("Mul", [each.op("Cast", [each.shared("w", codes)], to=1), each.shared("s", scale)])
        groups = {"group": channels} if depthwise else {}
        y = each.op("Conv", [x, read], "conv", pads=[1, 1, 1, 1], **groups)
        return each.op("Add", [each.op("Mul", [y, each.own("gain", factors)]), each.own("offset", offsets)])

    return block


def batch_norm(trips: int, channels: int) -> Block:
    """relu(BN_i(conv(x, W))), BN as a node of its own."""
    rng = np.random.default_rng(9)
    vectors = [rng.uniform(0.5, 1.5, (trips, channels)).astype(np.float32) for _ in range(4)]
    weight = kernel(channels)

    def block(each: Iteration, x: ir.Value, _: ir.Value) -> ir.Value:
        y = each.op("Conv", [x, each.shared("conv.weight", weight)], "conv", pads=[1, 1, 1, 1])
        given = [each.own(f"bn{number}", vector) for number, vector in enumerate(vectors)]
        return each.op("Relu", [each.op("BatchNormalization", [y, *given])])

    return block


def static_int8(trips: int, channels: int, own: str = "") -> Block:
    """QuantizeLinear → DequantizeLinear → Conv → both again; `own`: the scales that every iteration has for itself."""
    codes = np.rint(kernel(channels) * 1000).clip(-127, 127).astype(np.int8)
    scale = np.full((trips, channels), 0.001, np.float32)
    step = np.full(trips, 0.05, np.float32) * np.arange(1, trips + 1, dtype=np.float32)

    def block(each: Iteration, x: ir.Value, _: ir.Value) -> ir.Value:
        steps = each.own("step", step) if own == "activations" else each.shared("step.0", step[0])
        scales = each.own("scale", scale) if own == "kernel" else each.shared("scale.0", scale[0])
        zero = each.shared("zero", np.array(3, np.int8))

        def in_codes(value: ir.Value) -> ir.Value:
            return each.op("DequantizeLinear", [each.op("QuantizeLinear", [value, steps, zero]), steps, zero])

        weight = each.op("DequantizeLinear", [each.shared("conv.codes", codes), scales], axis=0)
        return in_codes(each.op("Conv", [in_codes(x), weight], "conv", pads=[1, 1, 1, 1]))

    return block
