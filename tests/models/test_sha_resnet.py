"""ShaResNet: the parameters of its tables, which layers share, legal configs."""

import pytest
import torch
from torch import nn

from edgeks.errors import CheckpointError
from edgeks.models.counts import parameters
from edgeks.models.sha_resnet import ShaResNet, ShaResNetImageNet
from edgeks.models.zoo import build
from edgeks.sharing.torch import discover


@pytest.mark.parametrize(
    ("name", "printed", "exact"),
    [
        ("resnet_164", "1.70", 1_703_258),
        ("sha_resnet_164", "0.93", 929_114),
        ("wrn_40_4", "8.95", 8_949_210),
        ("sha_wrn_40_4", "5.85", 5_852_634),
        ("wrn_28_10_c100", "36.54", 36_536_884),
        ("sha_wrn_28_10_c100", "26.86", 26_860_084),
        ("resnet_34", "21.8", 21_797_672),
        ("sha_resnet_34", "13.6", 13_613_864),
        ("resnet_50", "25.6", 25_557_032),
        ("sha_resnet_50", "20.5", 20_469_800),
        ("resnet_101", "44.5", 44_549_160),
        ("sha_resnet_101", "29.4", 29_434_920),
        ("resnet_152", "60.2", 60_192_808),
        ("sha_resnet_152", "36.8", 36_821_032),
    ],
)
def test_parameters_as_in_the_table_of_the_authors(name, printed, exact):
    """`printed`: millions, in the table of the published code's README. `exact` is derived from that code's rule."""
    with torch.device("meta"):
        count = parameters(build(name, {}))
    assert count == exact
    assert f"{count / 1e6:.{len(printed.partition('.')[2])}f}" == printed


def test_a_stage_shares_the_last_3x3_of_its_blocks_but_the_first():
    with torch.device("meta"):
        basic, bottleneck = (discover(ShaResNet(depth, bottleneck=b)).groups for depth, b in ((28, False), (38, True)))
    for groups in (basic, bottleneck):
        assert [group.layers for group in groups] == [
            tuple(f"stages.{stage}.{block}.conv2" for block in (1, 2, 3)) for stage in (1, 2, 3)
        ]
    assert [group.kernel_shape for group in bottleneck] == [(16 * k, 16 * k, 3, 3) for k in (1, 2, 4)]


def test_imagenet_shares_the_second_3x3_of_basic_blocks_and_the_3x3_of_bottlenecks_without_stride():
    with torch.device("meta"):
        basic = discover(ShaResNetImageNet(18, width=8)).groups
        bottleneck = discover(ShaResNetImageNet(50, width=8)).groups
    assert [group.layers for group in basic] == [
        tuple(f"stages.{stage}.{block}.convs.1" for block in (0, 1)) for stage in (1, 2, 3, 4)
    ]
    assert [len(group.layers) for group in bottleneck] == [3, 3, 5, 2]  # of 3, 4, 6, 3: the strided ones own theirs


def test_shapes_and_gradients_of_all_its_layers():
    model = ShaResNet(22, classes=7)
    images = torch.randn(2, 3, 16, 16)
    loss = model(images).square().sum()
    loss.backward()
    kernel = model.stages["3"][1].conv2.weight
    assert kernel is model.stages["3"][2].conv2.weight
    assert kernel.grad is not None and kernel.grad.abs().sum() > 0
    x, sizes = model.stem(images), []
    for stage in model.stages.values():
        x = stage(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert ShaResNetImageNet(50, width=8, classes=5).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5)


def test_the_unshared_twin_has_no_groups():
    assert not discover(ShaResNet(22, shared=False)).groups
    assert not any(isinstance(m, nn.Conv2d) and m.bias is not None for m in ShaResNet(22).modules())


@pytest.mark.parametrize(
    ("make", "changed", "message"),
    [
        (ShaResNet, {"depth": 163, "bottleneck": True}, "depth is 163; legal with bottleneck blocks: 9·n + 2"),
        (ShaResNet, {"depth": 41}, "depth is 41; legal with basic blocks: 6·n + 4"),
        (ShaResNet, {"depth": 10**9}, "depth is 1000000000; legal: a whole number, 10 to 1202"),
        (ShaResNet, {"depth": 1198, "width": 64}, "parameters; legal: up to 250,000,000"),
        (ShaResNetImageNet, {"depth": 35}, "depth is 35; legal: 18, 34, 50, 101, 152"),
        (ShaResNetImageNet, {"depth": [50]}, "depth is [50]; legal: 18"),
        (ShaResNetImageNet, {"depth": 152, "width": 1024}, "parameters; legal: up to 250,000,000"),
    ],
)
def test_illegal_config(make, changed, message):
    with pytest.raises(CheckpointError) as caught:
        make(**changed)
    assert message in str(caught.value)
