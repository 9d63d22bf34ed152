"""ConvMixer: parameter counts, sharing by identity, legal configs."""

import pytest
import torch

from edgeks.errors import CheckpointError
from edgeks.models.convmixer import ConvMixer


@pytest.mark.parametrize(
    ("dim", "depth", "kernels", "parameters"),
    [(128, 4, 0, 112_138), (283, 4, 2, 112_644), (128, 8, 0, 222_218), (410, 8, 2, 221_820)],
)
def test_parameter_counts_equal_table_1_of_arxiv_2210_14151(dim, depth, kernels, parameters):
    model = ConvMixer(dim, depth, 9, 1, kernels)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("depth", "kernels", "group_depths"),
    [(8, 2, [8]), (8, 4, [4, 4]), (8, 8, [2, 2, 2, 2]), (7, 4, [4, 3]), (3, 6, [1, 1, 1]), (3, 0, [1, 1, 1])],
)
def test_groups_are_contiguous_and_even(depth, kernels, group_depths):
    model = ConvMixer(4, depth, 3, 1, kernels)
    runs: list[list[torch.nn.Module]] = []
    for block in model.blocks:
        if runs and runs[-1][0].depthwise.weight is block.depthwise.weight:
            runs[-1].append(block)
        else:
            runs.append([block])
    assert [len(run) for run in runs] == group_depths
    for run in runs:
        for block in run:
            for conv in ("depthwise", "pointwise"):
                assert getattr(block, conv).weight is getattr(run[0], conv).weight
                assert getattr(block, conv).bias is getattr(run[0], conv).bias
    for attribute in ("depthwise.weight", "depthwise.bias", "pointwise.weight", "pointwise.bias"):
        assert len({id(model.get_parameter(f"blocks.{i}.{attribute}")) for i in range(depth)}) == len(group_depths)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len({id(norm.weight) for norm in norms}) == 2 * depth + 1


def test_layer_names():
    layers = [n for n, m in ConvMixer(4, 1, 3, 1).named_modules() if not list(m.children())]
    assert [n for n in layers if "activation" not in n and n != "pool"] == [
        "stem",
        "stem_norm",
        "blocks.0.depthwise",
        "blocks.0.depthwise_norm",
        "blocks.0.pointwise",
        "blocks.0.pointwise_norm",
        "head",
    ]


def test_forward_is_the_published_network():
    torch.manual_seed(0)
    model = ConvMixer(6, 2, 5, 2, kernels=2, in_channels=1, classes=3).eval()
    images = torch.randn(2, 1, 8, 8)
    gelu = torch.nn.functional.gelu
    x = model.stem_norm(gelu(torch.nn.functional.conv2d(images, model.stem.weight, model.stem.bias, stride=2)))
    assert x.shape == (2, 6, 4, 4)
    for block in model.blocks:
        y = torch.nn.functional.conv2d(x, block.depthwise.weight, block.depthwise.bias, padding="same", groups=6)
        x = x + block.depthwise_norm(gelu(y))
        x = block.pointwise_norm(
            gelu(
                torch.einsum("nihw,oi->nohw", x, block.pointwise.weight[:, :, 0, 0])
                + block.pointwise.bias[None, :, None, None]
            )
        )
    expected = x.mean((2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "dim is 0; legal: a whole number, 1 to 8192"),
        ({"dim": 2**40}, "dim is 1099511627776"),
        ({"dim": True}, "dim is True"),
        ({"dim": "64"}, "dim is '64'"),
        ({"depth": 10**9}, "depth is 1000000000; legal: a whole number, 1 to 512"),
        ({"kernel_size": 4}, "kernel_size is 4; legal: an odd number"),
        ({"kernel_size": 65}, "kernel_size is 65"),
        ({"patch_size": 2.0}, "patch_size is 2.0"),
        ({"kernels": 3}, "kernels is 3; legal: 0 (unshared), or an even number"),
        ({"kernels": 6}, "kernels is 6; legal: a whole number, 0 to 4"),
        ({"kernels": -2}, "kernels is -2"),
        ({"classes": None}, "classes is None"),
        ({"dim": 8192, "depth": 512}, "parameters; legal: up to 250,000,000"),
    ],
)
def test_illegal_config(changed, message):
    with pytest.raises(CheckpointError) as caught:
        ConvMixer(**{"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 1, **changed})
    assert message in str(caught.value)
