"""Flash: what a model file's bytes are, which of them are stored twice, and which ones sharing saves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from edgeks.audit.kernels import TRANSPARENT_OPS, Kernel, Reader, kernels_of, readers_of
from edgeks.onnx_file import Constant, ModelFile
from edgeks.sharing.equality import copy_sets

UNREAD = "(read by nothing)"


@dataclass(frozen=True, slots=True)
class SharedKernel:
    """A kernel with two or more layers. `saved_bytes`: what a copy per layer would take more."""

    constant: str
    dtype: str
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    stored_bytes: int

    @property
    def saved_bytes(self) -> int:
        """(layers − 1) × stored bytes."""
        return (len(self.layers) - 1) * self.stored_bytes


@dataclass(frozen=True, slots=True)
class CopySet:
    """Constants that hold one thing several times: `equal` byte for byte, or kernels `scaled` by a factor per channel.

    `wasted_bytes` is everything but the largest of them.
    """

    kind: Literal["equal", "scaled"]
    constants: tuple[str, ...]
    shape: tuple[int, ...]
    wasted_bytes: int


@dataclass(frozen=True, slots=True)
class OpBytes:
    """Constants that ops of one type read; a constant that several types read counts for the first."""

    op_type: str
    nodes: int
    constants: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Flash:
    """Where the bytes of a file are.

    file_bytes = constant_bytes + graph_bytes (structure, names, metadata);
    constant_bytes = unique_bytes + what byte-equal copies waste. `layers` counts the reads of kernels.
    """

    file_bytes: int
    constant_bytes: int
    unique_bytes: int
    graph_bytes: int
    saved_bytes: int
    kernels: int
    layers: int
    shared: tuple[SharedKernel, ...]
    copies: tuple[CopySet, ...]
    ops: tuple[OpBytes, ...]

    @property
    def scaled_copies(self) -> tuple[CopySet, ...]:
        """Kernels that sharing would store once, had no pass multiplied a factor into each copy."""
        return tuple(copies for copies in self.copies if copies.kind == "scaled")


def measure_flash(model: ModelFile) -> Flash:
    """ModelFile → Flash, by reading every constant once."""
    readers = readers_of(model)
    kernels = kernels_of(model, readers)
    constants = model.all_constants()
    constant_bytes = sum(constant.stored_bytes for constant in constants)
    equal = _equal_copies(constants)
    shared = [
        SharedKernel(kernel.name, kernel.dtype, kernel.shape, kernel.layers, kernel.stored_bytes)
        for kernel in kernels
        if len(kernel.layers) > 1
    ]
    copies = (*equal, *_scaled_copies(kernels))
    return Flash(
        file_bytes=model.file_bytes,
        constant_bytes=constant_bytes,
        unique_bytes=constant_bytes - sum(copy.wasted_bytes for copy in equal),
        # Inlined functions can repeat constants that the file holds once, hence the floor.
        graph_bytes=max(0, model.file_bytes - constant_bytes),
        saved_bytes=sum(kernel.saved_bytes for kernel in shared),
        kernels=len(kernels),
        layers=sum(len(kernel.layers) for kernel in kernels),
        shared=tuple(sorted(shared, key=lambda kernel: -kernel.saved_bytes)),
        copies=tuple(sorted(copies, key=lambda copy: -copy.wasted_bytes)),
        ops=_bytes_per_op(constants, readers),
    )


def _equal_copies(constants: list[Constant]) -> list[CopySet]:
    by_digest: dict[bytes, list[Constant]] = defaultdict(list)
    for constant in constants:
        by_digest[constant.digest()].append(constant)
    return [_copy_set("equal", alike) for alike in by_digest.values() if len(alike) > 1]


def _scaled_copies(kernels: tuple[Kernel, ...]) -> list[CopySet]:
    """Sets of kernels equal up to a factor; of byte-equal ones, which are counted already, only one takes part."""
    distinct = list({kernel.constant.digest(): kernel for kernel in kernels}.values())
    sets = copy_sets([kernel.values() for kernel in distinct])
    return [_copy_set("scaled", [distinct[index].constant for index in indices]) for indices in sets]


def _copy_set(kind: Literal["equal", "scaled"], alike: list[Constant]) -> CopySet:
    sizes = [constant.stored_bytes for constant in alike]
    names = tuple(constant.name for constant in alike)
    return CopySet(kind, names, alike[0].shape, sum(sizes) - max(sizes))


def _bytes_per_op(constants: list[Constant], readers: dict[Constant, tuple[Reader, ...]]) -> tuple[OpBytes, ...]:
    totals: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    nodes: dict[str, set[str]] = defaultdict(set)
    for constant in constants:
        found = readers.get(constant, ())
        # The scale of a kernel is read by DequantizeLinear itself; where an op proper reads it too, that op has it.
        proper = next((reader for reader in found if reader.op_type not in TRANSPARENT_OPS), None)
        chosen = proper or (found[0] if found else None)
        op_type = chosen.op_type if chosen else UNREAD
        count, stored = totals[op_type]
        totals[op_type] = count + 1, stored + constant.stored_bytes
        for reader in found:
            nodes[reader.op_type].add(reader.node)
    rows = [OpBytes(op, len(nodes[op]), count, stored) for op, (count, stored) in totals.items()]
    return tuple(sorted(rows, key=lambda row: (-row.stored_bytes, row.op_type)))
