"""The graph on its way to TFLite: which tensor holds each Value, in which order of axes, in float or in codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.formats.tflite.layout import Order, batch_free, held_shape, plain, same_memory
from edgeks.formats.tflite.network import Network, Quantisation, Tensor
from edgeks.formats.tflite.values import (
    NONE,
    WITH_KERNEL,
    Unsupported,
    constant_content,
    fused_activation,
    layers_in,
    only_reader,
    quantisation_of,
    quantised_on_the_fly,
    stack_of,
)

MOST_OWN_STEPS = 2  # steps of the graph in one of a kernel's own: rounding to it first is then off by one at most


@dataclass(frozen=True, slots=True)
class Held:
    """`tensor` holds a Value with its axes in `order`.

    `columns`, of a flattened feature map: position → index in the Value's last axis, which lies in another order.
    """

    tensor: Tensor
    order: Order
    columns: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What an operator is to compute: `value` of the graph, behind its fused `activation`, as codes or in float.

    `quantisation` is of `value`'s codes, None for float. `value` is the QuantizeLinear's output then.
    """

    value: ir.Value
    shape: tuple[int, ...]
    activation: int
    quantisation: Quantisation | None
    name: str


class Lowering:
    """Values that are held so far, and the network that grows. Operators of the table read and write through this."""

    def __init__(self, graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]], caller: Lowering | None = None) -> None:
        """`caller`: what lowers the graph that `graph` is the body of a loop in."""
        self.graph = graph
        if caller is None:
            self.network = Network({str(node.name) for node in layers_in(graph)})
            self.done: dict[ir.Node, None] = {}  # lowered with an operator before them
            self.kernels: dict[ir.Value, Held] = {}  # each as the first layer that reads it has it stored
        else:
            self.network, self.done, self.kernels = caller.network.inner(str(graph.name)), caller.done, caller.kernels
        self.iteration: Tensor | None = None  # number of the pass through a loop's body, a scalar
        self.shapes = shapes
        self._held: dict[ir.Value, Held] = {}
        self._reordered: dict[tuple[int, Order], Tensor] = {}  # by tensor and permutation of its axes
        self._constants: dict[tuple[object, ...], Tensor] = {}
        self._padded: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    # What is known of the graph

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Static shape of a Value of the graph.

        Raises:
            Unsupported: it depends on the input's content.
        """
        if value is not None and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        found = self.shapes.get(str(value.name)) if value is not None else None
        if found is None:
            raise Unsupported(f"the shape of {value.name if value is not None else 'an input'!r} is not known")
        return found

    def number(self, node: ir.Node, index: int) -> NDArray[Any] | None:
        """Input `index` of `node` as a constant; None where it is absent.

        Raises:
            Unsupported: it is computed at run time.
        """
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is None:
            return None
        content = constant_content(value)
        if content is None:
            raise Unsupported(f"input {index} ({value.name}) is computed at run time")
        return content

    def codes_of(self, value: ir.Value | None) -> ir.Value | None:
        """The Value whose codes `value` is made of; None where it is made in float."""
        node = None if value is None else value.producer()
        if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None or node.graph is not self.graph:
            return None
        codes = node.inputs[0]
        return None if codes.is_initializer() or quantised_on_the_fly(codes) is not None else codes

    # What an operator computes

    def result(
        self,
        node: ir.Node,
        activations: Sequence[ir.Value | None],
        *,
        fuse: bool = True,
        output: int = 0,
        own: Quantisation | None = None,
    ) -> Result:
        """Output of `node` with the Relu that only it feeds, in codes where `activations` come and it goes as codes.

        In float, too, where its steps would be lost in those of the one quantisation that TFLite's kernel has (`own`).
        """
        value, activation = node.outputs[output], NONE
        follower = only_reader(value)
        if fuse and follower is not None and (found := fused_activation(follower)) is not None:
            activation = found
            value = follower.outputs[0]
            self.done[follower] = None
        shape = self.shape(value)
        name = str(node.name) if node.op_type in WITH_KERNEL else ""
        quantize = only_reader(value)
        made_of_codes = bool(activations) and all(self.codes_of(source) is not None for source in activations)
        if quantize is None or quantize.op_type != "QuantizeLinear" or not made_of_codes:
            return Result(value, shape, activation, None, name)
        quantisation = quantisation_of(quantize)
        if own is not None and own.scale[0] > MOST_OWN_STEPS * quantisation.scale[0]:
            return Result(value, shape, activation, None, name)
        self.done[quantize] = None
        return Result(quantize.outputs[0], shape, activation, quantisation, name)

    def operand(self, value: ir.Value | None, result: Result) -> Held:
        """How an operand is held: as codes where the result is in codes, else in float."""
        return self.held(self.codes_of(value) if result.quantisation is not None else value)

    def read(self, value: ir.Value | None, result: Result, order: Order | None = None) -> Tensor:
        """The tensor of an operand, in `order`, or as it is held."""
        held = self.operand(value, result)
        return self.reordered(held, held.order if order is None else order)

    def order_of(self, value: ir.Value | None) -> Order:
        """Order in which a Value, or its codes, is held."""
        return self.held(self.codes_of(value) or value).order

    def emit(
        self,
        name: str,
        inputs: Sequence[Tensor | None],
        result: Result,
        order: Order,
        options: Any = None,
        *,
        own: Quantisation | None = None,
        columns: NDArray[np.int64] | None = None,
    ) -> None:
        """Add an operator that computes `result`, held in `order` and with `columns`.

        `own` is the one quantisation in which TFLite's int8 kernel gives its output: a QUANTIZE follows where the graph
        has another.
        """
        shape, quantisation = held_shape(result.shape, order), result.quantisation
        type = "float32" if quantisation is None else "int8"
        if quantisation is not None and own is not None and not own.same_codes(quantisation):
            inputs = [self.step(name, inputs, shape, options, quantisation=own, type=type)]
            name, options = "QUANTIZE", None
        output = self.network.activation(result.name, shape, type, quantisation)
        self.network.operator(name, inputs, [output], options)
        self._held[result.value] = Held(output, order, columns)

    def step(
        self,
        name: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        options: Any = None,
        *,
        like: Tensor | None = None,
        quantisation: Quantisation | None = None,
        type: str | None = None,
        name_of_output: str = "",
    ) -> Tensor:
        """Add an operator whose output, of `shape` as it is held, is no Value; typed as input 0 or `like`."""
        model = like or inputs[0]
        assert model is not None  # noqa: S101  # the table passes at least one tensor
        quantisation = quantisation or model.quantisation
        output = self.network.activation(name_of_output, shape, type or model.type, quantisation)
        self.network.operator(name, inputs, [output], options)
        return output

    def hold(self, value: ir.Value, tensor: Tensor, order: Order, columns: NDArray[np.int64] | None = None) -> None:
        """Say that `tensor` holds `value`."""
        self._held[value] = Held(tensor, order, columns)

    def requantised(self, tensor: Tensor, quantisation: Quantisation) -> Tensor:
        """The same numbers in codes of another scale; the tensor itself where the scale is the same."""
        if tensor.quantisation is not None and tensor.quantisation.same_codes(quantisation) and tensor.type == "int8":
            return tensor
        return self.step("QUANTIZE", [tensor], tensor.shape, quantisation=quantisation, type="int8")

    # How Values are held

    def held(self, value: ir.Value | None) -> Held:
        """The tensor of a Value that is computed; a DEQUANTIZE is added, once, for float that only exists as codes."""
        if value is None:
            raise Unsupported("an input is absent")
        if value not in self._held:
            content = constant_content(value)
            codes = self.codes_of(value)
            if codes is not None and codes in self._held:
                source = self._held[codes]
                output = self.network.activation("", source.tensor.shape, "float32")
                self.network.operator("DEQUANTIZE", [source.tensor], [output])
                self._held[value] = replace(source, tensor=output)
            elif content is not None:
                self._held[value] = Held(self.constant(value, plain(content.ndim)), plain(content.ndim))
            elif stack_of(value) is not None:
                order = plain(len(self.shape(value)))
                self._held[value] = Held(self.gathered(value, order), order)
            else:
                raise Unsupported(f"its input {value.name!r} is not computed in float")
        return self._held[value]

    def is_held(self, value: ir.Value) -> bool:
        """Whether a tensor holds the Value already."""
        return value in self._held

    def reordered(self, held: Held, order: Order) -> Tensor:
        """The tensor with its axes in `order`: itself, a RESHAPE where only axes of size 1 move, or a TRANSPOSE."""
        if held.columns is not None:
            raise Unsupported("a flattened feature map that is read by something else than one Linear layer")
        if held.order == order:
            return held.tensor
        back = {axis: index for index, axis in enumerate(held.order)}
        perm = tuple(back[axis] for axis in order)
        key = (held.tensor.index, perm)
        if key not in self._reordered:
            shape = [held.tensor.shape[index] for index in perm]
            value_shape = [held.tensor.shape[back[axis]] for axis in range(len(order))]
            if same_memory(value_shape, held.order, order):
                self._reordered[key] = self.reshaped(held.tensor, shape)
            else:
                permutation = self.integers(perm)
                options = schema.TransposeOptionsT()
                self._reordered[key] = self.step("TRANSPOSE", [held.tensor, permutation], shape, options)
        return self._reordered[key]

    def reshaped(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor's memory under another shape."""
        shape = [int(size) for size in shape]
        if tuple(shape) == tensor.shape:
            return tensor
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(batch_free(tensor.shape, shape), np.int32)
        return self.step("RESHAPE", [tensor, self.integers(options.newShape)], shape, options)

    def expanded(self, value: ir.Value | None, result: Result, rank: int, order: Order) -> Tensor:
        """An operand of lower rank as one of `rank`, leading axes of size 1 added as ONNX broadcasts, in `order`."""
        content = None if value is None else constant_content(value)
        if content is not None:
            assert value is not None  # noqa: S101  # it has content
            return self.constant(value, order, rank=rank)
        if value is not None and stack_of(value) is not None:
            return self.gathered(value, order, rank=rank)
        held = self.operand(value, result)
        missing = rank - len(held.order)
        if missing == 0:
            return self.reordered(held, order)
        shape = [1] * missing + list(self.shape(value))
        straight = self.reordered(held, plain(len(held.order)))
        return self.reordered(Held(self.reshaped(straight, shape), plain(rank)), order)

    # Constants

    def constant(self, value: ir.Value, order: Order, rank: int | None = None) -> Tensor:
        """A constant of the graph in `order`, leading axes of size 1 added up to `rank`; one buffer per constant."""
        key = (value, order)
        if key not in self._constants:
            content = constant_content(value)
            assert content is not None  # noqa: S101  # the caller has looked
            if content.dtype == np.float64:
                content = content.astype(np.float32)
            if content.dtype == np.int64:
                content = content.astype(np.int32)
            content = content.reshape([1] * ((rank or content.ndim) - content.ndim) + list(content.shape))
            self._constants[key] = self.network.constant("", content.transpose(order), owner=key)
        return self._constants[key]

    def gathered(self, value: ir.Value, order: Order, rank: int | None = None) -> Tensor:
        """What a loop's body picks of a stack, as `constant`; the stack itself is stored in that order."""
        stack = stack_of(value)
        content = None if stack is None else constant_content(stack)
        assert content is not None  # noqa: S101  # the caller has looked
        lead = [1] * ((rank or content.ndim - 1) - content.ndim + 1)
        content = content.reshape([len(content), *lead, *content.shape[1:]])
        content = content.transpose(0, *(1 + axis for axis in order))
        return self.at_iteration(content, (stack, content.shape, order))

    def at_iteration(
        self, stack: NDArray[Any], owner: tuple[object, ...], quantisation: Quantisation | None = None
    ) -> Tensor:
        """GATHER of stack[iteration]; one buffer and, in this graph, one GATHER for each `owner`."""
        key = ("stack", *owner)
        if key not in self._constants:
            if self.iteration is None:
                raise Unsupported("a constant of an iteration outside of a loop")
            stack = stack.astype(np.float32) if stack.dtype == np.float64 else stack
            stored = self.network.constant("", stack, quantisation, owner=key)
            options = schema.GatherOptionsT()
            options.axis = 0
            self._constants[key] = self.step("GATHER", [stored, self.iteration], stack.shape[1:], options)
        return self._constants[key]

    def integers(self, numbers: Sequence[int] | NDArray[Any]) -> Tensor:
        """An int32 vector: axes, shapes, amounts of padding. Stored once."""
        key = ("integers", tuple(int(number) for number in numbers))
        if key not in self._constants:
            self._constants[key] = self.network.constant("", np.array(key[1], np.int32))
        return self._constants[key]

    def floats(self, content: NDArray[np.floating[Any]] | float) -> Tensor:
        """A float32 constant that is not of the graph. Equal ones are stored once."""
        array = np.asarray(content, np.float32)
        key = ("floats", array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.network.constant("", array, owner=key)
        return self._constants[key]

    def as_first_stored(self, value: ir.Value) -> Held:
        """A kernel of `kernels` as a tensor of this graph."""
        first, content = self.kernels[value], constant_content(value)
        assert content is not None  # noqa: S101  # a kernel
        tensor = first.tensor
        content = content.transpose(first.order).reshape(tensor.shape).astype(tensor.type, copy=False)
        return replace(first, tensor=self.stored(value, first.order, content, tensor.quantisation, str(value.name)))

    def stored(
        self, value: ir.Value, order: Order, content: NDArray[Any], quantisation: Quantisation | None, name: str
    ) -> Tensor:
        """A kernel with its axes in `order`: a buffer for each (kernel, order in memory), a tensor for each scale."""
        scale = None if quantisation is None else (quantisation.scale.tobytes(), quantisation.axis)
        key = ("kernel", value, content.shape, order, scale)
        if key not in self._constants:
            owner = (value, *(axis for axis in order if self.shape(value)[axis] != 1))
            self._constants[key] = self.network.constant(name, content, quantisation, owner=owner)
        return self._constants[key]

    def dequantised(self, stored: Tensor) -> Tensor:
        """float32 of a stored kernel of codes or halves: one DEQUANTIZE for all that read it so."""
        key = ("dequantised", stored.index)
        if key not in self._constants:
            output = self.network.activation("", stored.shape, "float32")
            self.network.operator("DEQUANTIZE", [stored], [output])
            self._constants[key] = output
        return self._constants[key]

    # Padding

    def padded(self, tensor: Tensor, amounts: Sequence[tuple[int, int]], fill: Tensor | None = None) -> Tensor:
        """PAD with zeros, which are the zero point in codes (or PADV2 with `fill`), once for all that need the same."""
        flat = tuple(n for pair in amounts for n in pair)
        key = (tensor.index, (*flat, -1 if fill is None else fill.index))
        if key not in self._padded:
            pairs = ("pairs", flat)
            if pairs not in self._constants:
                self._constants[pairs] = self.network.constant("", np.array(amounts, np.int32))
            table = self._constants[pairs]
            shape = [size + low + high for size, (low, high) in zip(tensor.shape, amounts, strict=True)]
            if fill is None:
                self._padded[key] = self.step("PAD", [tensor, table], shape, schema.PadOptionsT())
            else:
                self._padded[key] = self.step("PADV2", [tensor, table, fill], shape, schema.PadV2OptionsT())
        return self._padded[key]
