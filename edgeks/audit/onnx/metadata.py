"""The part of an ONNX file that no runtime reads: documentation, properties, the name of the producer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import GraphProto, ModelProto

from edgeks.model_files.onnx_file import subgraphs

OF_MODEL = ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props")
OF_PARTS = ("doc_string", "metadata_props")


def metadata_bytes(proto: ModelProto) -> int:
    """Bytes of doc strings and properties of the model and every part of it, and of what says who made it."""
    return _bytes_of(proto, OF_MODEL) + sum(_bytes_of(part, OF_PARTS) for part in _parts(proto.graph, ""))


def _bytes_of(message: Any, fields: tuple[str, ...]) -> int:
    """What some fields of a message take in the file, its names of fields and lengths included."""
    only = type(message)()
    known = message.DESCRIPTOR.fields_by_name
    for name in fields:
        if name not in known:
            continue
        if known[name].is_repeated:
            getattr(only, name).extend(getattr(message, name))
        elif message.HasField(name):
            setattr(only, name, getattr(message, name))
    return int(only.ByteSize())


def _parts(graph: GraphProto, graph_path: str) -> Iterator[Any]:
    yield graph
    yield from (*graph.initializer, *graph.input, *graph.output, *graph.value_info)
    for node in graph.node:
        yield node
        yield from node.attribute
        for body_path, body in subgraphs(node, graph_path):
            yield from _parts(body, body_path)
