"""Into how many pieces the operators fall that TFLite's XNNPACK delegate takes of a subgraph.

As TFLite's graph_info.cc cuts them, with what xnnpack_delegate.cc (LiteRT 2.3) dequantises while it is made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.xnnpack.graph import FLOAT16, FLOAT32, INT8, Graph, Node
from edgeks.audit.xnnpack.operators import takes
from edgeks.model_files.tflite_file import whole_numbers

# Operators that the delegate computes of a constant while it is made.
UNPACKING = frozenset({"DEQUANTIZE", "DENSIFY"})


@dataclass(frozen=True, slots=True)
class Piece:
    """Operators that become one DELEGATE node, in the order in which they run, and the tensors in and out of it."""

    nodes: tuple[int, ...]
    inputs: frozenset[int]
    outputs: frozenset[int]


@dataclass(frozen=True, slots=True)
class Delegated:
    """`taken`: operators that the delegate takes; `ahead`: those of them that it computes while it is made.

    `steps`: what runs after another from then on: pieces, and the numbers of the operators that are left.
    """

    graph: Graph
    taken: frozenset[int]
    ahead: frozenset[int]
    steps: tuple[Piece | int, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """In the order in which they run."""
        return tuple(step for step in self.steps if isinstance(step, Piece))


def delegate(graph: Graph) -> Delegated:
    """Which nodes of a subgraph the delegate takes, and the pieces that they form."""
    ahead, taken, maker = set[int](), set[int](), dict[int, int]()
    readers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    for index, node in enumerate(graph.nodes):
        if _unpacks_constant(graph, node):
            output = node.outputs[0]
            halves = node.name == "DEQUANTIZE" and graph.tensors[node.inputs[0]].type == FLOAT16
            half = graph.version == "litert" and halves
            if half and all(_packs_half(reader, output) for reader in readers.get(output, [])):
                graph.halves.add(output)
            ahead.add(index)
            maker[output] = index
            graph.static.add(output)
        elif takes(graph, node):
            taken.add(index)
        else:
            ahead -= {maker[tensor] for tensor in node.inputs if tensor in maker}
    taken |= ahead
    return Delegated(graph, frozenset(taken), frozenset(ahead), tuple(_steps(graph, taken)))


def _unpacks_constant(graph: Graph, node: Node) -> bool:
    """DEQUANTIZE of a constant, or DENSIFY of a sparse one: done once, ahead of the first inference."""
    if node.name not in UNPACKING or len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    source, made = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
    int8 = source.type == INT8 and bool(source.scales)
    if node.name == "DENSIFY":
        return not source.dense and source.is_constant and source.type in (FLOAT32, FLOAT16, INT8)
    known = source.is_constant or node.inputs[0] in graph.static
    return source.dense and known and (source.type == FLOAT16 or int8) and made.type == FLOAT32


def _packs_half(reader: Node, tensor: int) -> bool:
    """Whether a node's kernel may stay float16 until it is packed."""
    return reader.name in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D") and reader.inputs[0] != tensor


def _steps(graph: Graph, taken: set[int]) -> Iterable[Piece | int]:
    """Nodes that can run together, as many as there are at a time, of one kind (taken or not) after the other.

    A node waits for what makes its inputs; one that may have side effects for the one before it.
    """
    makers = {output: index for index, node in enumerate(graph.nodes) for output in node.outputs if output >= 0}
    waits = [{makers[tensor] for tensor in node.inputs if tensor in makers} for node in graph.nodes]
    side_effects = [index for index, node in enumerate(graph.nodes) if _may_have_side_effects(graph, node)]
    for before, index in pairwise(side_effects):
        waits[index].add(before)
    readers: dict[int, set[int]] = {}
    for index, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            readers.setdefault(tensor, set()).add(index)
    for kind, members in in_turns(waits, taken):
        if kind:
            yield _piece(graph, members, readers)
        else:
            yield from members


def in_turns(waits: Sequence[set[int]], taken: Collection[int]) -> Iterator[tuple[bool, list[int]]]:
    """For every operator those that it waits for → groups in which they run: whether a group is `taken`, and which.

    A group has as many of one kind as can run, beginning with the first operator that can. What waits for itself is in
    none.
    """
    left = [set(needed) for needed in waits]
    followers: dict[int, list[int]] = {}
    ready: dict[bool, list[int]] = {True: [], False: []}
    for index, needed in enumerate(left):
        for before in needed:
            followers.setdefault(before, []).append(index)
        if not needed:
            heappush(ready[index in taken], index)
    while ready[True] or ready[False]:
        kind = min((heap[0], kind) for kind, heap in ready.items() if heap)[1]
        members = []
        while ready[kind]:
            members.append(done := heappop(ready[kind]))
            for index in followers.get(done, []):
                left[index].discard(done)
                if not left[index]:
                    heappush(ready[index in taken], index)
        yield kind, members


def _may_have_side_effects(graph: Graph, node: Node) -> bool:
    tensors = (graph.tensors[tensor] for tensor in (*node.inputs, *node.outputs) if tensor >= 0)
    return node.name in ("IF", "WHILE", "CALL_ONCE") or any(t.type == schema.TensorType.RESOURCE for t in tensors)


def _piece(graph: Graph, members: list[int], readers: dict[int, set[int]]) -> Piece:
    inside = set(members)
    made = {tensor for index in members for tensor in graph.nodes[index].outputs}
    read = {tensor for index in members for tensor in graph.nodes[index].inputs if tensor >= 0}
    wanted = set(whole_numbers(graph.stored.outputs))
    wanted.update(tensor for tensor in made if readers.get(tensor, inside) - inside)
    inputs = frozenset(tensor for tensor in read - made if not graph.known(tensor))
    return Piece(tuple(members), inputs, frozenset((made & wanted) - graph.static))
