"""Where TFLite keeps every tensor of a graph, and in which order a delegate leaves its operators: ahead of the plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from edgeks.audit.tflite.scratch import RESERVED, Kernels, Place, Prepared, temporaries
from edgeks.audit.tflite.tensors import SIZELESS, Graph, Operator, Tensor
from edgeks.audit.timeline import Activation
from edgeks.audit.xnnpack.partition import in_turns

# constant: in the file. given: the memory of another graph's tensor. none: nothing reads or writes it.
Home = Literal["constant", "given"] | Place

DELEGATE = "DELEGATE"
# Operators computed once, ahead of the first inference, when all they read is constant. The result is a heap block.
FOLDED = frozenset(
    {"BROADCAST_ARGS", "CONCATENATION", "GATHER", "MUL", "RANGE", "REDUCE_PROD", "RESHAPE", "STRIDED_SLICE", "TILE"}
)
# Operators whose result the shapes alone tell.
SHAPE_ONLY = frozenset({"SHAPE", "RANK"})
# The same as FOLDED, but the result is in the persistent arena, computed by the first inference.
KEPT = frozenset({"DEQUANTIZE", "DENSIFY"})
# Operator → inputs that decide the shape of its result: it is known ahead of a run when they are constant.
SHAPE_INPUTS: dict[str, tuple[int, ...]] = {
    "ARG_MAX": (1,), "ARG_MIN": (1,), "BATCH_TO_SPACE_ND": (1, 2), "BROADCAST_TO": (1,), "EXPAND_DIMS": (1,),
    "FILL": (0,), "MEAN": (1,), "MIRROR_PAD": (1,), "ONE_HOT": (1,), "PAD": (1,), "PADV2": (1,), "RANGE": (0, 1, 2),
    "REDUCE_ALL": (1,), "REDUCE_ANY": (1,), "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,),
    "RESHAPE": (1,), "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "SLICE": (1, 2),
    "SPACE_TO_BATCH_ND": (1, 2), "SPARSE_TO_DENSE": (1,), "SPLIT": (0,), "SPLIT_V": (1, 2),
    "STRIDED_SLICE": (1, 2, 3), "SUM": (1,), "TILE": (1,), "TOPK_V2": (1,), "TRANSPOSE": (1,), "TRANSPOSE_CONV": (0,),
}  # fmt: skip
# Operators whose results have a size that only their content tells.
CONTENT_SIZED = frozenset({"NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "UNIQUE", "WHERE"})


@dataclass(frozen=True, slots=True)
class Node:
    """An operator, or several that a delegate runs as one, with the scratch tensors that it asks for."""

    label: str
    op_type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scratch: tuple[int, ...]
    called: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PreparedGraph:
    """`tensors` and `homes` by index: the graph's own tensors, then scratch. `stops`: nodes after which the shapes of
    what follows are known at run time only. `untouched`: scratch that no kernel uses."""

    graph: Graph
    nodes: tuple[Node, ...]
    tensors: tuple[Activation, ...]
    homes: tuple[Home, ...]
    stops: tuple[int, ...]
    untouched: frozenset[int]


def prepare(
    graph: Graph,
    kernels: Kernels,
    threads: int,
    taken: Collection[int],
    given: Collection[int] = (),
    unread: Collection[int] = (),
) -> PreparedGraph:
    """Graph → homes of its tensors. `taken`: operators that a delegate runs; `given`: tensors whose memory is
    another's; `unread`: tensors that take none."""
    homes: list[Home] = []
    for index, tensor in enumerate(graph.tensors):
        if tensor.constant:
            homes.append("constant")
        elif index in given or index in unread:
            homes.append("given")
        elif tensor.kind in SIZELESS:
            homes.append("heap")
        else:
            homes.append("persistent" if tensor.variable else "arena")
    tensors = [tensor.activation() for tensor in graph.tensors]
    nodes: list[Node] = []
    stops = []
    untouched = set()
    readers = _readers(graph)
    for operators in _partition(graph, taken):
        if operators[0] in taken:
            nodes.append(_delegated(graph, operators, readers))
            continue
        operator = graph.operators[operators[0]]
        if _settle(graph, operator, homes):
            stops.append(len(nodes))
        label = next((graph.tensors[output].name for output in operator.outputs if output >= 0), operator.op_type)
        asked = temporaries(_with_tensors(graph, operator, kernels, threads))
        scratch = tuple(range(len(tensors), len(tensors) + len(asked)))
        for temporary in asked:
            if not temporary.used:
                untouched.add(len(tensors))
            tensors.append(Activation(temporary.name, (), "scratch", temporary.size_bytes, label))
            homes.append(temporary.place)
        for _ in range(len(asked), RESERVED.get(operator.op_type, 0)):
            tensors.append(Activation("unused", (), "scratch", 0, label))
            homes.append("heap")
        nodes.append(Node(label, operator.op_type, operator.inputs, operator.outputs, scratch, called_graphs(operator)))
    for node in nodes:
        for output in node.outputs:
            if output >= 0:
                tensors[output] = graph.tensors[output].activation(node.label)
    return PreparedGraph(graph, tuple(nodes), tuple(tensors), tuple(homes), tuple(stops), frozenset(untouched))


def called_graphs(operator: Operator) -> tuple[int, ...]:
    """Indices of the graphs that an operator runs."""
    fields = {
        "WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
        "IF": ("thenSubgraphIndex", "elseSubgraphIndex"),
        "CALL_ONCE": ("initSubgraphIndex",),
        "STABLEHLO_COMPOSITE": ("decompositionSubgraphIndex",),
    }
    return tuple(
        int(getattr(operator.options, field))
        for field in fields.get(operator.op_type, ())
        if hasattr(operator.options, field)
    )


def _with_tensors(graph: Graph, operator: Operator, kernels: Kernels, threads: int) -> Prepared:
    def tensors(indices: Iterable[int]) -> tuple[Tensor | None, ...]:
        return tuple(graph.tensors[index] if index >= 0 else None for index in indices)

    return Prepared(operator, tensors(operator.inputs), tensors(operator.outputs), kernels, threads)


def _settle(graph: Graph, operator: Operator, homes: list[Home]) -> bool:
    """Set the homes of an operator's results; whether their shapes are known at run time only."""
    fixed = [
        homes[index] == "constant" or (homes[index] == "heap" and graph.tensors[index].kind not in SIZELESS)
        for index in operator.inputs
        if index >= 0
    ]
    results = [output for output in operator.outputs if output >= 0 and homes[output] == "arena"]
    home: Home = "arena"
    if operator.op_type in SHAPE_ONLY or (operator.op_type in FOLDED and fixed and all(fixed)):
        home = "heap"
    elif operator.op_type in KEPT and fixed and all(homes[index] == "constant" for index in operator.inputs[:1]):
        home = "persistent"
    elif _sized_at_run_time(graph, operator, homes):
        if operator.op_type != "RESHAPE":  # it stays where the input is, whose size it has
            for output in results:
                homes[output] = "heap"
        return bool(results)
    for output in results:
        homes[output] = home
    return False


def _sized_at_run_time(graph: Graph, operator: Operator, homes: list[Home]) -> bool:
    if operator.op_type in CONTENT_SIZED:
        return True
    deciding = (operator.inputs[at] for at in SHAPE_INPUTS.get(operator.op_type, ()) if at < len(operator.inputs))
    return any(index >= 0 and homes[index] not in ("constant", "heap") for index in deciding)


def _partition(graph: Graph, taken: Collection[int]) -> list[list[int]]:
    """Operators in the order in which they run once a delegate has `taken` some: single ones, and groups it runs as
    one. A group is as large as dependencies allow (PartitionGraphIntoIndependentNodeSubsets, greedy)."""
    if not taken:
        return [[index] for index in range(len(graph.operators))]
    makers = {
        output: index for index, operator in enumerate(graph.operators) for output in operator.outputs if output >= 0
    }
    waits = [{makers[value] for value in operator.inputs if value in makers} for operator in graph.operators]
    runs: list[list[int]] = []
    for together, group in in_turns(waits, taken):
        runs += [group] if together else [[index] for index in group]
    return runs


def _readers(graph: Graph) -> dict[int, set[int]]:
    """Tensor → operators that read it."""
    found: dict[int, set[int]] = {}
    for index, operator in enumerate(graph.operators):
        for value in operator.inputs:
            found.setdefault(value, set()).add(index)
    return found


def _delegated(graph: Graph, group: list[int], readers: dict[int, set[int]]) -> Node:
    """The node that stands for a group: it reads and writes what crosses the group's border."""
    inside = {output for index in group for output in graph.operators[index].outputs if output >= 0}
    reads = {value for index in group for value in graph.operators[index].inputs if value >= 0} - inside
    members = set(group)
    outside = {value for value in inside if readers.get(value, members) - members}
    writes = tuple(sorted(inside.intersection(graph.outputs) | outside))
    label = graph.tensors[writes[0]].name if writes else DELEGATE
    return Node(label, DELEGATE, tuple(sorted(reads)), writes, (), ())
