"""The most memory that ONNX Runtime takes for weights while it opens a file: its requests, in their order, to the heap.

The file is parsed, each constant into a string, and copied from there into a tensor. Folding makes a tensor of its own
for a kernel, with two temporaries; laying out in blocks does, with three. What was read stays until all kernels have
been through. Then kernels are packed, node by node, and what all readers have packed goes. A node whose packed kernel
can be shared packs it before it looks whether another has packed the same, and then gives its own back. (Traced with
ONNX Runtime 1.31.1: Graph, Initializer, ConvBNFusion, NchwcTransformer, PrepackConstantInitializedTensors.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeks.audit.onnxruntime.heap import Heap

PARSER_BYTES = 4 << 20  # the buffer through which the file is read
STRING_SLACK = 4064  # of a large string that is read piece by piece
SMALL = 128  # tensors that stay in the graph


@dataclass(frozen=True, slots=True)
class Pack:
    """A node packs the kernel `source` into `size_bytes`; `scratch_bytes` are needed meanwhile.

    `is_copy`: another node has packed the same, and this one goes. `is_last`: nothing reads the source after it.
    """

    source: str
    size_bytes: int
    scratch_bytes: int
    is_copy: bool
    is_last: bool


@dataclass
class Loading:
    """What happens to constants, each under a name. Bytes: of those in the file itself, not in external data.

    `folds` and `blocks`: name read, name written, and the bytes of both, in the order in which nodes run.
    `whole_file_bytes`: of an .ort file, which is read as one ahead of all.
    """

    stored: dict[str, int] = field(default_factory=dict)
    folds: list[tuple[str, str, int, int]] = field(default_factory=list)
    blocks: list[tuple[str, str, int, int]] = field(default_factory=list)
    packs: list[Pack] = field(default_factory=list)
    whole_file_bytes: int = 0

    def peak_bytes(self, kept: Iterable[str]) -> int:
        """Bytes resident at the worst moment; `kept`: tensors that are still needed once all were rewritten."""
        heap = Heap()
        whole = heap.allocate(self.whole_file_bytes) if self.whole_file_bytes else None
        held = self._read(heap)
        if whole is not None:
            heap.free(whole)
        staying = {*kept, *(pack.source for pack in self.packs)}
        heap.crowded = True
        read_later = staying | {name for name, *_ in self.blocks}
        for _, made, read, written in self.folds:
            copy = heap.allocate_aligned(read)
            text = heap.allocate(written)
            held[made] = heap.allocate_aligned(written)
            heap.free(text)
            heap.free(copy)
        _drop(heap, held, [source for source, *_ in self.folds], read_later)
        for _, made, read, written in self.blocks:
            copy = heap.allocate_aligned(read)
            blocked, text = heap.allocate(written), heap.allocate(written)
            held[made] = heap.allocate_aligned(written)
            for temporary in (text, blocked, copy):
                heap.free(temporary)
        _drop(heap, held, [source for source, *_ in self.blocks], staying)
        heap.crowded = False
        for pack in self.packs:
            packed = heap.allocate_aligned(pack.size_bytes)
            if pack.scratch_bytes:
                heap.free(heap.allocate_aligned(pack.scratch_bytes))
            if pack.is_copy:
                heap.free(packed)
            if pack.is_last:
                _drop(heap, held, [pack.source], set())
        return heap.peak_bytes

    def _read(self, heap: Heap) -> dict[str, int]:
        """Parse, and copy into tensors."""
        buffer = heap.allocate(PARSER_BYTES, written=sum(self.stored.values()))
        texts = {name: heap.allocate(size + STRING_SLACK * (size > STRING_SLACK)) for name, size in self.stored.items()}
        heap.free(buffer)
        held = {}
        for name, size in self.stored.items():
            if size < SMALL:
                held[name] = texts[name]
                continue
            held[name] = heap.allocate_aligned(size)
            heap.free(texts[name])
        return held


def _drop(heap: Heap, held: dict[str, int], names: Iterable[str], needed: set[str]) -> None:
    for name in dict.fromkeys(names):
        if name in held and name not in needed:
            heap.free(held.pop(name))
