"""Flash: what a model file's bytes are, which of them are stored twice, and which ones sharing saves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from edgeks.audit.compressed import compressed_size
from edgeks.audit.copies import equal_sets, scaled_sets
from edgeks.audit.floor import ScaledCopy, floor_bytes
from edgeks.audit.onnx.kernels import TRANSPARENT_OPS, Kernel, Reader, kernels_of, readers_of
from edgeks.audit.onnx.metadata import metadata_bytes
from edgeks.model_files.onnx_file import Constant, ModelFile

UNREAD = "(read by nothing)"


@dataclass(frozen=True, slots=True)
class SharedKernel:
    """A kernel with two or more layers. `saved_bytes`: what a copy per layer would take more.

    `layers`: names of the nodes that read it, and `runs`, how often each of them does in one inference: a node in the
    body of a loop stands for as many layers. `kernels`: how many the constant holds, of which each trip gathers one.
    """

    constant: str
    dtype: str
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    stored_bytes: int
    runs: tuple[int, ...] = ()
    kernels: int = 1

    @property
    def saved_bytes(self) -> int:
        """(reads − 1) × stored bytes."""
        return (self.reads - 1) * self.stored_bytes

    @property
    def reads(self) -> int:
        """Layers that read one kernel."""
        return (sum(self.runs) or len(self.layers)) // self.kernels

    @property
    def readers(self) -> tuple[str, ...]:
        """The nodes, with how often each runs where that is more than once."""
        runs = self.runs or (1,) * len(self.layers)
        return tuple(f"{name} ×{times}" if times > 1 else name for name, times in zip(self.layers, runs, strict=True))


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

    file_bytes = constant_bytes + graph_bytes; constant_bytes = unique_bytes + what byte-equal copies waste. graph_bytes
    = structure_bytes (operators, shapes, names) + metadata_bytes (what a runtime does not read: documentation, the
    producer's name, properties). `layers` counts the reads of kernels, in a loop
    those of all trips.

    floor_bytes: what the network's numbers need with each kernel once: every constant that something reads, of
    byte-equal ones one, of kernels equal up to a factor one, with a scale of 4 bytes per output channel for each layer
    whose copy goes, unless that layer has its scales in the file already (integer kernels). In .tflite files the scales
    of the kernels count too, 4 bytes each, though they lie in the graph.

    compressed_bytes: by zlib, for updates over the air; None where the file is not known, and of a large file an
    estimate from samples (compressed_is_estimate).
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
    metadata_bytes: int = 0
    floor_bytes: int = 0
    compressed_bytes: int | None = None
    compressed_is_estimate: bool = False

    @property
    def structure_bytes(self) -> int:
        """The graph without metadata."""
        return self.graph_bytes - self.metadata_bytes

    @property
    def overhead_bytes(self) -> int:
        """What the file takes over the floor."""
        return self.file_bytes - self.floor_bytes

    @property
    def scaled_copies(self) -> tuple[CopySet, ...]:
        """Kernels that sharing would store once, had no pass multiplied a factor into each copy."""
        return tuple(copies for copies in self.copies if copies.kind == "scaled")


def measure_flash(model: ModelFile, readers: dict[Constant, tuple[Reader, ...]] | None = None) -> Flash:
    """ModelFile → Flash, by reading what may be a copy of something else.

    Memory does not grow with the size of the constants. Kernels of more than 2^18 taps per output channel, and those of
    more than 128 MB with the output channels on another axis than the first, are compared byte for byte only.
    `readers`: those of the model's constants, where they are known already.
    """
    readers = readers_of(model) if readers is None else readers
    kernels = kernels_of(model, readers)
    constants = model.all_constants()
    constant_bytes = sum(constant.stored_bytes for constant in constants)
    equal = equal_sets(
        [(constant.dtype, constant.shape) for constant in constants], [constant.content for constant in constants]
    )
    position = {constant: index for index, constant in enumerate(constants)}
    of_kernel = {position[kernel.constant]: index for index, kernel in enumerate(kernels)}
    equal_kernels = [[of_kernel[index] for index in alike if index in of_kernel] for alike in equal]
    scaled = scaled_sets([kernel.stored() for kernel in kernels], equal_kernels)
    copies = [_copy_set("equal", [constants[index] for index in alike]) for alike in equal]
    unique_bytes = constant_bytes - sum(copy.wasted_bytes for copy in copies)
    copies += [_copy_set("scaled", [kernels[index].constant for index in alike]) for alike in scaled]
    shared = [found for kernel in kernels if (found := _shared(kernel)).reads > 1]
    # Inlined functions can repeat constants that the file holds once, hence the floor of 0.
    graph_bytes = max(0, model.file_bytes - constant_bytes)
    compressed = compressed_size({model.path, *(constant.data_file for constant in constants if constant.data_file)})
    return Flash(
        file_bytes=model.file_bytes,
        constant_bytes=constant_bytes,
        unique_bytes=unique_bytes,
        graph_bytes=graph_bytes,
        saved_bytes=sum(kernel.saved_bytes for kernel in shared),
        kernels=sum(kernel.count for kernel in kernels),
        layers=sum(sum(kernel.runs) for kernel in kernels),
        shared=tuple(sorted(shared, key=lambda kernel: -kernel.saved_bytes)),
        copies=tuple(sorted(copies, key=lambda copy: -copy.wasted_bytes)),
        ops=_bytes_per_op(constants, readers),
        metadata_bytes=min(graph_bytes, metadata_bytes(model.proto)),
        floor_bytes=floor_bytes(
            [constant.stored_bytes for constant in constants],
            [bool(readers.get(constant)) for constant in constants],
            equal,
            [[_scaled_copy(kernels[index]) for index in alike] for alike in scaled],
        ),
        compressed_bytes=compressed.compressed_bytes,
        compressed_is_estimate=compressed.estimated,
    )


def _shared(kernel: Kernel) -> SharedKernel:
    return SharedKernel(
        kernel.name, kernel.dtype, kernel.shape, kernel.layers, kernel.stored_bytes, kernel.runs, kernel.count
    )


def _scaled_copy(kernel: Kernel) -> ScaledCopy:
    own_scales = kernel.dtype in ("int8", "uint8")
    return ScaledCopy(kernel.stored_bytes, 0 if own_scales else kernel.stored().shape[0] * sum(kernel.runs))


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
