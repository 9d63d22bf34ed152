"""The kernel and the bias of a layer, as TFLite's operators read them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.formats.tflite.layout import same_memory
from edgeks.formats.tflite.lowering import Held, Lowering, Result
from edgeks.formats.tflite.network import Quantisation, Tensor
from edgeks.formats.tflite.ops.per_iteration import per_channel
from edgeks.formats.tflite.values import WITH_KERNEL, Unsupported, constant_content, quantised_on_the_fly, stack_of

# Which axis of the graph's kernel each axis of the operator's is; None: an axis of size 1 that the graph has not.
Arrangement = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of the graph: codes with a scale per output channel, or float32 or float16 numbers."""

    value: ir.Value
    content: NDArray[Any]
    scale: NDArray[np.float32] | None
    dequantize: bool  # the graph makes float of the codes for this one layer (DequantizeLinear)
    gain: NDArray[np.float32] | None = None  # trips × channels: by what `scale` is wrong in each iteration of a loop


def kernel_of(node: ir.Node, index: int = 1) -> Kernel | None:
    """Input `index` of `node` as a kernel; None where it is computed at run time."""
    weight = node.inputs[index]
    if weight is None:
        return None
    content = constant_content(weight)
    if content is not None:
        return Kernel(weight, content.astype(np.float32) if content.dtype == np.float64 else content, None, False)
    producer = weight.producer()
    if producer is None:
        return None
    if producer.op_type == "DequantizeLinear":
        return _dequantised(producer)
    scale = None
    if producer.op_type == "Mul" and producer.inputs[0] is not None and producer.inputs[1] is not None:
        scale = constant_content(producer.inputs[1])
        producer = producer.inputs[0].producer() if scale is not None else None
    if producer is None or producer.op_type != "Cast" or producer.inputs[0] is None:
        return None
    content = constant_content(producer.inputs[0])
    if content is None or content.dtype not in ((np.int8,) if scale is not None else (np.float16,)):
        return None
    return Kernel(producer.inputs[0], content, None if scale is None else scale.ravel(), False)


def _dequantised(node: ir.Node) -> Kernel | None:
    codes, scale = node.inputs[0], node.inputs[1]
    content = None if codes is None else constant_content(codes)
    factors = None if scale is None else constant_content(scale)
    own = None
    if stack_of(scale) is not None and (stack := per_channel(scale)) is not None:
        factors = np.where(stack[0] == 0, 1, np.abs(stack[0]))  # XNNPACK takes positive scales
        own = stack / factors
    if codes is None or content is None or factors is None:
        return None
    zero = constant_content(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if content.dtype != np.int8 or (zero is not None and zero.any()):
        raise Unsupported(f"its kernel is {content.dtype} with a zero point; TFLite's are int8 around 0")
    return Kernel(codes, content, factors.ravel().astype(np.float32), True, own)


def layers_of(kernel: Kernel) -> list[ir.Node]:
    """Every layer that reads a kernel, directly or through what makes float of it."""
    found, values = [], [kernel.value]
    for value in values:
        for node, _ in value.uses():
            if node.op_type in WITH_KERNEL:
                found.append(node)
            elif node.op_type in ("DequantizeLinear", "Cast", "Mul"):
                values += node.outputs
    return found


def kernel_tensor(
    ctx: Lowering,
    kernel: Kernel,
    arrangement: Arrangement,
    axis: int,
    *,
    codes: bool,
    columns: NDArray[np.int64] | None = None,
) -> Tensor:
    """The kernel as an operator takes it, output channels along `axis`: as codes, or as float32.

    Codes and halves that are wanted as float32 go through one DEQUANTIZE for all layers that read them so. A layer that
    reads the kernel in another order than the first one (a decoder tied to its encoder) reads a TRANSPOSE of it.
    `columns`: of the last axis, for a kernel that no other layer reads.
    """
    order = tuple(axis for axis in arrangement if axis is not None)
    stored = ctx.kernels.get(kernel.value)
    if stored is not None and not codes and not same_memory(kernel.content.shape, stored.order, order):
        own = ctx.as_first_stored(kernel.value).tensor
        own = own if own.type == "float32" else ctx.dequantised(own)
        return ctx.reshaped(ctx.reordered(Held(own, stored.order), order), _shape(kernel, arrangement))
    content = kernel.content.transpose(order).reshape(_shape(kernel, arrangement))
    content = content if columns is None else content[..., columns]
    quantisation = None if kernel.scale is None else Quantisation(kernel.scale, 0, axis)
    tensor = ctx.stored(kernel.value, order, content, quantisation, str(kernel.value.name))
    if len(order) == len(arrangement) and columns is None:
        ctx.kernels.setdefault(kernel.value, Held(tensor, order))
    return tensor if codes or tensor.type == "float32" else ctx.dequantised(tensor)


def of_one_scale(kernel: Kernel) -> Kernel:
    """A kernel for activations that are quantised on the fly: one scale where all channels have the same.

    tflite-runtime 2.14 takes equal ones for one, and gives the bias alone (tests/test_tflite_facts.py).
    """
    equal = kernel.scale is not None and kernel.scale.size > 1 and bool((kernel.scale == kernel.scale[0]).all())
    return replace(kernel, scale=None if kernel.scale is None else kernel.scale[:1]) if equal else kernel


def _shape(kernel: Kernel, arrangement: Arrangement) -> list[int]:
    return [1 if axis is None else kernel.content.shape[axis] for axis in arrangement]


def node_has_bias(node: ir.Node) -> bool:
    """Whether the graph gives the layer a bias."""
    return len(node.inputs) > 2 and node.inputs[2] is not None


def own_bias(node: ir.Node, gain: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """The bias that is added behind the layer: one that differs from iteration to iteration, or comes after `gain`."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return per_channel(value) if stack_of(value) is not None or gain is not None else None


def bias_tensor(ctx: Lowering, node: ir.Node, result: Result, kernel: Kernel, source: Tensor) -> Tensor:
    """The bias: int32 with the scale s_x·s_W of its own layer where the result is in codes, else float32.

    Zeros where the layer has none: TFLite's convolutions ask for one. int32 biases are never shared, for XNNPACK's
    weight cache tells layers apart by them (tests/model_files/test_tflite_weight_cache.py), but for the zeros of layers
    that have kernel and scales in common: those pack the same.
    """
    value = node.inputs[2] if len(node.inputs) > 2 and own_bias(node, kernel.gain) is None else None
    width = result.shape[1] if node.op_type in ("Conv", "ConvTranspose") else result.shape[-1]
    if value is None:
        if result.quantisation is None:
            return ctx.floats(np.zeros(width))
        return _int32(ctx, np.zeros(width), kernel, source, owner=_packed_with(kernel, source, result))
    dequantize = value.producer()
    if dequantize is None:
        content = constant_content(value)
        if content is None or result.quantisation is not None:
            raise Unsupported("its bias is computed at run time, or float in an integer layer")
        if content.size not in (1, width):
            raise Unsupported(f"a bias of shape {content.shape}; legal: one number per output channel")
        one_each = content.ndim == 1 and content.size == width
        return ctx.constant(value, (0,)) if one_each else ctx.floats(np.broadcast_to(content.ravel(), width))
    stored = dequantize.inputs[0]
    codes = None if stored is None or dequantize.op_type != "DequantizeLinear" else constant_content(stored)
    if codes is None or stored is None or dequantize.inputs[1] is None:
        raise Unsupported("its bias is computed at run time")
    scale = constant_content(dequantize.inputs[1])
    if scale is None:
        raise Unsupported("its bias is computed at run time")
    if result.quantisation is None:
        return ctx.floats(codes.astype(np.float64) * scale)
    return _int32(ctx, codes, kernel, source)


def _int32(
    ctx: Lowering, codes: NDArray[Any], kernel: Kernel, source: Tensor, owner: tuple[object, ...] | None = None
) -> Tensor:
    assert kernel.scale is not None and source.quantisation is not None  # noqa: S101  # an integer layer
    scale = (source.quantisation.scale * kernel.scale).astype(np.float32)
    return ctx.network.constant("", codes.astype(np.int32), Quantisation(scale, 0, 0), owner=owner)


def _packed_with(kernel: Kernel, source: Tensor, result: Result) -> tuple[object, ...]:
    """All that XNNPACK packs with the kernel of an integer layer without a bias."""
    assert kernel.scale is not None and source.quantisation is not None  # noqa: S101  # an integer layer
    assert result.quantisation is not None  # noqa: S101  # as well
    read, given = source.quantisation, result.quantisation
    return ("zeros", kernel.value, kernel.scale.tobytes(), read.scale.tobytes(), read.zero_point, given.scale.tobytes())


def through_dynamic(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """The float Value behind DynamicQuantizeLinear → DequantizeLinear, and whether there is one."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "DequantizeLinear":
        source = quantised_on_the_fly(node.inputs[0])
        if source is not None:
            return source, True
    return value, False
