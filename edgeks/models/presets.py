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


def _se_resnets() -> dict[str, Preset]:
    """SE-ResNet of arXiv 2210.14151: each depth, and each choice of stages that share."""
    choices: dict[str, tuple[list[int], str]] = {
        "": ([], "unshared"),
        "_shared3": ([3], "stage 3 shared"),
        "_shared23": ([2, 3], "stages 2 and 3 shared"),
        "_shared": ([1, 2, 3], "every stage shared"),
    }
    return {
        f"se_resnet_d{depth}{suffix}": Preset(
            "se_resnet", f"{depth} blocks a stage, {words}", {"blocks_per_stage": depth, "shared_stages": stages}
        )
        for depth in (2, 3, 4, 6, 8, 10)
        for suffix, (stages, words) in choices.items()
    }


def _shard_vggs() -> dict[str, Preset]:
    """ShardNet's VGG-like networks for 32×32 and 56×56."""
    kinds: dict[str, tuple[bool, str, str]] = {
        "e_vggnet": (False, "none", "E-VGGNet({n}): 13 convolutions, unshared"),
        "s_vggnet": (True, "none", "S-VGGNet({n}): one kernel for 13 convolutions"),
        "sl_vggnet": (True, "every", "SL-VGGNet({n}): one kernel, a blending layer behind each of 13 uses"),
        "sl_stage_vggnet": (
            True,
            "stage",
            "SLℓ-VGGNet({n}) as edgeks reads it: blending ahead of each pool",
        ),
    }
    return {
        f"{kind}_{n}": Preset("shard_vgg", words.format(n=n), {"channels": n, "shared": shared, "blending": blending})
        for n in (128, 256)
        for kind, (shared, blending, words) in kinds.items()
    }


def _shard_resnets() -> dict[str, Preset]:
    """ShardNet's residual networks for CIFAR (three stages), Tiny ImageNet (four) and ImageNet (four, and a stem)."""
    made: dict[str, Preset] = {}
    for n, blocks in ((128, 3), (128, 5), (128, 7)):
        config = {"channels": n, "blocks": [blocks] * 3}
        made[f"e{blocks}_resnet_{n}"] = Preset(
            "shard_resnet",
            f"E{blocks}-ResNet({n}) for CIFAR: {6 * blocks} convolutions, unshared",
            {**config, "shared": False, "blending": "none"},
        )
        made[f"sl{blocks}_resnet_{n}"] = Preset(
            "shard_resnet",
            f"SL{blocks}-ResNet({n}) for CIFAR: one kernel for {6 * blocks} convolutions, each blended",
            {**config, "blending": "every"},
        )
    for suffix, n, stem, images in (("", 256, "none", "Tiny ImageNet"), ("_imagenet", 512, "7x7", "ImageNet")):
        for layers, block, blending in ((34, "basic", "every"), (50, "bottleneck", "block")):
            config = {"channels": n, "blocks": [3, 4, 6, 3], "block": block, "stem": stem}
            made[f"e_resnet{layers}_{n}{suffix}"] = Preset(
                "shard_resnet",
                f"E-ResNet-{layers}({n}) for {images}, unshared",
                {**config, "shared": False, "blending": "none"},
            )
            shared = "one kernel for 32 convolutions, each blended" if block == "basic" else "16 bottlenecks as one"
            made[f"sl_resnet{layers}_{n}{suffix}"] = Preset(
                "shard_resnet",
                f"SL-ResNet-{layers}({n}) for {images}: {shared}{'' if block == 'basic' else ', each blended'}",
                {**config, "blending": blending},
            )
    return made


PRESETS: dict[str, Preset] = {
    "convmixer_48_6_2k": _convmixer(48, 6, 5, 2, "small and quick: for first steps and 8×8 digits"),
    "convmixer_128_4": _convmixer(128, 4, 9, 0, "arXiv 2210.14151 Table 1, unshared"),
    "convmixer_283_4_2k": _convmixer(283, 4, 9, 2, "arXiv 2210.14151 Table 1, the parameters of 128/4 in 2 kernels"),
    "convmixer_128_8": _convmixer(128, 8, 9, 0, "arXiv 2210.14151 Table 1, unshared"),
    "convmixer_410_8_2k": _convmixer(410, 8, 9, 2, "arXiv 2210.14151 Table 1, the parameters of 128/8 in 2 kernels"),
    "convmixer_256_16": _convmixer(256, 16, 9, 0, "ConvMixer-256/16, unshared"),
    "convmixer_256_16_2k": _convmixer(256, 16, 9, 2, "ConvMixer-256/16, all blocks read 2 kernels"),
    "convmixer_256_16_4k": _convmixer(256, 16, 9, 4, "ConvMixer-256/16, 2 groups of 8 blocks"),
    "convmixer_256_16_8k": _convmixer(256, 16, 9, 8, "ConvMixer-256/16, 4 groups of 4 blocks"),
    "convmixer_384_20": _convmixer(384, 20, 9, 0, "ConvMixer-384/20, unshared"),
    "convmixer_384_20_2k": _convmixer(384, 20, 9, 2, "ConvMixer-384/20, all blocks read 2 kernels"),
    "convmixer_384_20_4k": _convmixer(384, 20, 9, 4, "ConvMixer-384/20, 2 groups of 10 blocks"),
    "convmixer_384_20_8k": _convmixer(384, 20, 9, 8, "ConvMixer-384/20, 4 groups of 5 blocks"),
    **_se_resnets(),
    **_shard_vggs(),
    **_shard_resnets(),
}
