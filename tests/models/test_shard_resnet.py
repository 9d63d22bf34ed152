"""ShardNet's residual networks: sharing groups, blending, |W_conv| and C by their closed forms, legal configs."""

import pytest
import torch

from edgeks.errors import CheckpointError
from edgeks.models.counts import compression, conv_weights
from edgeks.models.shard_resnet import ShardResNet
from edgeks.sharing.torch import discover

RESNET_34 = RESNET_50 = (3, 4, 6, 3)


def test_sl3_resnet_128_reads_one_kernel_in_18_convolutions():
    with torch.device("meta"):
        plan = discover(ShardResNet(128, (3, 3, 3)))
    (group,) = plan.groups
    assert group.kernel_shape == (128, 128, 3, 3) and len(group.layers) == 18
    assert [k.kernel_shape for k in plan.unshared] == [(128, 128, 1, 1)] * 2 + [(10, 128)]


def test_the_bottleneck_is_shared_as_one_entity_of_three_kernels():
    plan = discover(ShardResNet(16, (2, 1), blending="every", block="bottleneck", stem="7x7"))
    assert {group.kernel_shape: group.layers for group in plan.groups} == {
        shape: tuple(f"stages.{block}.layers.{place}.conv" for block in ("0.0", "0.1", "1.0"))
        for place, shape in enumerate([(4, 16, 1, 1), (4, 4, 3, 3), (16, 4, 1, 1)])
    }
    assert [k.kernel_shape for k in plan.unshared] == [(16, 3, 7, 7), *[(4, 4, 1, 1)] * 3, (10, 16)]


@pytest.mark.parametrize("n", [128, 256])
@pytest.mark.parametrize("b", [3, 5, 7])
def test_cifar_conv_weights_and_compression_by_the_closed_form(b, n):
    """No figure of the paper's tables is publicly recorded: these are the counts of the networks as they stand here."""
    with torch.device("meta"):
        e, sl = ShardResNet(n, (b, b, b), False, "none"), ShardResNet(n, (b, b, b))
        per_block, every = (ShardResNet(n, (b, b, b), blending=word) for word in ("block", "every"))
    assert conv_weights(e) == 6 * b * 9 * n**2
    assert conv_weights(sl) == (9 + 2) * n**2
    assert conv_weights(per_block) == (9 + 3 * b) * n**2
    assert conv_weights(every) == (9 + 6 * b) * n**2
    assert compression(sl, e) == pytest.approx(54 * b / 11)


@pytest.mark.parametrize(("stem", "of_stem"), [("none", 0), ("3x3", 27), ("7x7", 147)])
def test_resnet_34_and_50_conv_weights_by_the_closed_form(stem, of_stem, n=256):
    with torch.device("meta"):
        e34, sl34 = (ShardResNet(n, RESNET_34, *kind, stem=stem) for kind in ((False, "none"), (True, "every")))
        e50, sl50 = (
            ShardResNet(n, RESNET_50, *kind, block="bottleneck", stem=stem)
            for kind in ((False, "none"), (True, "every"))
        )
        wide = ShardResNet(n, RESNET_50, blending="none", block="bottleneck", narrowing=1, stem=stem)
    assert conv_weights(e34) == 32 * 9 * n**2 + of_stem * n
    assert conv_weights(sl34) == (9 + 32) * n**2 + of_stem * n
    assert conv_weights(e50) == 16 * 17 * n**2 // 16 + of_stem * n
    assert conv_weights(sl50) == (17 + 16) * n**2 // 16 + of_stem * n
    assert conv_weights(wide) == 11 * n**2 + of_stem * n


def test_forward_by_hand():
    torch.manual_seed(0)
    model = ShardResNet(4, (1, 1), blending=[2], classes=3).eval()
    images = torch.randn(2, 3, 8, 8)
    kernel = model.stages[0][0].layers[0].conv.weight
    conv = torch.nn.functional.conv2d
    x = torch.cat([images, torch.zeros(2, 1, 8, 8)], 1)
    first, second = model.stages[0][0].layers, model.stages[1][0].layers
    y = torch.relu(first[0].norm(conv(x, kernel, padding=1)))
    y = torch.einsum("nihw,oi->nohw", conv(y, kernel, padding=1), first[1].blend.weight[:, :, 0, 0])
    x = torch.relu(first[1].norm(y) + x)
    y = torch.relu(second[0].norm(conv(x, kernel, stride=2, padding=1)))
    y = second[1].norm(conv(y, kernel, padding=1))
    x = torch.relu(y + x.reshape(2, 4, 4, 2, 4, 2).mean((3, 5)))
    expected = x.mean((2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("stem", "size", "sizes"),
    [("none", 56, [56, 28, 14, 7]), ("3x3", 9, [9, 5, 3, 2]), ("7x7", 224, [56, 28, 14, 7])],
)
def test_resolutions(stem, size, sizes):
    model = ShardResNet(4, (1, 1, 1, 1), stem=stem).eval()
    found = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: found.append(output.shape))
    model(torch.zeros(1, 3, size, size))
    assert found == [(1, 4, size, size) for size in sizes]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": 2}, "channels is 2; legal: a whole number, 3 to 4096"),
        ({"blocks": []}, "blocks is []; legal: a list of 1 to 5 whole numbers"),
        ({"blocks": [1, 10**9]}, "blocks[1] is 1000000000"),
        ({"shared": "yes"}, "shared is 'yes'; legal: true, false"),
        ({"block": "wide"}, "block is 'wide'; legal: basic, bottleneck"),
        ({"stem": None}, "stem is None; legal: none, 3x3, 7x7"),
        ({"blending": "pool"}, "blending is 'pool'; legal: none, every, block, stage, or a list of the 4 convolutions"),
        ({"block": "bottleneck", "channels": 10}, "channels is 10; legal for bottlenecks: a multiple of narrowing, 4"),
        ({"block": "bottleneck", "narrowing": 0}, "narrowing is 0"),
        ({"channels": 4096, "shared": False, "blocks": [3, 4, 6, 3]}, "parameters; legal: up to 250,000,000"),
        ({"channels": 4096, "blending": "every", "blocks": [3, 4, 6, 3]}, "parameters; legal: up to 250,000,000"),
    ],
)
def test_illegal_config(changed, message):
    with pytest.raises(CheckpointError) as caught:
        ShardResNet(**{"channels": 8, "blocks": [1, 1], **changed})
    assert message in str(caught.value)
