"""Sizes that the user gives for inputs that an ONNX file leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx import ModelProto

from edgeks.errors import ConfigError
from edgeks.model_files.onnx_file import ModelFile, all_graphs

ONLY = ""  # stands for the name of the input where there is one


def with_input_sizes(model: ModelFile, sizes: Mapping[str, tuple[int, ...]]) -> ModelFile:
    """ModelFile with open sizes of its inputs → the same with those sizes, also wherever else they have that name.

    Raises:
        ConfigError: no such input, another number of axes, or a size that the file fixes to something else.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    inputs = {value.name: value for value in proto.graph.input if value.name not in model.constants[""]}
    named: dict[str, int] = {}
    for name, given in sizes.items():
        found = next(iter(inputs.values())) if name == ONLY and len(inputs) == 1 else inputs.get(name)
        if found is None:
            legal = ", ".join(inputs) or "none, the file has no input"
            raise ConfigError(f"--input {_text(name, given)}: legal names: {legal}")
        dims = found.type.tensor_type.shape.dim
        declared = "x".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
        fits = len(dims) == len(given) and all(
            not dim.HasField("dim_value") or dim.dim_value == size for dim, size in zip(dims, given, strict=True)
        )
        if not fits:
            raise ConfigError(f"--input {_text(name, given)}: the file declares {found.name}={declared}")
        for dim, size in zip(dims, given, strict=True):
            own = dim.dim_param
            if own and named.setdefault(own, size) != size:
                raise ConfigError(f"--input {_text(name, given)}: {own!r} is {named[own]} in another place")
            dim.dim_value = size
    for _, graph in all_graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in named:
                    dim.dim_value = named[dim.dim_param]
    return replace(model, proto=proto)


def _text(name: str, sizes: tuple[int, ...]) -> str:
    return f"{name}={'x'.join(map(str, sizes))}".removeprefix("=")
