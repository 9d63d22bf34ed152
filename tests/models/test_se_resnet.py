"""SE-ResNet: parameter counts derived by hand, sharing by identity, legal configs."""

import pytest
import torch

from edgeks.errors import CheckpointError
from edgeks.models.se_resnet import SEResNet


def unique_parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts_by_hand():
    # d4: stages of 4 blocks, so 8 3×3 convolutions a stage, the first of which changes the width.
    entry = 9 * (16 * 64 + 64 * 128 + 128 * 256)
    kernel = [9 * 64**2, 9 * 128**2, 9 * 256**2]
    identity = 16 * 64 + 64 * 128 + 128 * 256
    norms = 2 * 16 + (8 + 1) * 2 * (64 + 128 + 256)  # the stem's; eight and the identity's in every stage
    gates = 4 * (2 * 64 * 4 + 2 * 128 * 8 + 2 * 256 * 16)
    stem_and_head = 9 * 3 * 16 + 256 * 10 + 10
    rest = entry + identity + norms + gates + stem_and_head
    assert rest + 7 * sum(kernel) == 5_892_954  # 23.57 MB in fp32, as the literature has it
    assert unique_parameters(SEResNet(shared_stages=())) == 5_892_954
    assert rest + sum(kernel) == 1_248_090
    assert unique_parameters(SEResNet()) == 1_248_090
    assert rest + 7 * kernel[0] + 7 * kernel[1] + kernel[2] == unique_parameters(SEResNet(shared_stages=(3,)))


def test_a_shared_stage_reads_one_kernel_in_seven_layers():
    model = SEResNet(shared_stages=(1, 3), widths=(16, 32, 48), reduction=8)
    readers: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            readers.setdefault(id(module.weight), []).append(name)
    shared = [layers for layers in readers.values() if len(layers) > 1]
    assert shared == [
        ["stages.1.0.conv2"] + [f"stages.1.{block}.conv{n}" for block in (1, 2, 3) for n in (1, 2)],
        ["stages.3.0.conv2"] + [f"stages.3.{block}.conv{n}" for block in (1, 2, 3) for n in (1, 2)],
    ]


def test_shapes_strides_and_squeeze_excite():
    torch.manual_seed(0)
    model = SEResNet(blocks_per_stage=2, widths=(16, 32, 48), classes=7).eval()
    images = torch.randn(2, 3, 16, 16)
    assert model(images).shape == (2, 7)
    x = model.activation(model.stem_norm(model.stem(images)))
    shapes = [(x := stage(x)).shape[1:] for stage in model.stages.values()]
    assert shapes == [(16, 16, 16), (32, 8, 8), (48, 4, 4)]
    se = model.stages["3"][0].se
    gates = torch.sigmoid(torch.relu(x.mean((2, 3)) @ se.reduce.weight.T) @ se.expand.weight.T)
    torch.testing.assert_close(se(x), x * gates[:, :, None, None])


def test_he_initialisation_of_shared_kernels():
    torch.manual_seed(0)
    kernel = SEResNet().stages["3"][2].conv1.weight
    assert kernel.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks_per_stage": 0}, "blocks_per_stage is 0; legal: a whole number, 1 to 64"),
        ({"blocks_per_stage": 10**9}, "blocks_per_stage is 1000000000"),
        ({"widths": 64}, "widths is 64; legal: a list of 1 to 5 whole numbers"),
        ({"widths": "abc"}, "widths is 'abc'"),
        ({"widths": [16, 32, 10**7]}, "widths[2] is 10000000"),
        ({"widths": [16] * 100}, "legal: a list of 1 to 5"),
        ({"shared_stages": [4]}, "shared_stages[0] is 4; legal: a whole number, 1 to 3"),
        ({"shared_stages": None}, "shared_stages is None"),
        ({"reduction": 65}, "reduction is 65; legal: 1 to the smallest of the widths, 64"),
        ({"widths": [4096, 4096], "shared_stages": [], "blocks_per_stage": 64}, "parameters; legal: up to 250,000,000"),
    ],
)
def test_illegal_config(changed, message):
    with pytest.raises(CheckpointError) as caught:
        SEResNet(**changed)
    assert message in str(caught.value)
