"""Which constants of an ONNX file are kernels, and which layers read each: followed by name through the whole graph."""

from __future__ import annotations

import math
from collections import ChainMap, defaultdict
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from edgeks.audit.stored_kernel import StoredKernel
from edgeks.model_files.onnx_file import Constant, ModelFile, first_output, node_label, read_model_file, subgraphs


@dataclass(frozen=True, slots=True)
class WeightInput:
    """Where an op takes its kernel, the kernel's zero point (None: it has none), and the output channels' axis."""

    index: int
    zero_point: int | None
    output_axis: int


# Where two inputs could hold the kernel, the first that is a constant does. Domains do not matter: com.microsoft and
# ONNX Runtime's own NCHWc and NHWC forms keep the names and the order of inputs.
WEIGHT_INPUTS: dict[str, tuple[WeightInput, ...]] = {
    "Conv": (WeightInput(1, None, 0),),
    "FusedConv": (WeightInput(1, None, 0),),
    "ConvTranspose": (WeightInput(1, None, 1),),
    "ConvInteger": (WeightInput(1, 3, 0),),
    "QLinearConv": (WeightInput(3, 5, 0),),
    "Gemm": (WeightInput(1, None, 1), WeightInput(0, None, 0)),
    "FusedGemm": (WeightInput(1, None, 1), WeightInput(0, None, 0)),
    "QGemm": (WeightInput(3, 5, 1), WeightInput(0, 2, 0)),
    "MatMul": (WeightInput(1, None, -1), WeightInput(0, None, -2)),
    "FusedMatMul": (WeightInput(1, None, -1), WeightInput(0, None, -2)),
    "MatMulInteger": (WeightInput(1, 3, -1), WeightInput(0, 2, -2)),
    "MatMulIntegerToFloat": (WeightInput(1, 5, -1),),
    "DynamicQuantizeMatMul": (WeightInput(1, 3, -1),),
    "QLinearMatMul": (WeightInput(3, 5, -1), WeightInput(0, 2, -2)),
}

# A constant that goes through these on its first input is still the same kernel; so is its product with another.
TRANSPARENT_OPS = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "Identity", "Cast", "CastLike"}
    | {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
)  # fmt: skip
GRAPH_OUTPUT = "graph output"
# A kernel goes through a few of them; each reader holds all that are on its way, and a made-up file has thousands.
MAX_VIA = 64


@dataclass(frozen=True, slots=True)
class Reader:
    """One use of a constant by a node that computes with it; `via` are the transparent nodes on the way, in order.

    `weight` is set where the constant is the kernel of the node. `zero_point` names the zero point's constant. The
    node is the one of the graph at `graph_path` that makes `output`, and takes the constant as its input `index`.

    `trips`: how often it runs, in a Loop whose trip count is a constant. `stacked`: each trip gathers another slice of
    the constant.
    """

    node: str
    op_type: str
    via: tuple[NodeProto, ...]
    weight: WeightInput | None
    zero_point: Constant | None
    graph_path: str = ""
    output: str = ""
    index: int = 0
    trips: int = 1
    stacked: bool = False

    @property
    def dequantizers(self) -> tuple[str, ...]:
        """Names of the DequantizeLinear nodes on the way."""
        return tuple(node_label(node) for node in self.via if node.op_type == "DequantizeLinear")


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A constant that is the weight of `layers` (node names, in graph order; one per use). Compared by identity."""

    constant: Constant
    layers: tuple[str, ...]
    readers: tuple[Reader, ...]

    @property
    def name(self) -> str:
        """Name of the constant."""
        return self.constant.name

    @property
    def dtype(self) -> str:
        """Data type as stored, as numpy calls it."""
        return self.constant.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as stored (Conv: OIHW)."""
        return self.constant.shape

    @property
    def stored_bytes(self) -> int:
        """Bytes that the kernel takes in the file."""
        return self.constant.stored_bytes

    @property
    def runs(self) -> tuple[int, ...]:
        """How often each of `layers` runs, that is, of how many layers of the network it does the work."""
        return runs_of(self.readers)

    @property
    def count(self) -> int:
        """How many kernels the constant holds: more than one where each trip of a loop gathers another."""
        return kernels_in(self.constant, self.readers)

    def values(self) -> NDArray[Any]:
        """The kernel with the output channels on axis 0 and the zero point subtracted: comparable with any other."""
        return np.asarray(self.stored()[...])

    def stored(self) -> StoredKernel:
        """What `values` gives, read from the file some channels at a time."""
        kernel, shape, zero_point = self.constant, self.shape, None
        reader = self.readers[0]
        if reader.weight is None or len(shape) < 2 or reader.stacked:
            return StoredKernel(kernel.array, shape, kernel.numpy_dtype)
        axis = reader.weight.output_axis % len(shape)
        if len(shape) == 2 and sum(node.op_type == "Transpose" for node in reader.via) % 2:
            axis = 1 - axis
        point = reader.zero_point
        if point is not None and kernel.numpy_dtype.kind in "iu" and math.prod(point.shape) in (1, shape[axis]):
            zero_point = point.array().reshape(-1)
        return StoredKernel(kernel.array, shape, kernel.numpy_dtype, axis, zero_point)


def list_kernels(path: Path) -> tuple[Kernel, ...]:
    """ONNX file → its kernels, in file order.

    Raises:
        ModelFileError: the file is missing, not ONNX, cut short, or contradicts itself.
    """
    model = read_model_file(path)
    return kernels_of(model, readers_of(model))


def kernels_of(model: ModelFile, readers: dict[Constant, tuple[Reader, ...]]) -> tuple[Kernel, ...]:
    """The constants that at least one node reads as its weight."""
    kernels = []
    for constant in model.all_constants():
        weight_readers = tuple(reader for reader in readers.get(constant, ()) if reader.weight is not None)
        if weight_readers:
            kernels.append(Kernel(constant, tuple(reader.node for reader in weight_readers), weight_readers))
    return tuple(kernels)


def runs_of(readers: Iterable[Reader]) -> tuple[int, ...]:
    """How often each reader runs, at least once."""
    return tuple(max(1, reader.trips) for reader in readers)


def kernels_in(constant: Constant, readers: Iterable[Reader]) -> int:
    """How many kernels a constant holds: one on each place of its first axis where the trips of a loop gather them."""
    return max(1, constant.shape[0]) if any(reader.stacked for reader in readers) else 1


def readers_of(model: ModelFile) -> dict[Constant, tuple[Reader, ...]]:
    """Every constant → the nodes that compute with it, directly or through transparent nodes; bodies included."""
    walk = _Walk(model)
    walk.graph(model.proto.graph, "", ChainMap(), 1)
    return {constant: tuple(readers) for constant, readers in walk.readers.items()}


@dataclass(frozen=True, slots=True)
class _Source:
    """What a name stands for: a constant, seen through some transparent nodes."""

    constant: Constant
    via: tuple[NodeProto, ...] = ()
    zero_point: Constant | None = None
    stacked: bool = False


class _Walk:
    """One pass in node order; a name that is not in the scope is not a constant."""

    def __init__(self, model: ModelFile) -> None:
        self.readers: dict[Constant, list[Reader]] = defaultdict(list)
        self._model = model

    def graph(self, graph: GraphProto, graph_path: str, scope: ChainMap[str, _Source], trips: int) -> None:
        constants = self._model.constants[graph_path]
        for name, constant in constants.items():
            scope[name] = _Source(constant)
        for node in graph.node:
            for body_path, body in subgraphs(node, graph_path):
                self.graph(body, body_path, scope.new_child(), trips * self._trips(node, body_path, body, scope))
            if node.op_type == "Gather" and graph_path and self._gathers(node, graph, scope):
                continue
            if node.op_type != "Constant":
                self._node(node, graph_path, scope, trips)
        for value in graph.output:
            if value.name in scope:
                self._read(scope[value.name], Reader(GRAPH_OUTPUT, GRAPH_OUTPUT, (), None, None))

    @staticmethod
    def _gathers(node: NodeProto, body: GraphProto, scope: MutableMapping[str, _Source]) -> bool:
        """Whether it takes the slice of a constant that this trip is about; its output stands for the constant then."""
        source = scope.get(node.input[0]) if len(node.input) == 2 else None
        axis = sum(attribute.i for attribute in node.attribute if attribute.name == "axis")
        if source is None or source.via or axis or not body.input or node.input[1] != body.input[0].name:
            return False
        scope[node.output[0]] = _Source(source.constant, (node,), None, stacked=True)
        return True

    def _node(self, node: NodeProto, graph_path: str, scope: MutableMapping[str, _Source], trips: int) -> None:
        sources = [scope.get(name) if name else None for name in node.input]
        first = sources[0] if sources and node.op_type in TRANSPARENT_OPS and len(node.output) == 1 else None
        followed = first or _scaled_constant(node, sources)
        if followed is not None and len(followed.via) >= MAX_VIA:
            followed = None
        if followed is not None:
            zero_point = followed.zero_point
            if node.op_type == "DequantizeLinear" and len(sources) > 2 and sources[2] is not None:
                zero_point = sources[2].constant
            via = (*followed.via, node)
            scope[node.output[0]] = _Source(followed.constant, via, zero_point, followed.stacked)
        weight = next((w for w in _weight_inputs(node) if w.index < len(sources) and sources[w.index]), None)
        for index, source in enumerate(sources):
            if source is None or source is followed:
                continue
            rank = len(source.constant.shape) - source.stacked
            is_weight = weight is not None and weight.index == index and rank > 1
            zero_point = source.zero_point
            if is_weight and weight and weight.zero_point is not None and weight.zero_point < len(sources):
                own = sources[weight.zero_point]
                zero_point = own.constant if own else None
            kernel = weight if is_weight else None
            place = graph_path, first_output(node), index, trips, source.stacked
            self._read(source, Reader(node_label(node), node.op_type, source.via, kernel, zero_point, *place))

    def _trips(self, node: NodeProto, path: str, body: GraphProto, scope: ChainMap[str, _Source]) -> int:
        """How often a Loop's body runs, by its constant trip count; 1 for what is no Loop or does not say.

        A Loop of which a condition may end before does not say.
        """
        count = scope.get(node.input[0]) if node.op_type == "Loop" and node.input else None
        if count is None or len(body.input) < 2 or not body.output:
            return 1
        going_on, made_by = body.output[0].name, {name: inner for inner in body.node for name in inner.output}
        while going_on in made_by and made_by[going_on].op_type == "Identity":
            going_on = made_by.pop(going_on).input[0]
        inside = self._model.constants[path].get(going_on)
        behind = scope.get(going_on) if inside is None and going_on not in made_by else None
        lasting = inside or (behind.constant if behind else None)
        if going_on != body.input[1].name and _number(lasting) != 1:
            return 1
        given = scope.get(node.input[1]) if len(node.input) > 1 else None
        if any(node.input[1:2]) and _number(given.constant if given else None) != 1:
            return 1
        trips = _number(count.constant)
        return 1 if trips is None else max(0, trips)

    def _read(self, source: _Source, reader: Reader) -> None:
        self.readers[source.constant].append(reader)


def _number(constant: Constant | None) -> int | None:
    """A whole number or a truth value that is a constant of one element."""
    if constant is None or math.prod(constant.shape) != 1 or constant.numpy_dtype.kind not in "iub":
        return None
    return int(constant.array().reshape(-1)[0])


def _scaled_constant(node: NodeProto, sources: list[_Source | None]) -> _Source | None:
    """The kernel of a product of two constants, kernel times scale: the one of 8 bits, or else the larger one."""
    first, second = sources if node.op_type == "Mul" and len(sources) == 2 else (None, None)
    if first is None or second is None:
        return None
    eight_bits = [source for source in (first, second) if source.constant.dtype in ("int8", "uint8")]
    if len(eight_bits) == 1:
        return eight_bits[0]
    sizes = math.prod(first.constant.shape), math.prod(second.constant.shape)
    return None if sizes[0] == sizes[1] else first if sizes[0] > sizes[1] else second


def _weight_inputs(node: NodeProto) -> tuple[WeightInput, ...]:
    inputs = WEIGHT_INPUTS.get(node.op_type, ())
    flags = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type in ("Gemm", "FusedGemm", "QGemm") and flags.get("transB"):
        return (WeightInput(inputs[0].index, inputs[0].zero_point, 0), *inputs[1:])
    return inputs
