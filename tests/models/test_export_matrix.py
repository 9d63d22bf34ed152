"""Every architecture of the zoo, small: ONNX and TFLite, fp32 and int8, each kernel proven to be stored once."""

import pytest
from export_matrix import matrix, untrained

from edgeks.models.zoo import ZOO
from edgeks.sharing.resolve import resolve_soft_sharing
from edgeks.sharing.torch import discover

VGG = {"channels": 8, "convolutions": [2, 2, 1]}
RESNET = {"channels": 8, "blocks": [2, 2]}

# Name → architecture, config, and whether it has blocks of one kernel that repeat.
SMALL = {
    "ConvMixer, 4 kernels": (
        "convmixer",
        {"dim": 8, "depth": 4, "kernel_size": 5, "patch_size": 2, "kernels": 4},
        True,
    ),
    "SE-ResNet, {1,2}": (
        "se_resnet",
        {"blocks_per_stage": 3, "widths": [8, 16], "reduction": 4, "shared_stages": [1, 2]},
        True,
    ),
    "E-VGGNet": ("shard_vgg", {**VGG, "shared": False}, False),
    "S-VGGNet": ("shard_vgg", VGG, True),
    "SL-VGGNet": ("shard_vgg", {**VGG, "blending": "every"}, True),
    "SL-VGGNet, a layer per stage": ("shard_vgg", {**VGG, "blending": "stage"}, False),
    "E-ResNet": ("shard_resnet", {**RESNET, "shared": False, "blending": "none"}, False),
    "SL-ResNet": ("shard_resnet", RESNET, True),
    "SL-ResNet, bottlenecks, stem": (
        "shard_resnet",
        {**RESNET, "channels": 16, "block": "bottleneck", "stem": "7x7"},
        True,
    ),
    "ShaResNet, bottlenecks": ("sha_resnet", {"depth": 29, "bottleneck": True}, True),
    "ShaResNet-18": ("sha_resnet_imagenet", {"depth": 18, "width": 8, "classes": 10}, True),
    "SWRN, 1 template": ("swrn", {"depth": 16, "width": 1, "templates": 1}, True),
}


def test_every_architecture_is_in_the_matrix():
    assert {arch for arch, *_ in SMALL.values()} == set(ZOO)


@pytest.mark.parametrize("name", SMALL)
def test_it_exports_with_every_kernel_once(name, tmp_path):
    arch, config, rolls = SMALL[name]
    checkpoint = untrained(arch, config, 32 if arch == "sha_resnet_imagenet" else 16)  # its stem has stride 4
    kernels = discover(resolve_soft_sharing(checkpoint.model)[0]).kernels
    rows = list(matrix(name, checkpoint, tmp_path))
    assert len(rows) == 8
    for row in rows:
        if row.form == "rolled" and not rolls:
            assert row.reason == "nothing repeats"
            continue
        assert row.kernels == len(kernels), row
        assert row.layers == sum(len(kernel.layers) for kernel in kernels), row
        assert row.sqnr_db > (80 if row.precision == "fp32" else 15), row
