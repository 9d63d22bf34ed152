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
        for depth in range(2, 11)
        for suffix, (stages, words) in choices.items()
    }


def _shard_vggs() -> dict[str, Preset]:
    """ShardNet's VGG-like networks for 32×32 and 56×56."""
    kinds: dict[str, tuple[bool, str, str]] = {
        "e_vggnet": (False, "none", "E-VGGNet({n}): 13 convolutions, unshared"),
        "s_vggnet": (True, "none", "S-VGGNet({n}): one kernel for 13 convolutions"),
        "sl_vggnet": (True, "stage", "SL-VGGNet({n}): one kernel, a blending layer at each change of scale"),
        "sll_vggnet": (True, "every", "SLℓ-VGGNet({n}): one kernel, a blending layer behind each convolution"),
    }
    hidden = {"hidden": [512, 512]}
    return {
        f"{kind}_{n}": Preset(
            "shard_vgg", words.format(n=n), {**hidden, "channels": n, "shared": shared, "blending": blending}
        )
        for n in (128, 256)
        for kind, (shared, blending, words) in kinds.items()
    }


def _shard_resnets() -> dict[str, Preset]:
    """ShardNet's residual networks for CIFAR (three stages), Tiny ImageNet (four) and ImageNet (four, and a stem)."""
    made: dict[str, Preset] = {}
    unshared = {"shared": False, "blending": "none"}
    for n, blocks in ((128, 3), (128, 5), (128, 7)):
        config = {"channels": n, "blocks": [blocks] * 3, "stem": "3x3"}
        e, sl = f"E{blocks}-ResNet({n})", f"SL{blocks}-ResNet({n})"
        uses = 6 * blocks
        made[f"e{blocks}_resnet_{n}"] = Preset(
            "shard_resnet", f"{e}, CIFAR: {uses} convolutions, unshared", {**config, **unshared}
        )
        made[f"sl{blocks}_resnet_{n}"] = Preset(
            "shard_resnet",
            f"{sl}, CIFAR: one kernel for {uses} convolutions, 2 blending layers",
            {**config, "blending": "stage"},
        )
    for suffix, n, stem, images, classes in (
        ("", 256, "3x3", "Tiny ImageNet", 200),
        ("_imagenet", 512, "7x7", "ImageNet", 1000),
    ):
        for layers, block, shared in (
            (34, "basic", "one kernel, 3 blending layers"),
            (50, "bottleneck", "one bottleneck, 3 blending layers"),
        ):
            config = {"channels": n, "blocks": [3, 4, 6, 3], "block": block, "stem": stem, "classes": classes}
            made[f"e_resnet{layers}_{n}{suffix}"] = Preset(
                "shard_resnet", f"E-ResNet-{layers}({n}), {images}: unshared", {**config, **unshared}
            )
            made[f"sl_resnet{layers}_{n}{suffix}"] = Preset(
                "shard_resnet", f"SL-ResNet-{layers}({n}), {images}: {shared}", {**config, "blending": "stage"}
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


# ShaResNet (arXiv 1702.08782 and its published code): the networks of its tables, shared and as they were.
def _sha_resnet(depth: int, width: int, classes: int, description: str, *, shared: bool) -> Preset:
    config = {"depth": depth, "width": width, "bottleneck": width == 1, "shared": shared, "classes": classes}
    return Preset("sha_resnet", description, config)


def _sha_resnets_imagenet() -> dict[str, Preset]:
    found = {}
    for depth in (34, 50, 101, 152):
        for name, how, shared in (("resnet", "unshared", False), ("sha_resnet", "3×3 kernels shared in a stage", True)):
            description = f"{'Sha' if shared else ''}ResNet-{depth}, ImageNet, {how}"
            found[f"{name}_{depth}"] = Preset("sha_resnet_imagenet", description, {"depth": depth, "shared": shared})
    return found


# Soft sharing (arXiv 1902.09701): swrn_DEPTH_WIDTH[_TEMPLATES]; without a number as many templates as layers.
def _swrn(depth: int, width: int, templates: int, description: str) -> Preset:
    return Preset("swrn", description, {"depth": depth, "width": width, "templates": templates})


PRESETS |= {
    "resnet_164": _sha_resnet(164, 1, 10, "pre-activation ResNet-164, CIFAR, unshared", shared=False),
    "sha_resnet_164": _sha_resnet(164, 1, 10, "ShaResNet-164, CIFAR, one 3×3 kernel a stage", shared=True),
    "wrn_40_4": _sha_resnet(40, 4, 10, "wide ResNet 40-4, unshared", shared=False),
    "sha_wrn_40_4": _sha_resnet(40, 4, 10, "wide ShaResNet 40-4, the blocks' second 3×3 shared", shared=True),
    "wrn_28_10_c100": _sha_resnet(28, 10, 100, "wide ResNet 28-10, CIFAR-100, unshared", shared=False),
    "sha_wrn_28_10_c100": _sha_resnet(28, 10, 100, "wide ShaResNet 28-10, CIFAR-100", shared=True),
    **_sha_resnets_imagenet(),
    "wrn_28_10": _swrn(28, 10, 0, "wide ResNet 28-10, unshared"),
    "swrn_28_10": _swrn(28, 10, 6, "SWRN 28-10, soft sharing: 6 templates for the 6 layers of a stage"),
    "swrn_28_10_1": _swrn(28, 10, 1, "SWRN 28-10, soft sharing: 1 template for the 6 layers of a stage"),
    "wrn_28_14": _swrn(28, 14, 0, "wide ResNet 28-14, unshared"),
    "swrn_28_14": _swrn(28, 14, 6, "SWRN 28-14, soft sharing: 6 templates for the 6 layers of a stage"),
    "swrn_28_14_2": _swrn(28, 14, 2, "SWRN 28-14, soft sharing: 2 templates for the 6 layers of a stage"),
    "swrn_28_18_2": _swrn(28, 18, 2, "SWRN 28-18, soft sharing: 2 templates for the 6 layers of a stage"),
}
