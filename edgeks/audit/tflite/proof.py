"""The exactly-once proof for .tflite: every sharing group is one buffer, whatever tensors point to it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.audit.onnx.proof import Proof, ProvenKernel
from edgeks.errors import SharingBroken
from edgeks.model_files.tflite_file import TYPE_NAMES, constant, read_tflite, tensor_name
from edgeks.model_files.tflite_kernels import KernelOperator, kernel_operators
from edgeks.sharing.equality import copy_sets
from edgeks.sharing.plan import UNROLLED, Rolled, SharingGroup, SharingPlan
from edgeks.wording import first_names

SHOWN = 4


@dataclass(frozen=True, slots=True)
class _Read:
    """A layer and the kernel that it reads: all of a buffer, or one of the kernels that are stacked in it."""

    layer: str
    operator: KernelOperator
    at: int | None

    @property
    def place(self) -> tuple[int, int | None]:
        return self.operator.buffer, self.at

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self.operator.tensor.shape)
        return shape if self.at is None else shape[1:]


def prove_tflite(path: Path, plan: SharingPlan, rolled: Rolled = UNROLLED) -> Proof:
    """Read the file back by the schema alone and hold it against the plan.

    For every sharing group: the operators of all its layers (whose outputs are named after them) read one buffer, each
    through a tensor with scales of its own or through one DEQUANTIZE, and no other operator reads it; no other constant
    equals it up to a factor per output channel. Every unshared layer has a buffer that no other layer reads.

    `rolled`: name of a layer in the body of a WHILE → the layers that it is in the first iteration, the second and so
    on. The WHILE must run that often. Kernels that its iterations do not share are a stack in one buffer, of which each
    picks its own; every one of them counts as a kernel by itself.

    Raises:
        SharingBroken: naming the group, its layers and what was found.
        ModelFileError: the file cannot be read.
    """
    model = read_tflite(path)
    by_layer: dict[str, list[_Read]] = defaultdict(list)
    by_place: dict[tuple[int, int | None], list[_Read]] = defaultdict(list)
    for operator in kernel_operators(model):
        for read in _reads(path, operator, rolled):
            by_layer[read.layer].append(read)
            by_place[read.place].append(read)
    kernels = [(group, _one_place(path, group, by_layer, by_place)) for group in (*plan.groups, *plan.unshared)]
    _no_copies(path, model, kernels, [readers[0] for readers in by_place.values()])
    proven = {group.name: _proven(model, group, kernel) for group, kernel in kernels}
    return Proof(
        path=path,
        kernels_stored=len({kernel.place for _, kernel in kernels}),
        groups=tuple(proven[group.name] for group in plan.groups),
        unshared=tuple(proven[group.name] for group in plan.unshared),
    )


def _reads(path: Path, operator: KernelOperator, rolled: Rolled) -> list[_Read]:
    """What an operator reads in each of its runs, by the layers that it then is."""
    layers = rolled.get(operator.layer, (operator.layer,))
    if operator.runs != len(layers):
        often = "an unknown number of times" if operator.runs is None else f"{operator.runs} time(s)"
        raise SharingBroken(
            f"{path}: {operator.layer!r} is computed {often}; expected {len(layers)}, for {_some(layers)}"
        )
    if operator.stacked and int(operator.tensor.shape[0]) != len(layers):
        raise SharingBroken(
            f"{path}: {operator.layer!r} picks its kernels of a stack of {int(operator.tensor.shape[0])}; "
            f"expected {len(layers)}, for {_some(layers)}"
        )
    return [_Read(layer, operator, at if operator.stacked else None) for at, layer in enumerate(layers)]


def _one_place(
    path: Path,
    group: SharingGroup,
    by_layer: dict[str, list[_Read]],
    by_place: dict[tuple[int, int | None], list[_Read]],
) -> _Read:
    where = f"{path}: group {group.name!r} (layers {_some(group.layers)})"
    for layer in group.layers:
        if len(by_layer[layer]) != 1:
            raise SharingBroken(f"{where}: {len(by_layer[layer])} operators compute {layer!r}; expected one")
    places = {by_layer[layer][0].place for layer in group.layers}
    if len(places) > 1:
        raise SharingBroken(f"{where}: found {len(places)} buffers, expected 1; a pass broke the sharing")
    readers = by_place[places.pop()]
    others = [reader.layer for reader in readers if reader.layer not in group.layers]
    if others:
        raise SharingBroken(f"{where}: its buffer is also read by {_some(others)}, which the plan does not name")
    found = readers[0]
    if math.prod(found.shape) != math.prod(group.kernel_shape):
        raise SharingBroken(f"{where}: its buffer has shape {list(found.shape)}, expected {group.kernel_shape}")
    return found


def _no_copies(path: Path, model: schema.ModelT, kernels: list[tuple[SharingGroup, _Read]], reads: list[_Read]) -> None:
    """No buffer beside those of the plan, nor what lies along its first axis, equals a shared kernel up to a factor per
    output channel."""
    planned = {kernel.place for _, kernel in kernels}
    group_of = {kernel.place: group for group, kernel in kernels if len(group.layers) > 1}
    candidates: dict[tuple[int, int | None], NDArray[np.float64]] = {}
    for read in reads:
        content = constant(model, read.operator.tensor)
        if content is not None and content.dtype.kind != "b":
            axis = read.operator.output_axis - (read.at is not None)
            candidates[read.place] = _rows(content if read.at is None else content[read.at], axis)
    known = {buffer for buffer, _ in candidates}
    weights = {candidates[place].size for place in group_of}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        content = None if int(tensor.buffer) in known else constant(model, tensor)
        if content is None or content.ndim < 2 or (tensor.buffer, None) in candidates or content.dtype.kind == "b":
            continue
        candidates[int(tensor.buffer), None] = _rows(content, 0)
        if content.ndim > 2 and math.prod(content.shape[1:]) in weights:  # a stack that loops could gather of
            candidates |= {(int(tensor.buffer), at): _rows(each, 0) for at, each in enumerate(content)}
    sizes = {candidates[place].shape for place in group_of}
    wanted = [place for place, content in candidates.items() if content.shape in sizes and content.any()]
    for alike in copy_sets([candidates[place] for place in wanted]):
        places = [wanted[index] for index in alike]
        shared = [place for place in places if place in group_of]
        copies = [place for place in places if place not in planned]
        if shared and copies:
            group = group_of[shared[0]]
            raise SharingBroken(
                f"{path}: group {group.name!r} (layers {_some(group.layers)}): found {1 + len(copies)} buffers that "
                "are equal up to a per-channel factor, expected 1"
            )


def _rows(content: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.moveaxis(content, axis, 0).reshape(content.shape[axis], -1)


def _proven(model: schema.ModelT, group: SharingGroup, kernel: _Read) -> ProvenKernel:
    stored = len(model.buffers[kernel.operator.buffer].data)
    return ProvenKernel(
        group=group.name,
        layers=group.layers,
        constant=tensor_name(kernel.operator.tensor),
        dtype=TYPE_NAMES[kernel.operator.tensor.type].lower(),
        shape=kernel.shape,
        stored_bytes=stored if kernel.at is None else stored // int(kernel.operator.tensor.shape[0]),
    )


def _some(names: tuple[str, ...] | list[str]) -> str:
    return first_names([repr(name) for name in names], SHOWN)
