"""Short names for the tensors that nobody asks for by name: a third of a small int8 file is names otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from edgeks.model_files.onnx_file import all_graphs

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
KERNEL_RANK = 2


def compact_names(proto: onnx.ModelProto) -> None:
    """Rename, in place, every tensor but the graph's inputs, outputs and kernels; nodes keep the names of their layers.

    In the bodies of Loops and the like too: a name stands for one tensor in all of them.
    """
    graph = proto.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    kept |= {tensor.name for tensor in graph.initializer if len(tensor.dims) >= KERNEL_RANK}
    short: dict[str, str] = {"": ""}
    fresh = (name for name in _names() if name not in kept)
    for name in kept:
        short[name] = name
    for _, inner in all_graphs(graph):
        for tensor in inner.initializer:
            if tensor.name not in short:
                short[tensor.name] = next(fresh)
            tensor.name = short[tensor.name]
        for value in (*inner.input, *inner.output, *inner.value_info):
            if value.name not in short:
                short[value.name] = next(fresh)
            value.name = short[value.name]
        for node in inner.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name not in short:
                        short[name] = next(fresh)
                    names[index] = short[name]


def _names() -> Iterator[str]:
    """a, b, … z, 0a …: shortest first, never a number alone, which some viewers take for an index."""
    number = 10
    while True:
        digits, rest = "", number
        while rest:
            rest, digit = divmod(rest, len(DIGITS))
            digits = DIGITS[digit] + digits
        if not digits.isdigit():
            yield digits
        number += 1
