"""Layers in a loop's body whose kernel, scales or bias differ from iteration to iteration: they are picked of stacks.

XNNPACK packs a convolution's kernel together with its scales and bias, which it wants constant. A layer's own scale
and bias are therefore a MUL and an ADD behind it; its own kernel is an input like any other, which the built-in kernels
take, in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.formats.tflite.layout import Order
from edgeks.formats.tflite.lowering import Lowering, Result
from edgeks.formats.tflite.network import Quantisation, Tensor
from edgeks.formats.tflite.values import NONE, Unsupported, constant_content, stack_of

UNIT = Quantisation(np.ones(1, np.float32), 0)


@dataclass(frozen=True, slots=True)
class StackedKernel:
    """trips × the graph's kernel: float32, or int8 codes with `scale`, the factors per output channel."""

    stack: ir.Value
    content: NDArray[Any]
    scale: NDArray[np.float32] | None


def stacked_kernel(node: ir.Node) -> StackedKernel | None:
    """The kernel of a layer that has another one in every iteration, directly or made of codes; else None.

    Raises:
        Unsupported: it is of another type, or has a zero point.
    """
    weight = node.inputs[1]
    scale = zero = None
    stack = stack_of(weight)
    producer = None if weight is None else weight.producer()
    if stack is None and producer is not None and producer.op_type == "DequantizeLinear":
        stack, scale = stack_of(producer.inputs[0]), producer.inputs[1]
        zero = producer.inputs[2] if len(producer.inputs) > 2 else None
    elif stack is None and producer is not None and producer.op_type == "Mul" and producer.inputs[0] is not None:
        cast, scale = producer.inputs[0].producer(), producer.inputs[1]
        stack = stack_of(cast.inputs[0]) if cast is not None and cast.op_type == "Cast" else None
    elif producer is not None and producer.op_type == "Cast" and stack_of(producer.inputs[0]) is not None:
        raise Unsupported("its kernels differ from iteration to iteration and are float16; legal: float32, int8")
    if stack is None:
        return None
    points = None if zero is None else constant_content(stack_of(zero) or zero)
    if zero is not None and (points is None or points.any()):
        raise Unsupported("its kernels have a zero point; TFLite's are int8 around 0")
    content = constant_content(stack)
    assert content is not None  # noqa: S101  # stack_of gives constants
    content = content.astype(np.float32) if content.dtype == np.float64 else content
    if content.dtype not in (np.float32, np.int8):
        raise Unsupported(f"its kernels are picked of a stack of {content.dtype}; legal: float32, int8")
    return StackedKernel(stack, content, per_channel(scale))


def picked_kernel(ctx: Lowering, kernel: StackedKernel, arrangement: Sequence[int]) -> Tensor:
    """The iteration's kernel in float32, without its scale; of its axes those in `arrangement`, the others are 1."""
    order = [1 + axis for axis in arrangement]
    left = [axis for axis in range(1, kernel.content.ndim) if axis not in order]
    content = kernel.content.transpose(0, *order, *left)
    content, owner = content.reshape(content.shape[: 1 + len(order)]), (kernel.stack, tuple(arrangement))
    if kernel.content.dtype == np.float32:
        return ctx.at_iteration(content, owner)
    codes = ctx.at_iteration(content, owner, UNIT)
    return ctx.step("DEQUANTIZE", [codes], codes.shape, type="float32")


def per_channel(value: ir.Value | None) -> NDArray[np.float32] | None:
    """One number per output channel: a vector, or trips × channels where every iteration has its own; None: absent.

    Raises:
        Unsupported: it is computed at run time.
    """
    if value is None:
        return None
    stack = stack_of(value)
    content = constant_content(stack or value)
    if content is None:
        raise Unsupported(f"{value.name!r}, one number per channel, is computed at run time")
    return content.astype(np.float32).reshape(-1 if stack is None else (len(content), -1))


def _vector(ctx: Lowering, numbers: NDArray[np.float32]) -> Tensor:
    """`per_channel` as a tensor to multiply or add to one whose last axis is the channels."""
    if numbers.ndim == 1:
        return ctx.floats(numbers)
    return ctx.at_iteration(numbers, (numbers.shape, numbers.tobytes()))


def emit_with_own(
    ctx: Lowering,
    name: str,
    inputs: Sequence[Tensor | None],
    result: Result,
    order: Order,
    options: Any,
    shape: Sequence[int],
    gain: NDArray[np.float32] | None,
    offset: NDArray[np.float32] | None,
) -> None:
    """(operator · gain + offset) behind `result`'s activation; `shape` is the operator's own, channels last."""
    if gain is None and offset is None:
        options.fusedActivationFunction = result.activation
        ctx.emit(name, inputs, result, order, options)
        return
    if result.quantisation is not None:
        raise Unsupported("an integer layer with a scale or bias of its own in every iteration")
    options.fusedActivationFunction = NONE
    made = ctx.step(name, inputs, shape, options, type="float32", name_of_output=result.name)
    steps: list[tuple[str, NDArray[np.float32], Any]] = []
    if gain is not None:
        steps.append(("MUL", gain, schema.MulOptionsT()))
    if offset is not None:
        steps.append(("ADD", offset, schema.AddOptionsT()))
    for number, (step, numbers, more) in enumerate(steps):
        factors: list[Tensor | None] = [made, _vector(ctx, numbers)]
        last = number == len(steps) - 1
        more.fusedActivationFunction = result.activation if last else NONE
        made = ctx.step(step, factors, shape, more)
    ctx.hold(result.value, ctx.reshaped(made, [result.shape[axis] for axis in order]), order)
