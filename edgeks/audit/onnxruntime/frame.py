"""One inference of ONNX Runtime against its arena: which tensors take which memory, step by step.

The plan is made once, ahead of the first inference (allocation_planner.cc): an output is written over an input that
dies with the step, where the kernel allows it and the sizes agree; or into a buffer of the same shape that is free; the
rest is allocated. A graph's outputs are always allocated; its inputs are the caller's.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from edgeks.audit.onnxruntime.arena import Arena, Plan
from edgeks.audit.onnxruntime.graph import RuntimeStep
from edgeks.audit.onnxruntime.heap import Heap

LOOP = "Loop"
BODY_RUNS = 2  # later runs of a body that are looked at: the first one plans
MAX_REPEATED_DEPTH = 3  # below it a body is looked at once: the work would grow threefold with every depth


class HeapOfActivations:
    """Activations without an arena: each a block of the C library's heap, which takes it back when it ends."""

    def __init__(self) -> None:
        self._heap = Heap()

    def allocate(self, size: int) -> int:
        """Bytes → address of memory that will be written from end to end."""
        return self._heap.allocate_aligned(size)

    def free(self, address: int) -> None:
        """Give a block back."""
        self._heap.free(address)

    def touched_bytes(self) -> int:
        """The most bytes that were resident at one time."""
        return self._heap.peak_bytes


@dataclass
class Frame:
    """The steps of one graph, its inputs and outputs, and the frames of the bodies that its steps hold."""

    steps: list[RuntimeStep]
    inputs: frozenset[str]
    outputs: frozenset[str]
    bodies: dict[str, Frame]

    def __post_init__(self) -> None:
        self.owner: dict[str, str] = {}
        self.last_use: dict[str, int] = {}
        self._plan_reuse()
        self.ended: list[list[str]] = [[] for _ in self.steps]
        for name, last in self.last_use.items():
            self.ended[last].append(name)

    def run(self, arena: Arena | HeapOfActivations, plan: Plan | None = None) -> Plan:
        """One inference; without a plan it is the first one, and the plan for all others is returned."""
        made, outputs = self._run(arena, plan, 0)
        for address in outputs:
            arena.free(address)
        return made

    def _run(self, arena: Arena | HeapOfActivations, plan: Plan | None, depth: int) -> tuple[Plan, list[int]]:
        """The plan, and where the outputs lie."""
        made = plan or Plan()
        block = arena.allocate(plan.size) if plan is not None and plan.size else None
        held: dict[str, int] = {}
        planned: set[str] = set()

        def write(step: RuntimeStep) -> None:
            for buffer in step.writes:
                if self.owner[buffer.name] != buffer.name:
                    continue
                if buffer.name in self.outputs or plan is None:
                    held[buffer.name] = arena.allocate(buffer.size_bytes)
                if buffer.name not in self.outputs and plan is None:
                    made.allocate(buffer.name, buffer.size_bytes)
                    planned.add(buffer.name)

        for index, step in enumerate(self.steps):
            if step.op_type != LOOP:
                write(step)
            scratch = [arena.allocate(size) for size in step.scratch if size]
            left = [address for path, _ in step.bodies for address in self.bodies[path]._repeat(arena, depth + 1)]
            if step.op_type == LOOP:  # what the last trip left is copied
                write(step)
            for address in (*left, *reversed(scratch)):
                arena.free(address)
            for name in self.ended[index]:
                if name in self.outputs:
                    continue
                if name in held:
                    arena.free(held.pop(name))
                if name in planned:
                    made.free(name)
        if block is not None:
            arena.free(block)
        return made, list(held.values())

    def _repeat(self, arena: Arena | HeapOfActivations, depth: int) -> list[int]:
        """Some trips of a body, each of which reads what the one before left; where the outputs of the last lie."""
        plan, outputs = self._run(arena, None, depth)
        for _ in range(BODY_RUNS if depth <= MAX_REPEATED_DEPTH else 0):
            before = outputs
            _, outputs = self._run(arena, plan, depth)
            for address in before:
                arena.free(address)
        return outputs

    def _plan_reuse(self) -> None:
        uses: dict[str, int] = {}
        kinds: dict[str, tuple[object, ...]] = {}
        for step in self.steps:
            for name in step.reads:
                uses[name] = uses.get(name, 0) + 1
        left: dict[str, int] = {}  # reads to come, of a buffer under all of its names
        free: dict[tuple[object, ...], list[str]] = defaultdict(list)  # by kind, the one that ended last at the end
        is_free: set[str] = set()
        for index, step in enumerate(self.steps):
            for buffer in step.writes:
                kinds[buffer.name] = buffer.kind
                owner = buffer.name
                if buffer.name not in self.outputs:
                    over = (
                        self.owner[name]
                        for name in step.in_place
                        if name in self.owner
                        and left[self.owner[name]] == 1
                        and self.owner[name] not in self.outputs
                        and kinds[name][-1] == buffer.kind[-1]
                    )
                    owner = next(over, buffer.name)
                    if owner == buffer.name and free[buffer.kind]:
                        owner = free[buffer.kind].pop()
                        is_free.remove(owner)
                self.owner[buffer.name] = owner
                left[owner] = left.get(owner, 0) + uses.get(buffer.name, 0)
                self.last_use[owner] = index
            for name in step.reads:
                if name in self.owner:
                    owner = self.owner[name]
                    left[owner] -= 1
                    self.last_use[owner] = index
            ended = (*step.reads, *(buffer.name for buffer in step.writes))
            for name in dict.fromkeys(self.owner[name] for name in ended if name in self.owner):
                if left[name] == 0 and name not in self.outputs and name not in is_free:
                    free[kinds[name]].append(name)
                    is_free.add(name)
