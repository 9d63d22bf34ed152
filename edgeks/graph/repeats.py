"""Runs of repeated structure: units of nodes, one after another, that read the same kernels and differ in constants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.graph.kernels import array, reads_by_kernel, required

MAX_NODES = 20_000  # beyond, the comparison of all periods takes minutes
KERNEL_RANK = 2
NEVER_CARRIED = ("DequantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True, slots=True)
class Slot:
    """What a unit hands to the next: output `output` of its node `position`."""

    position: int
    output: int


@dataclass(frozen=True, slots=True)
class Run:
    """`count` units of `period` nodes each; `nodes` are all of them, unit after unit, in an order that computes them.

    carried: slot → what the first unit takes in its place. stacked: (position, input) whose constants differ between
    units. handed: (position, input) → the slot of the unit before that it reads. saved_bytes: of the kernels that the
    units after the first read again.
    """

    nodes: tuple[ir.Node, ...]
    period: int
    count: int
    carried: Mapping[Slot, ir.Value]
    stacked: tuple[tuple[int, int], ...]
    handed: Mapping[tuple[int, int], Slot]
    saved_bytes: int

    def unit(self, index: int) -> tuple[ir.Node, ...]:
        """Nodes of unit `index`."""
        return self.nodes[index * self.period : (index + 1) * self.period]

    def constants(self, position: int, index: int) -> list[ir.Value]:
        """What each unit reads there."""
        return [required(self.unit(number)[position].inputs[index]) for number in range(self.count)]


def find_runs(model: ir.Model) -> list[Run]:
    """Longest runs that read most kernel bytes again, none overlapping, in the order in which they are computed.

    A unit holds at least one kernel that all units read. Nothing but its last carried Values is read after a run, and
    what it carries has one shape and type throughout. Constants that differ are of one shape and type; kernels of a
    unit's own weigh no more than those that the units share.
    """
    nodes = data_order(model.graph)
    if len(nodes) > MAX_NODES:
        return []
    shared = {kernel: reads for kernel, reads in reads_by_kernel(model).items() if len(reads) > 1}
    weights = {read.node: array(kernel).nbytes for kernel, reads in shared.items() for read in reads}
    keys = _keys(nodes, frozenset(shared))
    search = _Search(nodes, keys, [weights.get(node, 0) for node in nodes], frozenset(shared))
    found: list[tuple[int, Run]] = []
    free = [(0, len(nodes))]
    while free:
        begin, end = free.pop()
        best = search.best(begin, end)
        if best is not None:
            start, run = best
            found.append(best)
            free += [(begin, start), (start + run.period * run.count, end)]
    return [run for _, run in sorted(found, key=lambda item: item[0])]


def data_order(graph: ir.Graph) -> list[ir.Node]:
    """The graph's nodes so that each follows what it reads, and what it reads first stands before the rest of it.

    Blocks that are alike are in a like order then, whatever order the graph has them in.
    """
    ordered: list[ir.Node] = []
    seen = set[ir.Node]()
    for output in graph.outputs:
        stack = [(node, iter(node.inputs)) for node in [output.producer()] if node is not None and node not in seen]
        seen.update(node for node, _ in stack)
        while stack:
            node, inputs = stack[-1]
            source = next((value for value in inputs if value is not None and _unseen(value, seen)), None)
            if source is None:
                ordered.append(node)
                stack.pop()
            elif (producer := source.producer()) is not None:
                seen.add(producer)
                stack.append((producer, iter(producer.inputs)))
    return ordered


def _unseen(value: ir.Value, seen: set[ir.Node]) -> bool:
    producer = value.producer()
    return producer is not None and producer not in seen


def _keys(nodes: Sequence[ir.Node], shared: frozenset[ir.Value]) -> np.ndarray:
    """One number per node; nodes that a loop's body could compute alike have the same."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(node_key(node, shared), len(numbers)) for node in nodes], np.int64)


def node_key(node: ir.Node, shared: frozenset[ir.Value]) -> tuple[object, ...]:
    """Operator, attributes, and what its inputs and outputs are; a shared kernel is itself."""
    attributes = tuple(sorted((name, _attribute_key(attribute)) for name, attribute in node.attributes.items()))
    inputs = tuple(_input_key(value, shared) for value in node.inputs)
    return node.domain, node.op_type, attributes, inputs, tuple(_kind(value) for value in node.outputs)


def _attribute_key(attribute: ir.Attr) -> str:
    """What it holds; graphs and tensors are equal to themselves only, since their text leaves out what they hold."""
    held = attribute.value
    return repr(held) if isinstance(held, (int, float, str, bytes, tuple, list)) else str(id(held))


def _input_key(value: ir.Value | None, shared: frozenset[ir.Value]) -> object:
    if value is None:
        return None
    if value in shared:
        return id(value)
    return value.is_initializer(), _kind(value)


def _kind(value: ir.Value) -> tuple[object, ...]:
    if value.const_value is not None:
        return value.const_value.dtype, tuple(value.const_value.shape.numpy())
    return value.dtype, None if value.shape is None else tuple(str(size) for size in value.shape)


class _Search:
    """The nodes in order, and what is known of each place."""

    def __init__(self, nodes: list[ir.Node], keys: np.ndarray, weights: list[int], shared: frozenset[ir.Value]) -> None:
        self._nodes, self._keys, self._weights, self._shared = nodes, keys, weights, shared
        self._index = {node: index for index, node in enumerate(nodes)}
        self._until = np.concatenate([[0], np.cumsum(weights)])
        self._own_until = np.concatenate([[0], np.cumsum([_own_bytes(node) for node in nodes])])
        self._last_read = np.array([self._last_reader(node) for node in nodes], np.int64)

    def _last_reader(self, node: ir.Node) -> int:
        """Place of the last node that reads what a node makes; len(nodes) where that is behind all of them."""
        if any(value.is_graph_output() for value in node.outputs):
            return len(self._nodes)
        readers = (use.node for value in node.outputs for use in value.uses())
        return max((self._index.get(reader, len(self._nodes)) for reader in readers), default=-1)

    def best(self, begin: int, end: int) -> tuple[int, Run] | None:
        """The run between two places that saves most, and where it begins; of several, the one that carries least."""
        best: tuple[tuple[int, int, int], int, Run] | None = None
        for start, period, most in self._candidates(begin, end):
            if best is not None and self._promised(start, period, most) < best[0][0]:
                continue
            for count in range(self._like_the_first(start, period, self._reach(start, period, most)), 1, -1):
                if best is not None and self._promised(start, period, count) < best[0][0]:
                    break
                run = self._run(start, period, count)
                if run is None:
                    continue
                merit = run.saved_bytes, -sum(_bytes(value) for value in run.carried.values()), -period
                if best is None or merit > best[0]:
                    best = merit, start, run
        return None if best is None else best[1:]

    def _promised(self, start: int, period: int, count: int) -> int:
        """Bytes of shared kernels that the units after the first read."""
        return int(self._until[start + period * count] - self._until[start + period])

    def _candidates(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(start, period, most units) by the keys alone: short periods first, every rotation."""
        for period in range(1, (end - begin) // 2 + 1):
            same = self._keys[begin : end - period] == self._keys[begin + period : end]
            edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
            for low, high in zip(edges[::2], edges[1::2], strict=True):
                first, last = begin + int(low), begin + int(high) + period
                if last - first < 2 * period or self._until[last] == self._until[first]:
                    continue
                for start in range(first, min(first + period, last - 2 * period + 1)):
                    if not self._outweighed(start, start + period):
                        yield start, period, (last - start) // period

    def _outweighed(self, start: int, end: int) -> bool:
        """Whether a unit's own kernels weigh more than the shared ones, by those alone that no other node reads."""
        shared, own = (found[end] - found[start] for found in (self._until, self._own_until))
        return bool(own > shared)

    def _reach(self, start: int, period: int, most: int) -> int:
        """How many units there can be: one that is read behind the next unit is the last."""
        read = self._last_read[start : start + most * period].reshape(most, period).max(axis=1)
        ends = np.flatnonzero(read >= start + period * np.arange(2, most + 2))
        return int(ends[0]) + 1 if len(ends) else most

    def _like_the_first(self, start: int, period: int, most: int) -> int:
        """How many units, from the first, read each other as the second reads the first; below 2: not even that."""
        if most < 2:
            return most
        for position in range(period):
            for index, second in enumerate(self._nodes[start + period + position].inputs):
                if second is None or second.is_initializer():
                    continue
                place = self._place(second, start, start + period)
                first = self._nodes[start + position].inputs[index]
                if place is not None and place[0] < 0 and (first is None or not _fits(second, first)):
                    return 0
                for unit in range(most):
                    value = self._nodes[start + unit * period + position].inputs[index]
                    found = None if value is None else self._place(value, start, start + unit * period)
                    inside = place is not None and place[0] >= 0
                    if (found != place and (unit or inside)) or (place is None and value is not second):
                        most = unit
                        break
                if most < 2:
                    return most
        return most

    def _run(self, start: int, period: int, count: int) -> Run | None:
        """The candidate as a run; None where its units hang together in different ways."""
        nodes = tuple(self._nodes[start : start + period * count])
        carried: dict[Slot, ir.Value] = {}
        handed: dict[tuple[int, int], Slot] = {}
        stacked: list[tuple[int, int]] = []
        own_bytes = 0
        for position in range(period):
            for index in range(len(nodes[position].inputs)):
                values = [nodes[unit * period + position].inputs[index] for unit in range(count)]
                if any(value is None for value in values):
                    if any(value is not None for value in values):
                        return None
                    continue
                present = [required(value) for value in values]
                if all(value.is_initializer() for value in present):
                    size = _kernel_bytes(array(present[0]))  # equal kernels that are not tied are several
                    if len(set(present)) > 1 and (size or not alike(present)):
                        stacked.append((position, index))
                        own_bytes += size
                    continue
                places = [self._place(value, start, start + unit * period) for unit, value in enumerate(present)]
                rest = set(places[1:])
                if len(rest) != 1:
                    return None
                place = rest.pop()
                if place is None:  # from outside: the same for all, or it is none
                    if len(set(present)) != 1:
                        return None
                elif place[0] >= 0:
                    if places[0] != place:
                        return None
                elif place[0] >= -period:
                    slot = Slot(place[0] + period, place[1])
                    first = places[0]
                    if first is not None or carried.setdefault(slot, present[0]) is not present[0]:
                        return None
                    handed[position, index] = slot
                else:
                    return None
        saved = sum(self._weights[start + period : start + period * count])
        if not carried or not saved or own_bytes > sum(self._weights[start : start + period]):
            return None
        if not self._closed(nodes, period, count, carried):
            return None
        return Run(nodes, period, count, carried, tuple(stacked), handed, saved)

    def _place(self, value: ir.Value, start: int, unit: int) -> tuple[int, int] | None:
        """(position relative to the unit that begins at `unit`, output) of what makes a Value; None: not in the run."""
        producer = value.producer()
        index = -1 if producer is None else self._index.get(producer, -1)
        return None if index < start else (index - unit, value.index() or 0)

    def _closed(self, nodes: tuple[ir.Node, ...], period: int, count: int, carried: Mapping[Slot, ir.Value]) -> bool:
        """Whether only what the last unit carries is read elsewhere, and what is carried keeps its shape and type."""
        inside = set(nodes)
        for number, node in enumerate(nodes):
            unit, position = divmod(number, period)
            for output, value in enumerate(node.outputs):
                slot = Slot(position, output)
                if slot in carried and not _fits(value, carried[slot]):
                    return False
                leaves = value.is_graph_output() or any(use.node not in inside for use in value.uses())
                if leaves and (unit < count - 1 or slot not in carried):
                    return False
        return True


def _fits(value: ir.Value, first: ir.Value) -> bool:
    """Whether a unit's output can stand where `first` does. Runtimes fuse what ends in codes with what makes them."""
    producer = value.producer()
    if producer is not None and producer.op_type in NEVER_CARRIED:
        return False
    return None not in _kind(value) and _kind(value) == _kind(first)


def alike(values: Sequence[ir.Value]) -> bool:
    """Whether constants hold the same."""
    if len(set(values)) == 1:
        return True
    first = array(values[0])
    return all(np.array_equal(first, array(value), equal_nan=first.dtype.kind == "f") for value in values[1:])


def _kernel_bytes(content: NDArray[np.generic]) -> int:
    """Bytes of a constant that is more than a number per channel."""
    return content.nbytes if content.ndim >= KERNEL_RANK and max(content.shape) < content.size else 0


def _own_bytes(node: ir.Node) -> int:
    """Bytes of the kernels that only this node reads."""
    own = (value for value in node.inputs if value is not None and value.is_initializer() and len(value.uses()) == 1)
    return sum(_kernel_bytes(array(value)) for value in own)


def _bytes(value: ir.Value) -> int:
    """Bytes of an activation; a size that is not known counts as 1."""
    sizes = [size for size in value.shape or () if isinstance(size, int)]
    return int(math.prod(sizes) * (1 if value.dtype is None else value.dtype.itemsize))


def why_not(model: ir.Model) -> str:
    """Why layers that share a kernel form no run, by the group of the largest kernel."""
    shared = {kernel: reads for kernel, reads in reads_by_kernel(model).items() if len(reads) > 1}
    if not shared:
        return "no two layers share a kernel"
    if (count := len(model.graph)) > MAX_NODES:
        return f"the graph has {count:,} nodes, and repeats are looked for among {MAX_NODES:,} at most"
    kernel = max(shared, key=lambda value: array(value).nbytes)
    first, second = (read.node for read in shared[kernel][:2])
    where = f"{first.name!r} and {second.name!r}, which share a kernel,"
    for name in dict.fromkeys((*first.attributes, *second.attributes)):
        given = [node.attributes.get(name) for node in (first, second)]
        found = ["the default" if attribute is None else attribute.value for attribute in given]
        if found[0] != found[1]:
            return f"{where} differ in {name}: {found[0]} and {found[1]}"
    shapes = [required(node.inputs[0]).shape for node in (first, second)]
    if shapes[0] != shapes[1]:
        return f"{where} take inputs of different shapes: {shapes[0]} and {shapes[1]}"
    return f"what stands between {where} is not repeated as a whole"
