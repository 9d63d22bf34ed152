"""The exactly-once proof: in the file on disk, every sharing group is one constant, read by its layers only."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeks.audit.onnx.kernels import Kernel, Reader, kernels_of, readers_of
from edgeks.errors import SharingBroken
from edgeks.model_files.onnx_file import Constant, ModelFile, read_model_file
from edgeks.sharing.equality import copy_sets
from edgeks.sharing.plan import UNROLLED, Rolled, SharingGroup, SharingPlan
from edgeks.wording import first_names

SHOWN = 4


@dataclass(frozen=True, slots=True)
class ProvenKernel:
    """One kernel of the plan as it was found in the file: the constant's name, type, shape and bytes."""

    group: str
    layers: tuple[str, ...]
    constant: str
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int

    @property
    def saved_bytes(self) -> int:
        """Bytes the same layers would take more in this file, each with a kernel of its own."""
        return (len(self.layers) - 1) * self.stored_bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """What was proven: `kernels_stored` = sharing groups + unshared layers, each exactly once."""

    path: Path
    kernels_stored: int
    groups: tuple[ProvenKernel, ...]
    unshared: tuple[ProvenKernel, ...]


def prove_exactly_once(path: Path, plan: SharingPlan, rolled: Rolled = UNROLLED) -> Proof:
    """Read the file back by onnx alone and hold it against the plan.

    For every sharing group: all its layers (nodes are named after layers) resolve to one constant, which as many nodes
    read as the group has layers, and no other node; each layer of an int8 QDQ file has a DequantizeLinear of its own;
    no constant that the plan does not name equals it byte for byte or up to a per-channel factor. Every unshared layer
    reads a constant that nothing else reads. Kernels that are zero everywhere equal each other without being copies.

    `rolled`: node in the body of a Loop → the layers that it stands for. The Loop's trip count is theirs, and a kernel
    of one of them alone is the slice that its trip gathers from a stack of as many.

    Raises:
        SharingBroken: naming the group, its layers and what was found.
        ModelFileError: the file cannot be read.
    """
    model = read_model_file(path)
    readers = readers_of(model)
    kernels = kernels_of(model, readers)
    by_layer: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        for layer in kernel.layers:
            by_layer[layer].append(kernel)

    loops = Loops(rolled)
    groups = [(group, _one_kernel(path, group, by_layer, readers, loops)) for group in plan.groups]
    unshared = [(owner, _one_kernel(path, owner, by_layer, readers, loops)) for owner in plan.unshared]
    _no_copies(model, kernels, groups, planned={kernel.constant for _, kernel in (*groups, *unshared)})
    return Proof(
        path=path,
        kernels_stored=len({(kernel.constant, loops.slice(kernel, entry)) for entry, kernel in (*groups, *unshared)}),
        groups=tuple(_proven(group, kernel) for group, kernel in groups),
        unshared=tuple(_proven(owner, kernel) for owner, kernel in unshared),
    )


class Loops:
    """Which node computes each layer, and in which trip of a loop."""

    def __init__(self, rolled: Rolled) -> None:
        self._rolled = rolled
        self._node_of = {layer: (node, trip) for node, layers in rolled.items() for trip, layer in enumerate(layers)}

    def nodes(self, layers: Iterable[str]) -> tuple[str, ...]:
        """Names of the nodes that compute some layers."""
        return tuple(dict.fromkeys(self._node_of.get(layer, (layer, 0))[0] for layer in layers))

    def layers(self, node: str) -> tuple[str, ...]:
        """The layers that a node computes."""
        return self._rolled.get(node, (node,))

    def stands_for_many(self, node: str) -> bool:
        """Whether it was rolled; one in a loop that the network itself has is a layer like any other."""
        return node in self._rolled

    def slice(self, kernel: Kernel, group: SharingGroup) -> int | None:
        """Which kernel of a stack a layer of its own reads; None: the constant is one kernel."""
        return self._node_of.get(group.layers[0], ("", 0))[1] if kernel.readers[0].stacked else None


def _one_kernel(
    path: Path,
    group: SharingGroup,
    by_layer: dict[str, list[Kernel]],
    readers: dict[Constant, tuple[Reader, ...]],
    loops: Loops,
) -> Kernel:
    """The one constant that exactly the layers of `group` read."""
    where = f"{path}: {_describe(group)}"
    nodes = loops.nodes(group.layers)
    missing = [node for node in nodes if node not in by_layer]
    if missing:
        raise SharingBroken(
            f"{where}: no node named {_some(missing)} reads a constant kernel; the layer is missing, renamed, "
            "or its weight is computed at run time"
        )
    doubled = [node for node in nodes if len(by_layer[node]) > 1]
    if doubled:
        raise SharingBroken(f"{where}: {len(by_layer[doubled[0]])} nodes are named {doubled[0]!r}; expected one")
    found = list(dict.fromkeys(by_layer[node][0] for node in nodes))
    if len(found) > 1:
        names = _some([kernel.name for kernel in found])
        raise SharingBroken(f"{where}: found {len(found)} constants ({names}), expected 1; a pass broke the sharing")
    kernel = found[0]
    weight_readers = [reader for reader in readers[kernel.constant] if reader.weight]
    for reader in weight_readers:
        if loops.stands_for_many(reader.node) and reader.trips != len(loops.layers(reader.node)):
            raise SharingBroken(
                f"{where}: node {reader.node!r} runs {reader.trips} times and stands for "
                f"{len(loops.layers(reader.node))} layers"
            )
    others = [reader.node for reader in weight_readers if reader.node not in nodes]
    if others:
        count = len(weight_readers)
        raise SharingBroken(
            f"{where}: constant {kernel.name!r} has {count} readers, expected {len(group.layers)}; "
            f"{_some(others)} is not in the plan's entry"
        )
    stacked = [reader for reader in weight_readers if reader.stacked]
    if stacked and (len(group.layers) > 1 or kernel.shape[0] != stacked[0].trips):
        raise SharingBroken(f"{where}: each trip of a loop gathers another slice of constant {kernel.name!r}")
    if not stacked:
        unnamed = [layer for node in nodes for layer in loops.layers(node) if layer not in group.layers]
        if unnamed:
            raise SharingBroken(f"{where}: constant {kernel.name!r} is also read by {_some(unnamed)} in a loop")
    if math.prod(kernel.shape[1:] if stacked else kernel.shape) != math.prod(group.kernel_shape):
        raise SharingBroken(
            f"{where}: constant {kernel.name!r} has shape {kernel.shape}, expected {group.kernel_shape}"
        )
    dequantizers = {reader.dequantizers for reader in kernel.readers if reader.dequantizers}
    if dequantizers and len(dequantizers) != len(nodes):
        raise SharingBroken(
            f"{where}: constant {kernel.name!r} is read through {len(dequantizers)} DequantizeLinear nodes, "
            f"expected {len(nodes)}, one per layer"
        )
    return kernel


def _no_copies(
    model: ModelFile,
    kernels: tuple[Kernel, ...],
    groups: list[tuple[SharingGroup, Kernel]],
    planned: set[Constant],
) -> None:
    """No constant beside those that the plan names, kernel or not, equals a shared kernel up to a per-channel factor.

    Nor does what lies along the first axis of one, as in the stacks that loops gather of. Two kernels that the plan
    names may be alike: layers that were initialised alike but never tied are two kernels. Compared as output channels
    × taps, so that a copy that was reshaped is found too.
    """
    group_of = {kernel.constant: group for group, kernel in groups}
    kernel_of = {kernel.constant: kernel for kernel in kernels}
    shapes = {_as_matrix(kernel.values()).shape for _, kernel in groups}
    codes = [kernel.constant for _, kernel in groups if kernel.constant.dtype in ("int8", "uint8")]
    digests = {constant.digest(): constant for constant in codes}
    sizes = {math.prod(kernel.shape) for _, kernel in groups}
    bytes_of = {constant: constant.array().tobytes() for constant in codes}
    candidates, values = [], []
    for constant in model.all_constants():
        if constant.dtype == "string" or len(constant.shape) < 2:
            continue
        # Codes with a zero point are known by it only where a layer reads them; a copy that none reads has equal bytes.
        known = constant if constant in kernel_of else digests.get(constant.digest(), constant)
        array = _as_matrix(kernel_of[known].values() if known in kernel_of else constant.array())
        if array.shape in shapes and array.any():
            candidates.append(constant)
            values.append(array)
        if constant not in planned and math.prod(constant.shape[1:]) in sizes and len(constant.shape) > 2:
            for each in constant.array():
                same = next((code for code, content in bytes_of.items() if each.tobytes() == content), None)
                array = _as_matrix(each if same is None else kernel_of[same].values())
                if array.shape in shapes and array.any():
                    candidates.append(constant)
                    values.append(array)
    for indices in copy_sets(values):
        alike = [candidates[index] for index in indices]
        shared = [constant for constant in alike if constant in group_of]
        copies = list(dict.fromkeys(constant.name for constant in alike if constant not in planned))
        if shared and copies:
            group = group_of[shared[0]]
            raise SharingBroken(
                f"{model.path}: {_describe(group)}: found {1 + len(copies)} constants that are equal up to a "
                f"per-channel factor, expected 1; copies of {shared[0].name!r}: {_some(copies)} "
                "(a pass folded a scale into a copy)"
            )


def _as_matrix(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def _proven(group: SharingGroup, kernel: Kernel) -> ProvenKernel:
    return ProvenKernel(group.name, group.layers, kernel.name, kernel.dtype, kernel.shape, kernel.stored_bytes)


def _describe(group: SharingGroup) -> str:
    kind = "sharing group" if len(group.layers) > 1 else "unshared layer"
    return f"{kind} {group.name!r} (layers {_some(group.layers)})"


def _some(names: tuple[str, ...] | list[str]) -> str:
    return first_names([repr(name) for name in names], SHOWN)
