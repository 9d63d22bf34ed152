"""How each weight of a shared kernel is rounded, chosen jointly over all layers that read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgeks.graph.kernels import KernelRead, array, output_channels, reads_by_kernel, required
from edgeks.graph.passes.absorb_batch_norm import absorbed_gain
from edgeks.graph.passes.quantize_kernels import MAX_CODE, symmetric_codes, why_not
from edgeks.quant.activations import activations
from edgeks.wording import counted

# A Gram matrix of K×K is estimated from so many output positions, spread over all samples.
LEAST_POSITIONS, POSITIONS_PER_INPUT = 4096, 4
# All Gram matrices together; kernels beyond it, the largest first, stay rounded to nearest.
MAX_GRAM_BYTES = 1 << 30
# Every input is taken to have this share of the mean power more: what the samples do not show is not free.
DAMPING = 0.01
SEED = 0


@dataclass(frozen=True, slots=True)
class JointRounding:
    """`codes` per kernel name, in the kernel's own layout, and the objective that they reach.

    `objective` and `nearest` are Σ_l E‖a_l·(W − Ŵ)·x_l‖² over all kernels, per sample; `left` names the kernels that
    stay rounded to nearest since their Gram matrices are too large.
    """

    codes: Mapping[str, NDArray[np.int8]]
    objective: float
    nearest: float
    left: tuple[str, ...]

    def __str__(self) -> str:
        share = f", {self.objective / self.nearest:.2f} of the error of rounding to nearest" if self.nearest else ""
        left = f"; to nearest, since they are too large: {', '.join(self.left)}" if self.left else ""
        return f"{counted(len(self.codes), 'kernel')} rounded jointly over their layers{share}{left}"


@dataclass(slots=True)
class _Layer:
    """One layer's part of its kernel's objective: a_l per output channel, and E[x xᵀ] per group, G×K×K."""

    node: ir.Node
    gain: NDArray[np.float64]
    gram: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel as rows of K weights, one per output channel."""

    value: ir.Value
    axis: int
    layers: list[_Layer]

    @property
    def groups(self) -> int:
        return len(self.layers[0].gram)

    def rows(self, content: NDArray[Any]) -> NDArray[Any]:
        """OIHW, OI or IO → O×K."""
        return np.moveaxis(content, self.axis, 0).reshape(content.shape[self.axis], -1)

    def kernel(self, rows: NDArray[np.int8]) -> NDArray[np.int8]:
        """O×K → the kernel's own layout."""
        shape = array(self.value).shape
        moved = (shape[self.axis], *shape[: self.axis], *shape[self.axis + 1 :])
        return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, self.axis))


def adaround(model: ir.Model, samples: NDArray[Any], keep_float: Collection[str] = ()) -> JointRounding:
    """Float graph → codes W_q of every kernel that can be quantised, of least Σ_l E‖a_l·(W − s_W·W_q)·x_l‖².

    That is AdaRound's objective (arXiv 2004.10568, per layer and without its activation function), summed over the
    layers l that read W; x_l is what layer l reads on `samples` (N×C×H×W), a_l the gain of the BN that it absorbs. It
    is quadratic in the error, so that one Gram matrix per layer says all about the samples. The minimum is sought by
    coordinate descent from rounding to nearest (docs/adr/0012): one step up or down for the weight that gains most,
    until none does. No channel ends above where it began. Kernels of layers in `keep_float` are left out.
    """
    kernels, left = _kernels(model, keep_float)
    _fill(model, kernels, samples)
    codes, objective, nearest = {}, 0.0, 0.0
    for kernel in kernels:
        weight = array(kernel.value).astype(np.float64)
        plain, scale = symmetric_codes(weight, kernel.axis)
        steps = kernel.rows(weight) / scale.astype(np.float64)[:, None]
        rounded = kernel.rows(plain).astype(np.float64)
        for channel in range(len(steps)):
            gram = _joint_gram(kernel, channel, len(steps)) * float(scale[channel]) ** 2
            chosen, before, after = round_channel(gram, steps[channel], rounded[channel])
            rounded[channel] = chosen
            nearest, objective = nearest + before, objective + after
        codes[str(kernel.value.name)] = kernel.kernel(rounded.astype(np.int8))
    return JointRounding(codes, objective, nearest, left)


def round_channel(
    gram: NDArray[np.float64], steps: NDArray[np.float64], nearest: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float]:
    """K weights in units of their scale, K×K Gram matrix → (codes, objective of `nearest`, objective of the codes).

    The objective is eᵀ·gram·e with e = codes − steps; |codes| ≤ 127.
    """
    codes, error = nearest.copy(), nearest - steps
    before = float(error @ gram @ error)
    damped = gram + DAMPING * np.mean(np.diag(gram)) * np.eye(len(gram))
    power = np.diag(damped)
    slope = damped @ error
    enough = -1e-9 * float(power.mean())
    for _ in range(10 * len(steps)):
        step = -np.sign(slope)
        change = power - 2 * np.abs(slope)
        change[np.abs(codes + step) > MAX_CODE] = 0
        best = int(np.argmin(change))
        if change[best] >= enough:
            break
        codes[best] += step[best]
        slope += step[best] * damped[:, best]
    error = codes - steps
    after = float(error @ gram @ error)
    return (codes, before, after) if after <= before else (nearest, before, before)


def _joint_gram(kernel: _Kernel, channel: int, channels: int) -> NDArray[np.float64]:
    """Σ_l a_l² E[x_l x_lᵀ] of one output channel, K×K."""
    group = channel * kernel.groups // channels
    total = np.zeros(kernel.layers[0].gram.shape[1:])
    for layer in kernel.layers:
        total += layer.gain[channel] ** 2 * layer.gram[group]
    return total


def _kernels(model: ir.Model, keep_float: Collection[str]) -> tuple[list[_Kernel], tuple[str, ...]]:
    """Kernels to be rounded, with empty Gram matrices, and the names of those that are too large."""
    fitting = {
        value: found
        for value, found in reads_by_kernel(model).items()
        if why_not(value, found) is None
        and _explicit(found)
        and not any(read.node.name in keep_float for read in found)
    }
    sizes = {value: sum(4 * np.prod(_gram_shape(read)) for read in found) for value, found in fitting.items()}
    order = sorted(fitting, key=lambda value: sizes[value])
    within = [v for v, total in zip(order, accumulate(sizes[v] for v in order), strict=True) if total <= MAX_GRAM_BYTES]
    kernels = []
    for value in (v for v in fitting if v in within):
        axis = output_channels(fitting[value][0])
        ones = np.ones(array(value).shape[axis])
        layers = []
        for read in fitting[value]:
            gain = absorbed_gain(read.node)
            layers.append(_Layer(read.node, ones if gain is None else gain, np.zeros(_gram_shape(read), np.float32)))
        kernels.append(_Kernel(value, axis, layers))
    return kernels, tuple(str(value.name) for value in fitting if value not in within)


def _explicit(reads: list[KernelRead]) -> bool:
    """Padding that is spelt out, as torch.onnx.export does, and one number of groups."""
    groups = {read.node.attributes.get_int("group", 1) for read in reads}
    return len(groups) == 1 and all(read.node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" for read in reads)


def _gram_shape(read: KernelRead) -> tuple[int, int, int]:
    weight = array(read.kernel)
    inputs = weight.size // weight.shape[output_channels(read)]
    return read.node.attributes.get_int("group", 1), inputs, inputs


def _fill(model: ir.Model, kernels: list[_Kernel], samples: NDArray[Any]) -> None:
    """One run over the samples: E[x xᵀ] of every layer, x being the inputs of one output position."""
    random = np.random.default_rng(SEED)
    names = [str(required(layer.node.inputs[0]).name) for kernel in kernels for layer in kernel.layers]
    for found in activations(model, list(dict.fromkeys(names)), samples):
        for kernel in kernels:
            for layer in kernel.layers:
                x = found[str(required(layer.node.inputs[0]).name)]
                groups, inputs, _ = layer.gram.shape
                wanted = max(LEAST_POSITIONS, POSITIONS_PER_INPUT * inputs) * len(x) // len(samples) + 1
                rows, positions = _rows(layer.node, x, array(kernel.value).shape[2:], wanted, random)
                grouped = rows.reshape(len(rows), groups, inputs).transpose(1, 0, 2)
                weight = np.float32(positions / max(len(rows), 1) / len(samples))
                layer.gram += (grouped.transpose(0, 2, 1) @ grouped) * weight


def _rows(
    node: ir.Node, x: NDArray[Any], window: tuple[int, ...], wanted: int, random: np.random.Generator
) -> tuple[NDArray[Any], int]:
    """What up to `wanted` output positions of the layer read, a row each, and how many positions there are."""
    if node.op_type != "Conv":
        rows = x.reshape(-1, x.shape[-1])
        return rows[_some(len(rows), wanted, random)], len(rows)
    rank = len(window)
    strides = node.attributes.get_ints("strides", [1] * rank)
    dilations = node.attributes.get_ints("dilations", [1] * rank)
    pads = node.attributes.get_ints("pads", [0] * 2 * rank)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(window, dilations, strict=True)]
    views = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    everywhere = slice(None)
    views = views[(everywhere, everywhere, *(slice(None, None, step) for step in (*strides, *dilations)))]
    places = (views.shape[0], *views.shape[2 : 2 + rank])
    count = int(np.prod(places))
    batch, *where = np.unravel_index(_some(count, wanted, random), places)
    index: tuple[Any, ...] = (batch, everywhere, *where)
    return views[index], count


def _some(count: int, wanted: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(count) if count <= wanted else random.choice(count, wanted, replace=False)
