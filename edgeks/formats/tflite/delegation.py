"""What XNNPACK takes of a .tflite file and what that is worth here: measured by opening and running it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.target import KernelLibrary, LiteRtSession

DELEGATE = "DELEGATE"  # the op that LiteRT puts where a delegate took some; no file holds it
MIN_RUNS = 3


@dataclass(frozen=True, slots=True)
class Delegation:
    """Operators of the main graph that XNNPACK takes, in how many pieces, and those left to the built-in kernels.

    `delegated` and `left`: op → number of nodes. The times are the fastest of the same runs on this CPU: XNNPACK with
    the operators left to the built-in kernels, and the built-in kernels alone.
    """

    partitions: int
    delegated: dict[str, int]
    left: dict[str, int]
    xnnpack_ms: float
    builtin_ms: float

    @property
    def faster(self) -> KernelLibrary:
        """The kernels that ran faster."""
        return "xnnpack" if self.xnnpack_ms <= self.builtin_ms else "builtin"


def delegation(file: Path, threads: int, seconds: float = 1.0) -> Delegation:
    """File → what LiteRT's default delegate takes of it, and the time of a run with it and without.

    Both interpreters take turns for about `seconds`, and at least three runs each after one that is not counted.

    Raises:
        ModelFileError: LiteRT does not take the file.
    """
    both = [open_interpreter(file, LiteRtSession(threads, kernels)) for kernels in ("xnnpack", "builtin")]
    partitions, delegated, left = partition(both[0])
    for interpreter in both:
        _feed(interpreter)
        interpreter.invoke()
    ms: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(ms[0]) < MIN_RUNS or time.perf_counter() < end:
        for times, interpreter in zip(ms, both, strict=True):
            start = time.perf_counter()
            interpreter.invoke()
            times.append(1e3 * (time.perf_counter() - start))
    return Delegation(partitions, delegated, left, min(ms[0]), min(ms[1]))


def partition(interpreter: Interpreter) -> tuple[int, dict[str, int], dict[str, int]]:
    """Allocated interpreter → number of delegated pieces; operators taken and operators left, by op.

    LiteRT lists the file's nodes and, behind them, one node per piece with the tensors that go in and come out: what
    lies between those is what the piece does. Constants are inputs of a piece too.
    """
    nodes = interpreter._get_ops_details()
    pieces = [node for node in nodes if node["op_name"] == DELEGATE]
    own = [node for node in nodes if node["op_name"] != DELEGATE]
    producer = {int(tensor): node["index"] for node in own for tensor in node["outputs"]}
    taken: set[int] = set()
    for piece in pieces:
        taken |= _between(piece, producer, {node["index"]: node["inputs"] for node in own})
    delegated = Counter(node["op_name"] for node in own if node["index"] in taken)
    left = Counter(node["op_name"] for node in own if node["index"] not in taken)
    return len(pieces), dict(delegated), dict(left)


def _between(piece: dict[str, Any], producer: dict[int, int], inputs_of: dict[int, Iterable[int]]) -> set[int]:
    """Nodes from which the outputs of `piece` are computed, back to its inputs."""
    entered = {int(tensor) for tensor in piece["inputs"]}
    found: set[int] = set()
    wanted = [int(tensor) for tensor in piece["outputs"]]
    while wanted:
        tensor = wanted.pop()
        node = producer.get(tensor)
        if tensor in entered or node is None or node in found:
            continue
        found.add(node)
        wanted += [int(tensor) for tensor in inputs_of[node]]
    return found


def _feed(interpreter: Interpreter) -> None:
    """Numbers of the input's own range: zeros and denormals take times of their own."""
    rng = np.random.default_rng(0)
    for feed in interpreter.get_input_details():
        dtype, shape = np.dtype(feed["dtype"]), feed["shape"]
        if dtype.kind == "f":
            made = rng.standard_normal(shape).astype(dtype)
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            made = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        else:
            made = np.zeros(shape, dtype)  # an index, a flag: any other number may point nowhere
        interpreter.set_tensor(feed["index"], made)
