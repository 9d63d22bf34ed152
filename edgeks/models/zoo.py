"""The zoo: every architecture by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeks.errors import CheckpointError
from edgeks.models.convmixer import ConvMixer
from edgeks.models.counts import conv_weights, parameters
from edgeks.models.presets import PRESETS, Config
from edgeks.models.se_resnet import SEResNet
from edgeks.models.sha_resnet import ShaResNet, ShaResNetImageNet
from edgeks.models.shard_resnet import ShardResNet
from edgeks.models.shard_vgg import ShardVGG
from edgeks.models.soft_resnet import SoftWideResNet

ZOO: dict[str, Callable[..., nn.Module]] = {
    "convmixer": ConvMixer,
    "se_resnet": SEResNet,
    "shard_vgg": ShardVGG,
    "shard_resnet": ShardResNet,
    "sha_resnet": ShaResNet,
    "sha_resnet_imagenet": ShaResNetImageNet,
    "swrn": SoftWideResNet,
}


def presets_like(name: str) -> list[str]:
    """Up to three presets whose names are spelt nearly as `name`."""
    return difflib.get_close_matches(name, PRESETS, n=3)


def unknown(name: str) -> CheckpointError:
    """The error that `name` is no model: the architectures, and the presets that are spelt nearly so."""
    near = presets_like(name)
    legal = f"{', '.join([*ZOO, *near])}, or another preset (`edgeks models` lists them)"
    return CheckpointError(f"unknown model {name!r}; legal: {legal}")


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
        raise unknown(name)
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
    """A row of `edgeks models`. `parameters` and `conv_weights` (|W_conv|) count each shared kernel once."""

    name: str
    architecture: str
    config: Config
    parameters: int
    conv_weights: int
    description: str


def describe(part: str = "") -> list[ModelRow]:
    """A row for every preset whose name, or architecture's name, has `part`, with its full config."""
    rows = []
    for name, preset in PRESETS.items():
        if part not in name and part not in preset.architecture:
            continue
        arch, config = architecture(name)
        with torch.device("meta"):  # counts without allocating anything
            model = build(arch, config)
        rows.append(ModelRow(name, arch, config, parameters(model), conv_weights(model), preset.description))
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
