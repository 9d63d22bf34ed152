"""RAM that TFLite's XNNPACK delegate takes for a .tflite file, predicted from the file.

Every delegated operator packs its own copy of its kernel, together with its bias and scales. The values between the
operators of a piece lie in one workspace, as large as the piece that needs most: the pieces run one after another, and
share it. Inputs and outputs of a piece lie in TFLite's own arena.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate

from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.ram import Machine
from edgeks.audit.xnnpack.graph import FLOAT16, INT8, INT64, UINT8, DelegateVersion, Graph, Node, read_graph
from edgeks.audit.xnnpack.packing import allocation, arithmetic, is_dense, rounded
from edgeks.audit.xnnpack.partition import UNPACKING, Delegated, Piece, delegate

# Bytes of an operator's objects: measured, with what XNNPACK holds of the values that it reads and writes.
OPERATOR_BYTES: dict[DelegateVersion, int] = {"litert": 2600, "tflite-runtime": 5000}
MAX_PLANNED = 4000  # values of a piece; with more, the time to place them would be felt
PAST_END_BYTES = 32  # of the workspace: kernels may read past its end
CLAMPS = frozenset({"RELU", "RELU6", "RELU_N1_TO_1"})
CLAMPED = frozenset({"ADD", "SUB", "MUL", "DIV", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}) | {
    "TRANSPOSE_CONV",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    *CLAMPS,
}
# These write over an input of the same size that nothing else reads.
IN_PLACE = frozenset(
    {
        "ABS", "ADD", "CEIL", "DIV", "ELU", "FLOOR", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM", "MINIMUM",
        "MUL", "NEG", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "ROUND", "SOFTMAX", "SQRT", "SQUARE",
        "SQUARED_DIFFERENCE", "SUB",
    }
)  # fmt: skip
IN_PLACE_LATER = frozenset({"COS", "DEQUANTIZE", "EXP", "GELU", "LOG", "QUANTIZE", "RSQRT", "SIN", "TANH"})


@dataclass(frozen=True, slots=True)
class KernelCopies:
    """What the delegate holds of the kernel in a buffer: packed copies, and copies dequantised to float32 on the heap.

    `layers`: operators that read it. The bytes are those of all copies.
    """

    buffer: int
    layers: int
    packed_copies: int
    packed_bytes: int
    heap_copies: int
    heap_bytes: int


@dataclass(frozen=True, slots=True)
class XnnpackPlan:
    """What the delegate takes of a file, and the bytes that it allocates for it.

    taken: (number of the subgraph, number of the operator) of each. pieces: (number of the subgraph, piece), in the
    order in which they run. packed_bytes: kernels, with biases and scales.
    workspace_bytes: values between delegated operators, and their scratch. heap_bytes: kernels dequantised or made
    dense before they are packed, tables of pointers into the inputs of convolutions and poolings, operator objects.
    first_run_bytes: the part of the last two that becomes resident with the first inference only (tflite-runtime;
    LiteRT has all at load).
    """

    taken: frozenset[tuple[int, int]]
    pieces: tuple[tuple[int, Piece], ...]
    packed_bytes: int
    workspace_bytes: int
    heap_bytes: int
    first_run_bytes: int
    kernels: tuple[KernelCopies, ...]
    notes: tuple[str, ...]


def plan_xnnpack(model: schema.ModelT, machine: Machine, threads: int, version: DelegateVersion) -> XnnpackPlan:
    """Objects of a .tflite file, as `read_tflite` checks them → what the delegate takes and allocates.

    `threads` changes little: each quantises a tile of rows of its own where the input of a matrix is quantised on the
    fly; all share the packed kernels, the tables and the values.
    """
    taken = set[tuple[int, int]]()
    packed = workspace = heap = tables = 0
    copies: dict[int, _Copies] = defaultdict(_Copies)
    pieces: list[tuple[int, Piece]] = []
    notes: list[str] = []
    for index in range(len(model.subgraphs)):
        graph = read_graph(model, index, version)
        delegated = delegate(graph)
        taken.update((index, node) for node in delegated.taken)
        pieces += [(index, piece) for piece in delegated.pieces]
        heap += _dequantised(delegated, copies)
        for piece in delegated.pieces:
            planned = _Workspace(graph, delegated, piece)
            for number in piece.nodes:
                node = graph.nodes[number]
                if number in delegated.ahead:
                    continue
                try:
                    held = allocation(graph, node, machine)
                except (IndexError, ValueError, ZeroDivisionError, StopIteration):
                    notes.append(f"{node.name}: its shapes contradict each other; it is counted as nothing")
                    continue
                packed += held.packed_bytes
                tables += held.heap_bytes
                heap += OPERATOR_BYTES[version]
                planned.run(node, held.scratch_bytes * (threads if node.name != "BATCH_MATMUL" else 1))
                if node.name == "FULLY_CONNECTED" and any(not s > 0 for s in graph.tensors[node.inputs[1]].scales):
                    notes.append("FULLY_CONNECTED: a scale of its kernel is not positive; LiteRT refuses the file")
                if held.packed_bytes:
                    found = copies[_stored_buffer(graph, node.inputs[1])]
                    found.layers += 1
                    found.packed.append(held.packed_bytes)
            workspace = max(workspace, planned.bytes())
    first_run = workspace + tables if version == "tflite-runtime" else 0
    kernels = tuple(found.of(buffer) for buffer, found in copies.items())
    return XnnpackPlan(
        frozenset(taken),
        tuple(pieces),
        packed,
        workspace,
        heap + tables,
        first_run,
        kernels,
        tuple(dict.fromkeys(notes)),
    )


@dataclass(slots=True)
class _Copies:
    layers: int = 0
    packed: list[int] = field(default_factory=list)
    heap: list[int] = field(default_factory=list)

    def of(self, buffer: int) -> KernelCopies:
        return KernelCopies(buffer, self.layers, len(self.packed), sum(self.packed), len(self.heap), sum(self.heap))


def _dequantised(delegated: Delegated, copies: dict[int, _Copies]) -> int:
    """Constants that the delegate dequantises or makes dense on the heap, where a delegated operator reads them."""
    graph = delegated.graph
    read = {t for number in delegated.taken - delegated.ahead for t in graph.nodes[number].inputs}
    read |= {graph.nodes[number].inputs[0] for number in delegated.ahead}
    total = 0
    for tensor in sorted(graph.static & read - graph.halves):
        size = _bytes(graph, tensor)
        copies[_stored_buffer(graph, tensor)].heap.append(size)
        total += size
    return total


def _stored_buffer(graph: Graph, tensor: int) -> int:
    """Buffer of a constant, behind the DEQUANTIZE or DENSIFY that it may go through."""
    seen = set[int]()
    while tensor not in seen and (maker := graph.made_by.get(tensor)) is not None and maker.name in UNPACKING:
        seen.add(tensor)
        tensor = maker.inputs[0]
    return graph.tensors[tensor].buffer


@dataclass(slots=True)
class _Value:
    """A tensor in the workspace: its bytes, and the first and last step that touch it."""

    size: int
    first: int
    last: int


class _Workspace:
    """The workspace of one piece, operator by operator, as XNNPACK's memory planner lays it out."""

    def __init__(self, graph: Graph, delegated: Delegated, piece: Piece) -> None:
        self._graph, self._piece = graph, piece
        nodes = [graph.nodes[number] for number in piece.nodes if number not in delegated.ahead]
        self._readers = Counter(tensor for node in nodes for tensor in node.inputs)
        self._reader = {tensor: node for node in nodes for tensor in node.inputs}
        self._external = piece.inputs | piece.outputs
        self._values: dict[int, _Value] = {}
        self._scratch: list[_Value] = []
        self._root: dict[int, int] = {}  # a tensor that is written over another → that
        self._step = 0

    def run(self, node: Node, scratch_bytes: int) -> None:
        """The next operator of the piece."""
        graph, inputs = self._graph, list(node.inputs)
        data = inputs[2 if node.name == "TRANSPOSE_CONV" else 1 if node.name == "SPLIT" else 0]
        if graph.version == "litert" and node.name == "FULLY_CONNECTED" and not node.option("keepNumDims", False):
            copy = self._touch(data, RESHAPED - data, self._elements(data))
            inputs = [copy, *inputs[1:]]
        if (
            node.name in ("CONV_2D", "TRANSPOSE_CONV")
            and arithmetic(graph, node) == "qd8"
            and not is_dense(graph, node)
        ):
            x = graph.tensors[data]
            codes = self._touch(
                data, QUANTISED - data - self._step * len(graph.tensors), _quantised(x.elements, x.shape[0])
            )
            inputs = [codes if tensor == data else tensor for tensor in inputs]
        for tensor in inputs:
            self._read(tensor)
        if self._merges(node):
            return
        for tensor in node.outputs:
            self._write(tensor, node, inputs)
        if scratch_bytes:
            self._scratch.append(_Value(rounded(scratch_bytes), self._step, self._step))
        self._step += 1

    def _elements(self, tensor: int) -> int:
        return rounded(_bytes(self._graph, tensor))

    def _touch(self, source: int, made: int, size: int) -> int:
        """An operator of XNNPACK's own ahead of the node: `source` → `made`, which no tensor of the file is."""
        self._read(source)
        self._values[made] = _Value(size, self._step, self._step)
        self._step += 1
        return made

    def _read(self, tensor: int) -> None:
        value = self._values.get(self._root.get(tensor, tensor))
        if value is not None:
            value.last = max(value.last, self._step)

    def _merges(self, node: Node) -> bool:
        """Zeros ahead of a convolution without padding of its own become its padding."""
        if node.name != "PAD" or node.outputs[0] in self._external or self._readers[node.outputs[0]] != 1:
            return False
        reader, amounts = self._reader[node.outputs[0]], self._graph.content(node.inputs[1]) or []
        spatial = len(amounts) == 8 and not any(amounts[place] for place in (0, 1, 6, 7))
        convolution = reader.name in ("CONV_2D", "DEPTHWISE_CONV_2D") and arithmetic(self._graph, reader) != "qd8"
        if not (spatial and convolution and reader.option("padding") == schema.Padding.VALID):
            return False
        self._root[node.outputs[0]] = self._root.get(node.inputs[0], node.inputs[0])
        return True

    def _write(self, tensor: int, node: Node, inputs: list[int]) -> None:
        if tensor in self._external:
            return
        merged = node.name in CLAMPS and self._clamps(inputs[0])
        for source in inputs:
            root = self._root.get(source, source)
            if root in self._values and (merged or self._overwrites(node, source, tensor)):
                self._root[tensor] = root
                self._values[root].last = max(self._values[root].last, self._step)
                return
        self._values[tensor] = _Value(self._elements(tensor), self._step, self._step)

    def _clamps(self, tensor: int) -> bool:
        """Whether a tensor is made only to be clamped, which the operator ahead then does itself."""
        maker = self._graph.made_by.get(tensor)
        return maker is not None and maker.name in CLAMPED and self._readers[tensor] == 1

    def _overwrites(self, node: Node, source: int, tensor: int) -> bool:
        names = IN_PLACE | IN_PLACE_LATER if self._graph.version == "litert" else IN_PLACE
        alone = self._readers[source] == 1 and self._readers[tensor] == 1
        return node.name in names and alone and _bytes(self._graph, source) == _bytes(self._graph, tensor)

    def bytes(self) -> int:
        """Of the workspace: the largest value first, each in the smallest gap that is free while it lives."""
        values = sorted((*self._values.values(), *self._scratch), key=lambda value: -value.size)
        if len(values) > MAX_PLANNED:
            return _most_alive(values) + PAST_END_BYTES
        placed: list[tuple[_Value, int]] = []
        top = 0
        for value in values:
            alive = sorted((at, at + v.size) for v, at in placed if v.first <= value.last and value.first <= v.last)
            start = _smallest_gap(alive, value.size, from_start=self._graph.version == "litert")
            placed.append((value, start))
            top = max(top, start + value.size)
        return top + PAST_END_BYTES if top else 0


def _most_alive(values: list[_Value]) -> int:
    """Bytes of the values that live at one step: what no plan can do without."""
    change: dict[int, int] = defaultdict(int)
    for value in values:
        change[value.first] += value.size
        change[value.last + 1] -= value.size
    return max(accumulate(change[step] for step in sorted(change)))


# Numbers of values that are no tensors of the file: below those, and far apart.
RESHAPED, QUANTISED = -(10**6), -(10**9)


def _smallest_gap(taken: list[tuple[int, int]], size: int, from_start: bool) -> int:
    """Start of the smallest gap between `taken` ranges (sorted) that holds `size`; the end of the last without one.

    `from_start`: the room ahead of the first range counts as well; tflite-runtime's XNNPACK leaves that empty.
    """
    best: tuple[int, int] | None = None
    end = 0 if from_start or not taken else taken[0][0]
    for start, stop in taken:
        if start - end >= max(size, 1) and (best is None or start - end < best[0]):
            best = start - end, end
        end = max(end, stop)
    return end if best is None else best[1]


def _quantised(elements: int, batch: int) -> int:
    """Codes of a tensor that is quantised on the fly, a scale and zero point per image."""
    return rounded(elements) + rounded(8 * (batch + 15)) + 64


def _bytes(graph: Graph, tensor: int) -> int:
    found = graph.tensors[tensor]
    size = 1 if found.type in (INT8, UINT8) else 2 if found.type == FLOAT16 else 8 if found.type == INT64 else 4
    return found.elements * size
