"""The graph takes raw pixels: the preprocessing's normalisation goes into it, and into the stem where that is exact."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.kernels import KernelRead, array, kernel_read
from edgeks.graph.marks import carry_marks, marks
from edgeks.graph.passes.quantize_activations import Range
from edgeks.graph.rewrite import new_initializer
from edgeks.preprocessing import Preprocessing

BRIGHTEST = 255


def raw_pixels(model: ir.Model, preprocessing: Preprocessing) -> str:
    """Float input x = (p/255 − mean)/std → uint8 input p, N×C×H×W, behind a DequantizeLinear of scale 1/255.

    conv(x, W) + b = conv(p/255, W/std) + (b − Σ W·mean/std) where the stem alone reads its kernel and pads nothing: a
    padded stem reads zeros of the normalised space, which no pixel is. There, where training decided the kernel's
    scale, and for any other reader of the input, Mul and Add normalise in float.
    """
    normalised = model.graph.inputs[0]
    mean, std = (np.asarray(values, np.float64) for values in (preprocessing.mean, preprocessing.std))
    reads = [_foldable(node, index) for node, index in normalised.uses()]
    fold = bool(reads) and all(read is not None for read in reads) and not normalised.is_graph_output()
    pixels = ir.Value(name=normalised.name, shape=normalised.shape, type=ir.TensorType(ir.DataType.UINT8))
    made = [
        ir.node(
            "DequantizeLinear",
            [
                pixels,
                new_initializer(model, "pixel_scale", np.array(1 / BRIGHTEST, np.float32)),
                new_initializer(model, "pixel_zero_point", np.array(0, np.uint8)),
            ],
        )
    ]
    made[0].outputs[0].name = f"{normalised.name}_brightness"
    if not fold:
        for op, content in (("Mul", 1 / std), ("Add", -mean / std)):
            constant = new_initializer(model, f"pixel_{op.lower()}", content.reshape(1, -1, 1, 1).astype(np.float32))
            made.append(ir.node(op, [made[-1].outputs[0], constant], name=f"{normalised.name}.{op}"))
            made[-1].outputs[0].name = f"{normalised.name}_{op.lower()}"
    for node in made:
        node.outputs[0].shape, node.outputs[0].dtype = normalised.shape, ir.DataType.FLOAT
    model.graph.insert_before(model.graph[0], made)
    if not fold:
        carry_marks(normalised, made[-1].outputs[0])
    normalised.replace_all_uses_with(made[-1].outputs[0], replace_graph_outputs=True)
    model.graph.inputs[0] = pixels
    if not fold:
        return "normalisation of raw pixels as Mul and Add in float"
    for read in reads:
        if read is not None:
            _fold(model, read, mean, std)
    return f"normalisation of raw pixels folded into {', '.join(str(read.node.name) for read in reads if read)}"


def pixel_ranges(model: ir.Model) -> dict[str, Range]:
    """Name of the dequantised pixels → 0…1, whatever the samples show: an integer stem then reads the pixels' codes."""
    return {
        str(node.outputs[0].name): Range(0.0, 1.0)
        for node in model.graph
        if node.op_type == "DequantizeLinear" and node.inputs[0] in model.graph.inputs
    }


def _foldable(node: ir.Node, index: int) -> KernelRead | None:
    """The read of a convolution without zero padding that alone reads its kernel; None for any other reader."""
    read = kernel_read(node)
    if read is None or node.op_type != "Conv" or index != 0 or read.dequantize is not None:
        return None
    if marks(read.kernel):  # training decided the scale of this very kernel
        return None
    if any(node.attributes.get_ints("pads", ())) or node.attributes.get_string("auto_pad", "").startswith("SAME"):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if len(read.kernel.uses()) != 1 or (bias is not None and not bias.is_initializer()):
        return None
    return read


def _fold(model: ir.Model, read: KernelRead, mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
    """W → W/std and b → b − Σ W·mean/std, in place."""
    node, kernel = read.node, read.kernel
    weight = array(kernel).astype(np.float64)
    outputs, inputs = weight.shape[:2]
    groups = node.attributes.get_int("group", 1)
    channel = np.arange(outputs)[:, None] // (outputs // groups) * inputs + np.arange(inputs)  # O × I/groups
    shape = (outputs, inputs, *[1] * (weight.ndim - 2))
    weight = weight / std[channel].reshape(shape)
    shift = (weight * mean[channel].reshape(shape)).reshape(outputs, -1).sum(1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    moved = (0 if bias is None else array(bias).astype(np.float64)) - shift
    kernel.const_value = ir.tensor(weight.astype(np.float32), name=kernel.name)
    node.resize_inputs(3)
    node.replace_input_with(2, new_initializer(model, f"{node.name}.bias_pixels", moved.astype(np.float32)))
