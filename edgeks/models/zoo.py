"""The zoo: every architecture by name, and presets: named configs of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgeks.errors import CheckpointError
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet

Config = dict[str, Any]

ZOO: dict[str, Callable[..., nn.Module]] = {
    "convmixer": ConvMixer,
    "se_resnet": SEResNet,
}


@dataclass(frozen=True, slots=True)
class Preset:
    """A config with a name; keys that it leaves out have the architecture's defaults."""

    architecture: str
    description: str
    config: Config = field(default_factory=dict)


def _convmixer(dim: int, depth: int, kernel_size: int, kernels: int, description: str) -> Preset:
    config = {"dim": dim, "depth": depth, "kernel_size": kernel_size, "patch_size": 1, "kernels": kernels}
    return Preset("convmixer", description, config)


PRESETS: dict[str, Preset] = {
    "convmixer_48_6_2k": _convmixer(48, 6, 5, 2, "small and quick: for first steps and 8×8 digits"),
    "convmixer_128_4": _convmixer(128, 4, 9, 0, "arXiv 2210.14151 Table 1, unshared"),
    "convmixer_283_4_2k": _convmixer(283, 4, 9, 2, "arXiv 2210.14151 Table 1, the parameters of 128/4 in 2 kernels"),
    "convmixer_128_8": _convmixer(128, 8, 9, 0, "arXiv 2210.14151 Table 1, unshared"),
    "convmixer_410_8_2k": _convmixer(410, 8, 9, 2, "arXiv 2210.14151 Table 1, the parameters of 128/8 in 2 kernels"),
    "convmixer_384_20": _convmixer(384, 20, 9, 0, "ConvMixer-384/20, unshared"),
    "convmixer_384_20_2k": _convmixer(384, 20, 9, 2, "ConvMixer-384/20, all blocks read 2 kernels"),
    "convmixer_384_20_4k": _convmixer(384, 20, 9, 4, "ConvMixer-384/20, 2 groups of 10 blocks"),
    "convmixer_384_20_8k": _convmixer(384, 20, 9, 8, "ConvMixer-384/20, 4 groups of 5 blocks"),
    "se_resnet_d4": Preset("se_resnet", "SE-ResNet for CIFAR, 4 blocks a stage, unshared", {"shared_stages": []}),
    "se_resnet_d4_shared3": Preset("se_resnet", "SE-ResNet d4, the last stage shared", {"shared_stages": [3]}),
    "se_resnet_d4_shared": Preset("se_resnet", "SE-ResNet d4, every stage shared", {"shared_stages": [1, 2, 3]}),
}


def names() -> str:
    """Every legal model name, for error messages."""
    return ", ".join([*ZOO, *PRESETS])


def architecture(name: str, overrides: Mapping[str, Any] | None = None) -> tuple[str, Config]:
    """Name of an architecture or preset, and overrides → architecture name and its full config, as JSON-plain values.

    Raises:
        CheckpointError: an unknown name or key, or a key without default that is not given.
    """
    if name in PRESETS:
        arch, config = PRESETS[name].architecture, dict(PRESETS[name].config)
    elif name in ZOO:
        arch, config = name, {}
    else:
        raise CheckpointError(f"unknown model {name!r}; legal: {names()}")
    return arch, _full(arch, {**config, **(overrides or {})})


def build(name: str, config: Mapping[str, Any], seed: int | None = None) -> nn.Module:
    """Architecture (or preset) and config → a new network, with the same weights for the same `seed`.

    Raises:
        CheckpointError: an unknown name or key, or a value of the wrong type or out of bounds.
    """
    arch, full = architecture(name, config)
    if seed is None:
        return ZOO[arch](**full)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ZOO[arch](**full)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A row of `edgeks models`. `parameters` counts each shared kernel once."""

    name: str
    architecture: str
    config: Config
    parameters: int
    description: str


def describe() -> list[ModelRow]:
    """A row for every preset, with its full config."""
    rows = []
    for name, preset in PRESETS.items():
        arch, config = architecture(name)
        with torch.device("meta"):  # counts parameters without allocating them
            parameters = sum(p.numel() for p in build(arch, config).parameters())
        rows.append(ModelRow(name, arch, config, parameters, preset.description))
    return rows


def _full(arch: str, config: Mapping[str, Any]) -> Config:
    """`config` with the defaults filled in, in the constructor's order."""
    arguments = inspect.signature(ZOO[arch]).parameters
    for key in config:
        if key not in arguments:
            raise CheckpointError(f"{arch}: unknown config key {key!r}; legal: {', '.join(arguments)}")
    full: Config = {}
    for key, argument in arguments.items():
        value = config.get(key, argument.default)
        if value is inspect.Parameter.empty:
            raise CheckpointError(f"{arch}: config key {key!r} is missing; required: {', '.join(_required(arch))}")
        full[key] = list(value) if isinstance(value, tuple) else value
    return full


def _required(arch: str) -> list[str]:
    arguments = inspect.signature(ZOO[arch]).parameters.values()
    return [argument.name for argument in arguments if argument.default is inspect.Parameter.empty]
