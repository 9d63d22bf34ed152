"""The exactly-once proof for .tflite: every sharing group is one buffer, whatever tensors point to it."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgeks.audit.onnx.proof import Proof, ProvenKernel
from edgeks.errors import SharingBroken
from edgeks.sharing.equality import copy_sets
from edgeks.sharing.plan import SharingGroup, SharingPlan
from edgeks.tflite_file import TYPE_NAMES, constant, read_tflite, tensor_name
from edgeks.tflite_kernels import KernelOperator, kernel_operators

SHOWN = 4


def prove_tflite(path: Path, plan: SharingPlan) -> Proof:
    """Read the file back by the schema alone and hold it against the plan.

    For every sharing group: the operators of all its layers (whose outputs are named after them) read one buffer, each
    through a tensor with scales of its own or through one DEQUANTIZE, and no other operator reads it; no other constant
    equals it up to a factor per output channel. Every unshared layer has a buffer that no other layer reads.

    Raises:
        SharingBroken: naming the group, its layers and what was found.
        ModelFileError: the file cannot be read.
    """
    model = read_tflite(path)
    operators = kernel_operators(model)
    by_layer: dict[str, list[KernelOperator]] = defaultdict(list)
    by_buffer: dict[int, list[KernelOperator]] = defaultdict(list)
    for operator in operators:
        by_layer[operator.layer].append(operator)
        by_buffer[operator.buffer].append(operator)
    kernels = [(group, _one_buffer(path, group, by_layer, by_buffer)) for group in (*plan.groups, *plan.unshared)]
    _no_copies(path, model, kernels, {buffer: readers[0] for buffer, readers in by_buffer.items()})
    proven = {group.name: _proven(model, group, kernel) for group, kernel in kernels}
    return Proof(
        path=path,
        kernels_stored=len({kernel.buffer for _, kernel in kernels}),
        groups=tuple(proven[group.name] for group in plan.groups),
        unshared=tuple(proven[group.name] for group in plan.unshared),
    )


def _one_buffer(
    path: Path,
    group: SharingGroup,
    by_layer: dict[str, list[KernelOperator]],
    by_buffer: dict[int, list[KernelOperator]],
) -> KernelOperator:
    where = f"{path}: group {group.name!r} (layers {_some(group.layers)})"
    for layer in group.layers:
        if len(by_layer[layer]) != 1:
            raise SharingBroken(f"{where}: {len(by_layer[layer])} operators compute {layer!r}; expected one")
    buffers = {by_layer[layer][0].buffer for layer in group.layers}
    if len(buffers) > 1:
        raise SharingBroken(f"{where}: found {len(buffers)} buffers, expected 1; a pass broke the sharing")
    readers = by_buffer[buffers.pop()]
    others = [reader.layer for reader in readers if reader.layer not in group.layers]
    if others:
        raise SharingBroken(f"{where}: its buffer is also read by {_some(others)}, which the plan does not name")
    found = readers[0]
    if math.prod(found.tensor.shape) != math.prod(group.kernel_shape):
        raise SharingBroken(f"{where}: its buffer has shape {list(found.tensor.shape)}, expected {group.kernel_shape}")
    return found


def _no_copies(
    path: Path,
    model: schema.ModelT,
    kernels: list[tuple[SharingGroup, KernelOperator]],
    operators: dict[int, KernelOperator],
) -> None:
    """No buffer beside those of the plan equals a shared kernel up to a factor per output channel."""
    planned = {kernel.buffer for _, kernel in kernels}
    group_of = {kernel.buffer: group for group, kernel in kernels if len(group.layers) > 1}
    candidates: dict[int, NDArray[np.float64]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            content = constant(model, tensor)
            if content is None or content.ndim < 2 or tensor.buffer in candidates or content.dtype.kind == "b":
                continue
            axis = operators[tensor.buffer].output_axis if tensor.buffer in operators else 0
            candidates[int(tensor.buffer)] = np.moveaxis(content, axis, 0).reshape(content.shape[axis], -1)
    sizes = {candidates[buffer].shape for buffer in group_of}
    wanted = [buffer for buffer, content in candidates.items() if content.shape in sizes and content.any()]
    for alike in copy_sets([candidates[buffer] for buffer in wanted]):
        buffers = [wanted[index] for index in alike]
        shared = [buffer for buffer in buffers if buffer in group_of]
        copies = [buffer for buffer in buffers if buffer not in planned]
        if shared and copies:
            group = group_of[shared[0]]
            raise SharingBroken(
                f"{path}: group {group.name!r} (layers {_some(group.layers)}): found {1 + len(copies)} buffers that "
                "are equal up to a per-channel factor, expected 1"
            )


def _proven(model: schema.ModelT, group: SharingGroup, kernel: KernelOperator) -> ProvenKernel:
    return ProvenKernel(
        group=group.name,
        layers=group.layers,
        constant=tensor_name(kernel.tensor),
        dtype=TYPE_NAMES[kernel.tensor.type].lower(),
        shape=tuple(int(size) for size in kernel.tensor.shape),
        stored_bytes=len(model.buffers[kernel.buffer].data),
    )


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
