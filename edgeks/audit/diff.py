"""What changed between two artefacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from edgeks.audit.flash import SharedKernel
from edgeks.audit.footprint import Footprint, ProfileRam


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One figure of both; None where it is not known. `unit` is bytes or a plain count."""

    what: str
    unit: Literal["bytes", "count"]
    old: int | None
    new: int | None

    @property
    def change(self) -> int | None:
        """New − old."""
        return None if self.old is None or self.new is None else self.new - self.old


@dataclass(frozen=True, slots=True)
class Diff:
    """Figures, and the sharing groups (as kernel: layers) that only one of the two has."""

    old: str
    rows: tuple[DiffRow, ...]
    groups_lost: tuple[str, ...]
    groups_gained: tuple[str, ...]


def diff(old: Footprint, new: Footprint) -> Diff:
    """Footprints of two files → what differs.

    RAM is compared for the profiles that both have: as measured where both were, else as predicted.
    """
    rows = [
        DiffRow("file", "bytes", old.flash.file_bytes, new.flash.file_bytes),
        DiffRow("constants, each once", "bytes", old.flash.unique_bytes, new.flash.unique_bytes),
        DiffRow("byte-equal copies", "bytes", *(f.flash.constant_bytes - f.flash.unique_bytes for f in (old, new))),
        DiffRow("graph, names", "bytes", old.flash.structure_bytes, new.flash.structure_bytes),
        DiffRow("metadata", "bytes", old.flash.metadata_bytes, new.flash.metadata_bytes),
        DiffRow("compressed", "bytes", old.flash.compressed_bytes, new.flash.compressed_bytes),
        DiffRow("saved by sharing", "bytes", old.flash.saved_bytes, new.flash.saved_bytes),
        DiffRow("kernels", "count", old.flash.kernels, new.flash.kernels),
        DiffRow("layers", "count", old.flash.layers, new.flash.layers),
        DiffRow("peak activations", "bytes", _peak(old), _peak(new)),
    ]
    before = {row.profile.name: row for row in old.ram}
    for row in new.ram:
        if row.profile.name in before:
            rows.append(DiffRow(f"RAM {row.profile.name}", "bytes", *_needed(before[row.profile.name], row)))
    rows.append(DiffRow("multiply-accumulates", "count", old.compute.macs, new.compute.macs))
    rows.append(DiffRow("parameters", "count", old.compute.parameters, new.compute.parameters))
    lost, gained = (
        tuple(f"{kernel.constant}: {kernel.reads} layers" for kernel in _only_in(one, other))
        for one, other in ((old.flash.shared, new.flash.shared), (new.flash.shared, old.flash.shared))
    )
    return Diff(str(old.path), tuple(rows), lost, gained)


def _only_in(one: Iterable[SharedKernel], other: Iterable[SharedKernel]) -> Iterator[SharedKernel]:
    """The groups of one file that the other has not; a node in a loop stands for layers that have no names there."""
    by_layers = {_names(kernel): kernel.reads for kernel in other}
    for kernel in one:
        layers = _names(kernel)
        if by_layers.get(layers) == kernel.reads:
            continue
        in_loop = max(sum(kernel.runs), len(kernel.layers)) > len(layers)
        if not any(
            reads == kernel.reads and (layers < names if in_loop else names < layers)
            for names, reads in by_layers.items()
        ):
            yield kernel


def _names(kernel: SharedKernel) -> frozenset[str]:
    """The layers without the iterations of a loop, which a TFLite graph has as layers of their own."""
    return frozenset(name.partition(" (iteration ")[0] for name in kernel.layers)


def _needed(old: ProfileRam, new: ProfileRam) -> tuple[int | None, int | None]:
    if not (old.measured and new.measured):
        old, new = (replace(row, measured=None) for row in (old, new))
    return old.needed_bytes, new.needed_bytes


def _peak(footprint: Footprint) -> int | None:
    return footprint.arena.peak.peak_bytes if footprint.arena.peak else None
