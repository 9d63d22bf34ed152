"""One range for what all layers of a kernel read, and one for what they give: then they pack the same kernel."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeks.graph.kernels import reads_by_kernel
from edgeks.graph.passes.quantize_activations import Placement, Range


def common_ranges(model: ir.Model, placement: Placement, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges by name of the Value → the same, joined over the inputs, and over the outputs, of each shared kernel.

    XNNPACK packs the input's scale and zero point and the output's scale with a kernel (docs/adr/0018). A Value that
    layers of several kernels read joins all of theirs.
    """
    root: dict[str, str] = {name: name for name in ranges}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for readers in reads_by_kernel(model).values():
        if len(readers) < 2 or readers[0].node.op_type != "Conv" or readers[0].dequantize is None:
            continue
        for values in ([read.node.inputs[0] for read in readers], [read.node.outputs[0] for read in readers]):
            sources = [source for value in values if (source := placement.source(value)) is not None]
            names = [str(source.name) for source in sources if str(source.name) in root]
            for name in names[1:]:
                root[find(name)] = find(names[0])
    members: dict[str, list[Range]] = {}
    for name, found in ranges.items():
        members.setdefault(find(name), []).append(found)
    joined = {
        name: Range(min(found.low for found in group), max(found.high for found in group))
        for name, group in members.items()
    }
    return {name: joined[find(name)] for name in ranges}
