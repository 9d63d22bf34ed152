"""Integer layers whose activations are quantised on the fly: no calibration, and float between the layers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.batch_norm import affine, has_constant_parameters
from edgeks.graph.kernels import KernelRead, array, output_channels, reads_by_kernel, required, sole_use
from edgeks.graph.passes.quantize_activations import is_network_input
from edgeks.graph.passes.quantize_kernels import UINT8_ZERO_POINT, symmetric_codes
from edgeks.graph.rewrite import drop_unused_initializers, insert_after_value, new_initializer, replace_node

CONV_RANK = 4
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Affine:
    """factor·y + offset per output channel, which the nodes from a layer's output to `last` compute.

    `constant` is the one Value that is the whole offset, where there is one: a bias that layers share stays one.
    """

    factor: Vector
    offset: Vector
    constant: ir.Value | None
    last: ir.Node
    between: tuple[ir.Node, ...]


def quantize_dynamically(model: ir.Model, weights: Literal["int8", "uint8"], skip: Collection[ir.Value] = ()) -> str:
    """conv(x, W) and x·W → integer op on DynamicQuantizeLinear(x) and W_q, then Cast and the scales in float.

    A Value is quantised once for all layers that read it. Conv: ConvInteger → Cast → Mul(s_x) →
    BatchNormalization(s_W·a_l, b_l), which is the layer's own BN and bias with s_W moved into the factor. MatMul and
    Gemm: MatMulInteger → Cast → Mul(s_x·(s_W·a_l)) → Add(b_l), which ONNX Runtime fuses with the quantisation.

    Stay in float, because ONNX Runtime's ConvInteger is slower than float there or the rounding costs most
    (docs/adr/0013): grouped and depthwise convolutions, and layers that read the network's input, unless others that do
    not share the kernel. Kernels of ConvInteger are stored with zero point 128 whatever `weights` says: it is 3 to 4
    times slower with s8 on x86.
    """
    writer = _Writer(model)
    done, kept = 0, []
    for kernel, readers in reads_by_kernel(model).items():
        reason = "as asked" if kernel in skip else _why_not(model, kernel, readers)
        if reason:
            kept.append(f"{readers[0].node.name} ({reason})")
            continue
        axis = output_channels(readers[0])
        codes, scale = symmetric_codes(array(kernel).astype(np.float64), axis)
        is_conv = readers[0].node.op_type == "Conv"
        if not is_conv and axis == 0:
            codes = np.ascontiguousarray(codes.T)
        stored, zero_point = writer.kernel(kernel, codes, unsigned=is_conv or weights == "uint8")
        for read in readers:
            affine = _affine_after(read.node, scale.size)
            write = writer.convolution if is_conv else writer.product
            write(read.node, stored, zero_point, scale.astype(np.float64), affine)
        done += len(readers)
    drop_unused_initializers(model)
    note = f"{done} layers in integers on {len(writer.quantised)} activations quantised on the fly"
    return note + (f"; in float: {', '.join(kept)}" if kept else "")


class _Writer:
    """Adds the integer nodes; constants and quantised activations that several layers need are made once."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.quantised: dict[ir.Value, ir.Node] = {}
        self._constants: dict[str, ir.Value] = {}

    def kernel(self, kernel: ir.Value, codes: NDArray[np.int8], *, unsigned: bool) -> tuple[ir.Value, ir.Value | None]:
        """The stored codes, and their zero point where it is not 0."""
        if not unsigned:
            return new_initializer(self.model, f"{kernel.name}_q", codes), None
        shifted = (codes.astype(np.int16) + UINT8_ZERO_POINT).astype(np.uint8)
        zero_point = self._once("weight_zero_point", np.array(UINT8_ZERO_POINT, np.uint8))
        return new_initializer(self.model, f"{kernel.name}_q", shifted), zero_point

    def convolution(
        self, node: ir.Node, kernel: ir.Value, zero_point: ir.Value | None, scale: Vector, affine: _Affine
    ) -> None:
        """Conv and the BN behind it → ConvInteger, Cast, Mul, BatchNormalization."""
        codes, x_scale, x_zero_point = self._quantise(required(node.inputs[0])).outputs
        inputs = [codes, kernel, x_zero_point, *([zero_point] if zero_point else [])]
        integer = ir.node("ConvInteger", inputs, attributes=dict(node.attributes.items()), name=node.name)
        cast = ir.node("Cast", integer.outputs, attributes={"to": ir.DataType.FLOAT.value}, name="")
        scaled = ir.node("Mul", [cast.outputs[0], x_scale], name="")
        width = scale.size
        parameters = (
            new_initializer(self.model, f"{node.name}.scale", (scale * affine.factor).astype(np.float32)),
            affine.constant or new_initializer(self.model, f"{node.name}.offset", affine.offset.astype(np.float32)),
            self._once(f"zeros_{width}", np.zeros(width, np.float32)),
            self._once(f"ones_{width}", np.ones(width, np.float32)),
        )
        inputs = [scaled.outputs[0], *parameters]
        norm = ir.node("BatchNormalization", inputs, attributes={"epsilon": 0.0}, name="")
        self._replace(node, affine, [integer, cast, scaled, norm])

    def product(
        self, node: ir.Node, kernel: ir.Value, zero_point: ir.Value | None, scale: Vector, affine: _Affine
    ) -> None:
        """MatMul or Gemm and the factors and offsets behind it → MatMulInteger, Cast, Mul, Add."""
        codes, x_scale, x_zero_point = self._quantise(required(node.inputs[0])).outputs
        inputs = [codes, kernel, x_zero_point, *([zero_point] if zero_point else [])]
        integer = ir.node("MatMulInteger", inputs, name=node.name)
        cast = ir.node("Cast", integer.outputs, attributes={"to": ir.DataType.FLOAT.value}, name="")
        name, content = f"{node.name}.scale", (scale * affine.factor).astype(np.float32)
        own = np.any(affine.factor != 1)
        factor = new_initializer(self.model, name, content) if own else self._once(f"{kernel.name}_scale", content)
        product = ir.node("Mul", [x_scale, factor], name="")
        made = [integer, cast, product, ir.node("Mul", [cast.outputs[0], product.outputs[0]], name="")]
        if affine.offset.any():
            offset = affine.constant
            if offset is None:
                offset = new_initializer(self.model, f"{node.name}.offset", affine.offset.astype(np.float32))
            made.append(ir.node("Add", [made[-1].outputs[0], offset], name=""))
        self._replace(node, affine, made)

    def _quantise(self, value: ir.Value) -> ir.Node:
        if value not in self.quantised:
            node = ir.node("DynamicQuantizeLinear", [value], num_outputs=3, name="")
            insert_after_value(self.model, value, [node])
            self.quantised[value] = node
        return self.quantised[value]

    def _once(self, name: str, content: NDArray[np.generic]) -> ir.Value:
        if name not in self._constants:
            self._constants[name] = new_initializer(self.model, name, content)
        return self._constants[name]

    def _replace(self, node: ir.Node, affine: _Affine, made: list[ir.Node]) -> None:
        replaced = affine.last.outputs[0]
        replace_node(self.model, affine.last, made)
        if replaced in self.quantised:  # its reader was rewritten before it
            self.quantised[made[-1].outputs[0]] = self.quantised.pop(replaced)
        if affine.last is not node:
            self.model.graph.remove([node, *affine.between], safe=True)


def _affine_after(node: ir.Node, width: int) -> _Affine:
    """The layer's bias, and what follows it as long as that is a constant per output channel and alone reads it."""
    factor, offset = np.ones(width), np.zeros(width)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        offset = offset + array(bias).astype(np.float64).ravel()
    constant = bias if bias is not None and array(bias).ndim == 1 else None
    last, between = node, list[ir.Node]()
    while (step := _affine_step(node, last, width)) is not None:
        found, a, b = step
        if last is not node:
            between.append(last)
        only_bias = found.op_type == "Add" and not offset.any() and (factor == 1).all()
        constant = next(v for v in found.inputs if v and v.is_initializer()) if only_bias else None
        factor, offset, last = factor * a, offset * a + b, found
    return _Affine(factor, offset, constant, last, tuple(between))


def _affine_step(layer: ir.Node, last: ir.Node, width: int) -> tuple[ir.Node, Vector, Vector] | None:
    """The one node that reads `last`'s output, as a·y + b."""
    node, index = sole_use(last.outputs[0]) or (None, 0)
    if node is None:
        return None
    ones, zeros = np.ones(width), np.zeros(width)
    if node.op_type == "BatchNormalization" and index == 0 and _channels_first(layer):
        return (node, *affine(node)) if has_constant_parameters(node) else None
    if node.op_type in ("Add", "Mul") and layer.op_type != "Conv":
        other = required(node.inputs[1 - index])
        if other.is_initializer() and array(other).shape == (width,) and array(other).dtype == np.float32:
            vector = array(other).astype(np.float64)
            return (node, ones, vector) if node.op_type == "Add" else (node, vector, zeros)
    return None


def _channels_first(layer: ir.Node) -> bool:
    """Whether axis 1 of the layer's output, which a BN behind it scales, holds its output channels."""
    shape = layer.outputs[0].shape
    return layer.op_type in ("Conv", "Gemm") or (shape is not None and len(shape) == 2)


def _why_not(model: ir.Model, kernel: ir.Value, readers: list[KernelRead]) -> str | None:
    """The reason why the layers of a kernel compute in float; None when they can all be integer."""
    if array(kernel).dtype != np.float32 or len(kernel.uses()) != len(readers):
        return "not a float32 kernel that only layers read"
    kinds = {"product" if read.node.op_type in ("MatMul", "Gemm") else read.node.op_type for read in readers}
    if len(kinds) != 1 or len({output_channels(read) for read in readers}) != 1:
        return "read in different ways"
    if all(is_network_input(model, required(read.node.inputs[0])) for read in readers):
        return "reads the network's input"
    reasons = (_why_not_layer(read.node, array(kernel).ndim) for read in readers)
    return next((reason for reason in reasons if reason), None)


def _why_not_layer(node: ir.Node, rank: int) -> str | None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not bias.is_initializer():
        return "bias computed at run time"
    if node.op_type == "Conv":
        return "grouped" if node.attributes.get_int("group", 1) != 1 else None if rank == CONV_RANK else "not 2-D"
    if node.op_type == "MatMul":
        return None if rank == 2 else "not a matrix"
    if node.op_type == "Gemm":
        plain = node.attributes.get_float("alpha", 1.0) == 1.0 == node.attributes.get_float("beta", 1.0)
        width_known = bias is None or (array(bias).ndim <= 2 and array(bias).size > 1)
        return None if plain and width_known and not node.attributes.get_int("transA") else "alpha, beta or transA"
    return f"{node.op_type} has no integer kernel"
