"""The activation memory that TFLite plans for a .tflite file, as its ArenaPlanner and SimpleMemoryArena do it.

Every graph has two arenas. In the first, a tensor lives from the operator that makes it to the last that reads it,
graph inputs all the time, and graph outputs to the end. Tensors that live all the time are placed first, then the
others, largest first, each in the smallest gap that holds it beside those alive with it, at multiples of 64 bytes. In
the second, the persistent one, are variables and what is computed once and kept. Operators that copy or work element by
element may take over the buffer of what they read (IN_PLACE).

Graphs that WHILE, IF and CALL_ONCE run have arenas of their own, which stay allocated beside the first graph's. What a
body of WHILE, or a branch of IF, reads from outside has no room of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass

from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.alignment import rounded_up
from edgeks.audit.tflite.libstdcxx_order import std_sort, unordered_set_order
from edgeks.audit.tflite.pointwise import POINTWISE
from edgeks.audit.tflite.prepare import KEPT, Node, PreparedGraph, called_graphs, prepare
from edgeks.audit.tflite.scratch import WITHOUT_RULE, Kernels
from edgeks.audit.tflite.tensors import Graph, read_graphs
from edgeks.audit.timeline import Activation, Moment, Timeline

ALIGNMENT = 64
ALWAYS = 2**31 - 1  # a tensor's last operator when it is never free again
# Tensors of one graph; for more, the plan costs minutes: the live bytes at the peak stand in for it.
MAX_PLANNED = 5000
# Operator → inputs whose buffer its first output may take over. A copy may share it with other readers.
COPIES = frozenset({"BITCAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE"})
IN_PLACE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), (0, 1)),
    **dict.fromkeys((*COPIES, "DYNAMIC_UPDATE_SLICE", "SOFTMAX"), (0,)),
}
MAX_DEPTH = 64  # of graphs that run graphs
SCALAR_BYTES = 4  # a buffer of no more is not taken over by an operator that changes it


@dataclass(frozen=True, slots=True)
class Block:
    """Where a tensor lies: `tensor` is its index in the graph, scratch tensors come after the graph's own.

    It is alive from operator `first` to `last`; `offset` is in bytes from the start of its arena.
    """

    tensor: int
    offset: int
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class GraphArena:
    """Plan of one graph. `heap_bytes`: blocks outside of the arenas, which stay. `shared`: tensor → tensor whose
    buffer it has. `untouched_bytes`: the part of the first arena where only scratch lies that no kernel uses; it is
    reserved, but never becomes resident."""

    graph: int
    arena_bytes: int
    persistent_bytes: int
    heap_bytes: int
    untouched_bytes: int
    blocks: tuple[Block, ...]
    persistent: tuple[Block, ...]
    shared: dict[int, int]
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class TfliteArena:
    """Plans of all graphs that get memory, the main graph first. `notes`: what was assumed."""

    graphs: tuple[GraphArena, ...]
    notes: tuple[str, ...]

    @property
    def arena_bytes(self) -> int:
        """Both arenas of all graphs."""
        return sum(graph.arena_bytes + graph.persistent_bytes for graph in self.graphs)

    @property
    def heap_bytes(self) -> int:
        """Blocks outside of them."""
        return sum(graph.heap_bytes for graph in self.graphs)

    @property
    def timeline(self) -> Timeline:
        """Of the main graph; an operator that runs other graphs has their live bytes in it."""
        return self.graphs[0].timeline


def plan_arena(
    model: schema.ModelT,
    kernels: Kernels,
    threads: int = 1,
    taken: Collection[tuple[int, int]] = (),
) -> TfliteArena:
    """Objects of a .tflite file → its memory plan.

    `taken`: (graph, operator) pairs that a delegate runs; what only they make and read is the delegate's to hold.
    """
    graphs = read_graphs(model)
    planned: dict[int, GraphArena] = {}
    notes: list[str] = []
    _plan(0, graphs, (kernels, threads, frozenset(taken)), planned, notes, frozenset(), frozenset())
    main = planned.pop(0)
    return TfliteArena((main, *planned.values()), tuple(dict.fromkeys(notes)))


_Settings = tuple[Kernels, int, frozenset[tuple[int, int]]]


def _plan(
    number: int,
    graphs: tuple[Graph, ...],
    settings: _Settings,
    planned: dict[int, GraphArena],
    notes: list[str],
    given: frozenset[int],
    running: frozenset[int],
) -> None:
    """Plan graph `number` and those that it runs, into `planned`."""
    kernels, threads, all_taken = settings
    graph = graphs[number]
    taken = frozenset(operator for owner, operator in all_taken if owner == number)
    prepared = prepare(graph, kernels, threads, taken, given, _unread(graph, graphs))
    for index, operator in enumerate(graph.operators):
        if operator.op_type in WITHOUT_RULE and index not in taken:
            notes.append(f"scratch of {operator.op_type} is not known")
        inner = [called for called in called_graphs(operator) if 0 <= called < len(graphs)]
        for position, called in enumerate(inner):
            if called in planned or called in running or called == number:
                continue
            if len(running) >= MAX_DEPTH:
                notes.append(f"graphs that run each other more than {MAX_DEPTH} deep: the deeper ones are not planned")
                continue
            body = graphs[called]
            unused = frozenset(body.inputs) - {value for other in body.operators for value in other.inputs}
            keeps_own = operator.op_type == "WHILE" and position == 0  # the condition gets copies of what it reads
            inputs = unused - set(body.outputs) if keeps_own else frozenset(body.inputs)
            _plan(called, graphs, settings, planned, notes, inputs, running | {number})
    if prepared.stops:
        names = ", ".join(repr(prepared.nodes[stop].label) for stop in prepared.stops[:3])
        notes.append(f"{names}: of a shape known at run time only, taken as the file declares it")
    planned[number] = _Planner(number, prepared, planned, notes).plan()


def _unread(graph: Graph, graphs: tuple[Graph, ...]) -> frozenset[int]:
    """Results of WHILE that hand on an input and that nothing reads: they get no memory."""
    read = {value for operator in graph.operators for value in operator.inputs} | set(graph.outputs)
    found = set()
    for operator in graph.operators:
        called = called_graphs(operator)
        if operator.op_type == "WHILE" and len(called) == 2 and 0 <= called[1] < len(graphs):
            body = graphs[called[1]]
            for output, inner, handed_on in zip(operator.outputs, body.inputs, body.outputs, strict=False):
                if inner == handed_on and output not in read:
                    found.add(output)
    return frozenset(found)


class _Planner:
    """ArenaPlanner for one prepared graph."""

    def __init__(self, number: int, prepared: PreparedGraph, planned: dict[int, GraphArena], notes: list[str]) -> None:
        self._number, self._prepared, self._planned, self._notes = number, prepared, planned, notes
        self._nodes, self._homes = prepared.nodes, list(prepared.homes)
        self._bytes = [tensor.size_bytes for tensor in prepared.tensors]
        self._inputs = [index for index in prepared.graph.inputs if index >= 0]
        self._outputs = [index for index in prepared.graph.outputs if index >= 0]
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._shared: dict[int, int] = {}
        self._made_at: list[list[int]] = [[] for _ in range(max(len(self._nodes), 1))]

    def plan(self) -> GraphArena:
        """The plan; see the top of this file."""
        self._set_lifetimes()
        in_arena = sum(home in ("arena", "persistent") for home in self._homes)
        blocks: list[Block] = []
        persistent: list[Block] = []
        if in_arena <= MAX_PLANNED:
            start = 0
            for stop in (*self._prepared.stops, max(len(self._nodes), 1) - 1):
                self._place(start, stop, blocks, persistent)
                start = stop + 1
        else:
            self._notes.append(f"{in_arena} tensors: not planned; the live bytes at the peak stand for the arena")
            self._place_all_persistent(persistent)
        timeline = self._timeline()
        planned = max((block.offset + block.size_bytes for block in blocks), default=0)
        return GraphArena(
            graph=self._number,
            arena_bytes=planned if in_arena <= MAX_PLANNED else timeline.peak_bytes,
            persistent_bytes=max((block.offset + block.size_bytes for block in persistent), default=0),
            heap_bytes=sum(size for size, home in zip(self._bytes, self._homes, strict=True) if home == "heap"),
            untouched_bytes=planned - _covered(blocks, self._prepared.untouched) if planned else 0,
            blocks=tuple(blocks),
            persistent=tuple(persistent),
            shared=dict(self._shared),
            timeline=timeline,
        )

    def _root(self, tensor: int) -> int:
        return self._shared.get(tensor, tensor)

    def _set_lifetimes(self) -> None:
        readers = [0] * len(self._homes)
        for output in self._outputs:
            readers[output] += 1
        for index, tensor in enumerate(self._prepared.graph.tensors):
            if tensor.variable:
                readers[index] += 1
                self._make(0, index)
        for index in self._inputs:
            readers[index] += 1
            self._make(0, index)
        left = list(readers)
        for node in self._nodes:
            for index in node.inputs:
                readers[index] += index >= 0
        self._share_buffers(readers)
        for node in self._nodes:
            for index in node.inputs:
                if index >= 0:
                    left[self._root(index)] += 1
        for at, node in enumerate(self._nodes):
            for index in node.outputs:
                if index >= 0:
                    self._make(at, index)
            for index in node.inputs:
                if index >= 0:
                    root = self._root(index)
                    left[root] -= 1
                    if left[root] == 0 and root in self._first:
                        self._last[root] = at
            for index in node.scratch:
                self._make(at, index)
                self._last[index] = at

    def _make(self, at: int, tensor: int) -> None:
        self._made_at[at].append(tensor)
        self._first.setdefault(tensor, at)

    def _share_buffers(self, readers: list[int]) -> None:
        for node in self._nodes:
            if node.op_type not in IN_PLACE or not node.outputs or node.outputs[0] < 0:
                continue
            output = node.outputs[0]
            changed = node.op_type not in COPIES
            for position in IN_PLACE[node.op_type]:
                if position < len(node.inputs) and self._may_share(node.inputs[position], output, readers, changed):
                    root = self._root(node.inputs[position])
                    if not (changed and readers[root] > 1):
                        self._shared[output] = root
                    break

    def _may_share(self, value: int, output: int, readers: list[int], changed: bool) -> bool:
        if value < 0 or value in self._inputs or output in self._outputs:
            return False
        if changed and (
            self._bytes[value] != self._bytes[output] or self._bytes[value] <= SCALAR_BYTES or readers[value] > 1
        ):
            return False
        return self._homes[value] == self._homes[output] or self._homes[value] == "arena"

    def _place(self, start: int, stop: int, blocks: list[Block], persistent: list[Block]) -> None:
        """Place what the operators from `start` to `stop` make, beside what was placed before."""
        order = []
        for made in self._made_at[start : stop + 1]:
            order += [index for index in unordered_set_order(made) if self._bytes[index]]
        order = [index for index in order if self._homes[index] in ("arena", "persistent")]
        std_sort(order, self._comes_before)
        for index in order:
            root = self._root(index)
            if root != index:
                if self._homes[root] == "arena" and self._bytes[root] == self._bytes[index]:
                    continue
                del self._shared[index]
            last = self._last.get(index, ALWAYS)
            if self._homes[index] == "arena":
                _fit(blocks, index, self._bytes[index], self._first[index], last)
            elif all(block.tensor != index for block in persistent):
                _fit(persistent, index, self._bytes[index], self._first[index], ALWAYS)

    def _place_all_persistent(self, persistent: list[Block]) -> None:
        end = 0
        for index, home in enumerate(self._homes):
            if home == "persistent":
                persistent.append(Block(index, end, self._bytes[index], 0, ALWAYS))
                end += rounded_up(self._bytes[index], ALIGNMENT)

    def _comes_before(self, a: int, b: int) -> bool:
        a_always = self._first[a] == 0 and a not in self._last
        b_always = self._first[b] == 0 and b not in self._last
        if a_always or b_always:
            return a_always and (not b_always or a < b)
        if self._bytes[a] != self._bytes[b]:
            return self._bytes[a] > self._bytes[b]
        return self._first[a] < self._first[b]

    def _timeline(self) -> Timeline:
        """Live bytes per operator: arena tensors by their lifetimes, and variables; a dequantised kernel is neither."""
        kernels = {output for node in self._nodes if node.op_type in KEPT for output in node.outputs}
        always = [
            index
            for index, home in enumerate(self._homes)
            if home == "persistent" and index in self._first and index not in kernels
        ]
        kept = sum(self._bytes[index] for index in always)
        starts: dict[int, list[int]] = {}
        ends: dict[int, list[int]] = {}
        for index, first in self._first.items():
            if self._homes[index] == "arena" and self._root(index) == index:
                starts.setdefault(first, []).append(index)
                ends.setdefault(self._last.get(index, ALWAYS), []).append(index)
        live = kept
        moments: list[Moment] = []
        peak, inside = 0, tuple[Activation, ...]()
        for at, node in enumerate(self._nodes):
            live += sum(self._bytes[index] for index in starts.get(at, ()))
            inner = [self._planned[called].timeline for called in node.called if called in self._planned]
            most = max(inner, key=lambda timeline: timeline.peak_bytes, default=Timeline((), 0, ()))
            moments.append(Moment(node.label, node.op_type, live + most.peak_bytes, self._in_place_bytes(at, node)))
            if at == 0 or moments[at].live_bytes > moments[peak].live_bytes:
                peak, inside = at, most.alive
            live -= sum(self._bytes[index] for index in ends.get(at, ()))
        if not moments:
            return Timeline((), 0, ())
        alive = [
            index for first, made in starts.items() for index in made if first <= peak <= self._last.get(index, ALWAYS)
        ]
        at_peak = [*(self._prepared.tensors[index] for index in (*always, *alive)), *inside]
        ordered = sorted(at_peak, key=lambda tensor: (-tensor.size_bytes, tensor.name))
        return Timeline(tuple(moments), peak, tuple(ordered))

    def _in_place_bytes(self, at: int, node: Node) -> int:
        """What a pointwise operator would save by writing over an input of its output's size that ends with it."""
        if node.op_type not in POINTWISE or len(node.outputs) != 1 or node.outputs[0] < 0:
            return 0
        output = node.outputs[0]
        if self._homes[output] != "arena" or self._root(output) != output or output in self._outputs:
            return 0
        size = self._bytes[output]
        ending = (self._root(index) for index in node.inputs if index >= 0)
        over = any(
            self._homes[index] == "arena" and self._last.get(index) == at and self._bytes[index] == size
            for index in ending
        )
        return size if over else 0


def _covered(blocks: list[Block], untouched: frozenset[int]) -> int:
    """Bytes of an arena up to its end where something lies that is touched, gaps between tensors of 64 bytes too."""
    total = end = 0
    for block in blocks:
        if block.tensor not in untouched:
            stop = block.offset + rounded_up(block.size_bytes, ALIGNMENT)
            total += max(stop - max(end, block.offset), 0)
            end = max(end, stop)
    return total


def _fit(blocks: list[Block], tensor: int, size: int, first: int, last: int) -> None:
    """Place a tensor in the smallest gap between the blocks alive with it, and keep `blocks` sorted by offset."""
    best, best_gap, end = None, -1, 0
    for block in blocks:
        if block.last < first or block.first > last:
            continue
        aligned = rounded_up(end, ALIGNMENT)
        if aligned + size <= block.offset and (best is None or block.offset - aligned < best_gap):
            best, best_gap = aligned, block.offset - end
        end = max(end, block.offset + block.size_bytes)
        if best_gap == 0:
            break
    offset = rounded_up(end, ALIGNMENT) if best is None else best
    place = bisect_right(blocks, offset, key=lambda block: block.offset)
    blocks.insert(place, Block(tensor, offset, size, first, last))
