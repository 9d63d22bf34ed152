"""What papers count: figures that they print where they are known, closed forms where they are not."""

import pytest
import torch
from torch import nn

from edgeks.models.counts import compression, conv_weights, flops, parameters
from edgeks.models.zoo import PRESETS, build


def preset(name, **config):
    with torch.device("meta"):
        return build(name, config)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("convmixer_128_4", 112_138),
        ("convmixer_283_4_2k", 112_644),
        ("convmixer_128_8", 222_218),
        ("convmixer_410_8_2k", 221_820),
    ],
)
def test_parameters_as_printed_in_table_1_of_arxiv_2210_14151(name, printed):
    assert parameters(preset(name)) == printed


@pytest.mark.parametrize("name", ["convmixer_384_20", "convmixer_384_20_2k"])
def test_gflops_as_printed_in_arxiv_2210_14151(name):
    assert round(flops(preset(name), 32, 32) / 1e9, 1) == 7.4


def test_flops_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 3 * 4, 5),
    )
    assert flops(model, 6, 8) == 2 * 12 * 8 * (27 + 9) + 4 * 12 * 8 + 2 * 96 * 5
    assert model.training and next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize("kernels", [1, 2, 4, 8])
@pytest.mark.parametrize(("classes", "head"), [(10, 2_570), (100, 25_700)])
def test_convmixer_256_16_by_the_closed_form(kernels, classes, head):
    """`kernels` pairs of a depthwise and a pointwise kernel, biases with them; a BN behind every convolution."""
    model = preset("convmixer_256_16", kernels=2 * kernels, classes=classes)
    assert parameters(model) == 4 * 256 + 33 * 512 + kernels * 256 * (82 + 257) + head
    assert conv_weights(model) == 3 * 256 + kernels * 256 * (81 + 256)
    assert compression(model, preset("convmixer_256_16")) == pytest.approx((3 + 16 * 337) / (3 + kernels * 337))


@pytest.mark.parametrize("depth", [2, 3, 4, 6, 8, 10])
def test_se_resnet_by_the_closed_form(depth):
    """Every depth and choice of stages: a stage that shares stores one of its 2·depth − 1 isomorphic kernels."""
    widths = {1: 64, 2: 128, 3: 256}
    unshared = preset(f"se_resnet_d{depth}")
    stem_and_head = 9 * 3 * 16 + 2 * 16 + 257 * 10
    entries = 10 * (16 * 64 + 64 * 128 + 128 * 256)  # 3×3, and 1×1 of the identity
    norms = 2 * (2 * depth + 1) * sum(widths.values())
    gates = depth * sum(2 * c * (c // 16) for c in widths.values())
    kernels = (2 * depth - 1) * 9 * sum(c * c for c in widths.values())
    assert parameters(unshared) == stem_and_head + entries + norms + gates + kernels
    for suffix, stages in (("_shared3", (3,)), ("_shared23", (2, 3)), ("_shared", (1, 2, 3))):
        spared = (2 * depth - 2) * 9 * sum(widths[stage] ** 2 for stage in stages)
        model = preset(f"se_resnet_d{depth}{suffix}")
        assert parameters(unshared) - parameters(model) == conv_weights(unshared) - conv_weights(model) == spared


def test_sharing_changes_no_flops():
    assert flops(preset("se_resnet_d2"), 32, 32) == flops(preset("se_resnet_d2_shared"), 32, 32)


def test_every_row_of_the_networks_with_a_paper_is_a_preset():
    expected = {f"se_resnet_d{d}{s}" for d in range(2, 11) for s in ("", "_shared3", "_shared23", "_shared")}
    expected |= {f"convmixer_{size}{k}" for size in ("256_16", "384_20") for k in ("", "_2k", "_4k", "_8k")}
    expected |= {f"{kind}_vggnet_256" for kind in ("e", "s", "sl", "sll")}
    expected |= {f"{kind}{b}_resnet_128" for kind in ("e", "sl") for b in (3, 5, 7)}
    expected |= {f"{kind}_resnet{d}_{n}" for kind in ("e", "sl") for d in (34, 50) for n in ("256", "512_imagenet")}
    assert expected <= set(PRESETS)
