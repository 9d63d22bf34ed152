"""Compute: multiply-accumulates, parameters and bytes of every layer, and the least time that they take on a board.

One multiply-accumulate (MAC) is one product that is added to a sum: a convolution has output elements × kernel elements
per output channel, a matrix product output elements × the length of the sums. Products with padding count, as in the
papers; `least_macs` leaves them out. Element by element arithmetic (Add, Mul, BatchNormalization, Gelu) has no MACs.

A parameter is one element of a constant that is a weight of the network: kernels, biases, the γ and β of a
normalisation, factors and summands of more than one element. Scales, zero points, running statistics, shapes and single
numbers are none. docs/analysers.md says where that differs from what torch and other tools count.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeks.target import Precision, Target

GIGA = 1e9
MAX_TAPS = 10_000  # along one axis; no network has such kernels, a damaged file may


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One node that multiplies or reads parameters. All figures are per inference: of all `runs` of a loop's body.

    `least_macs` leaves out products with padding. `parameters` and `weight_bytes` are those of the constants that the
    layer reads (kernel, bias, …), `kernel` names the kernel among them. Activations: an op between DequantizeLinear and
    QuantizeLinear reads and writes the codes. `precision` is the one that the layer can be computed in. `output_shape`
    is None, and MACs and bytes of activations are 0, where the file does not say the shapes.
    """

    name: str
    op_type: str
    output_shape: tuple[int, ...] | None
    runs: int
    macs: int
    least_macs: int
    parameters: int
    kernel: str | None
    weight_bytes: int
    input_bytes: int
    output_bytes: int
    precision: Precision

    @property
    def bytes_moved(self) -> int:
        """Weights and activations, each as often as the layer runs."""
        return self.weight_bytes + self.input_bytes + self.output_bytes

    @property
    def arithmetic_intensity(self) -> float | None:
        """MACs per byte moved; None where a shape is not known."""
        return self.macs / self.bytes_moved if self.output_shape is not None and self.bytes_moved else None


@dataclass(frozen=True, slots=True)
class Compute:
    """Layers in graph order, and their totals per inference, with a batch of 1 where the file leaves it open.

    `parameters` counts every constant once, `parameters_unshared` once for each layer that reads it (and each run).
    `weight_bytes` are the bytes of `parameters`; a layer that looks rows up reads only those. `elementwise` is how many
    elements the element by element ops write. `unknown` says what the file does not tell, and what was assumed.
    """

    layers: tuple[LayerCost, ...]
    parameters: int
    parameters_unshared: int
    weight_bytes: int
    elementwise: int
    unknown: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def incomplete(self) -> bool:
        """Whether there are layers whose shapes the file does not say: `macs` has none of theirs."""
        return any(layer.output_shape is None for layer in self.layers)

    @property
    def gflops(self) -> float:
        """10⁹ operations as the papers count them: 2 for a multiply-accumulate, nothing else."""
        return 2 * self.macs / GIGA

    @property
    def weight_bytes_read(self) -> int:
        """Bytes of weights that one inference reads, from cache or from memory: a shared kernel once per layer."""
        return sum(layer.weight_bytes for layer in self.layers)


@dataclass(frozen=True, slots=True)
class LatencyBound:
    """No inference of this network on this board takes less than `seconds`; a real one takes several times as long."""

    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The longer of the two: at best they overlap in full."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def limited_by(self) -> Literal["compute", "memory"]:
        """Which of the two that is."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"


def latency_bound(compute: Compute, target: Target) -> LatencyBound | None:
    """The least seconds of one inference on the target's board; None where the target does not give its rates.

    Compute: every layer's `least_macs` at the peak rate of its precision on the target's threads. Memory: every weight
    once, at the peak rate of the memory, less what the caches may still hold of the inference before; activations may
    stay in the caches and do not count. It holds for direct multiplication in the precision of the file (a Winograd
    convolution multiplies less), for the branch of an If with the most MACs, and for one run of a loop whose length is
    not known.
    """
    board = target.board
    if board is None or board.memory_gb_per_s is None or board.fp32_gmac_per_s is None or board.int8_gmac_per_s is None:
        return None
    threads = min(target.session.threads, board.cores) / board.cores
    # Cores that compute in half precision at all do it at twice the rate; the others at that of float32.
    rates: dict[Precision, float] = {
        "fp32": board.fp32_gmac_per_s,
        "fp16": 2 * board.fp32_gmac_per_s,
        "int8": max(board.int8_gmac_per_s, board.fp32_gmac_per_s),
    }
    compute_seconds = sum(layer.least_macs / (rates[layer.precision] * threads * GIGA) for layer in compute.layers)
    from_memory = max(0, compute.weight_bytes - board.cache_bytes)
    return LatencyBound(compute_seconds, from_memory / (board.memory_gb_per_s * GIGA))


@dataclass(frozen=True, slots=True)
class ReadConstant:
    """A constant that holds parameters, as one layer reads it. `identity` is the same for all readers of one constant.

    `looked_up`: the layer reads some rows of it, `read_bytes` in one run, and has them to itself. `slices`: each run of
    a loop's body reads one of them.
    """

    identity: Hashable
    elements: int
    read_bytes: int
    looked_up: bool = False
    slices: int = 1


@dataclass(frozen=True, slots=True)
class Counted:
    """A layer and the constants that it reads."""

    cost: LayerCost
    constants: tuple[ReadConstant, ...]


def sum_up(counted: Sequence[Counted], elementwise: int, unknown: Iterable[str]) -> Compute:
    """Layers → Compute, with every constant once in `parameters` and `weight_bytes`."""
    elements: dict[Hashable, int] = {}
    read_bytes: dict[Hashable, int] = {}
    unshared = 0
    for layer in counted:
        for constant in layer.constants:
            times = 1 if constant.looked_up else max(1, layer.cost.runs // constant.slices)
            elements[constant.identity] = constant.elements
            read_bytes[constant.identity] = max(read_bytes.get(constant.identity, 0), constant.read_bytes)
            unshared += constant.elements * times
    return Compute(
        layers=tuple(layer.cost for layer in counted),
        parameters=sum(elements.values()),
        parameters_unshared=unshared,
        weight_bytes=sum(read_bytes.values()),
        elementwise=elementwise,
        unknown=tuple(dict.fromkeys(unknown)),
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a convolution: the padded tensor's `size`, and the `positions` of the kernel on it.

    That is input and output; of a transposed convolution, output and input.
    """

    size: int
    positions: int
    taps: int
    stride: int
    dilation: int
    pad: int

    def inside(self) -> int:
        """How many of positions × taps fall on the tensor and not on its padding."""
        if self.taps > MAX_TAPS or self.stride < 1 or self.dilation < 1:
            return 0
        count = 0
        for tap in range(self.taps):
            offset = self.pad - tap * self.dilation
            first = max(0, -(-offset // self.stride))
            last = min(self.positions - 1, (self.size - 1 + offset) // self.stride)
            count += max(0, last - first + 1)
        return count


def same_padding(size: int, positions: int, taps: int, stride: int, dilation: int, *, upper: bool = True) -> int:
    """Padding ahead of the tensor where it is SAME; the odd element goes behind it, unless not `upper`."""
    total = max(0, (positions - 1) * stride + (taps - 1) * dilation + 1 - size)
    return total // 2 if upper else total - total // 2


def without_padding(macs: int, axes: Sequence[Axis]) -> int:
    """MACs of a convolution with those on padding taken out."""
    full = math.prod(axis.positions * axis.taps for axis in axes)
    return macs * math.prod(axis.inside() for axis in axes) // full if full else macs
