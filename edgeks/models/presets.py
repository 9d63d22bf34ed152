"""Presets: configs of the zoo's architectures that have a name, most of them a row of a paper's table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]


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
