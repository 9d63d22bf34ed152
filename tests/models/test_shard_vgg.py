"""ShardNet's VGG-like networks: what is shared, what the image meets, |W_conv| and C by their closed forms."""

import pytest
import torch

from edgeks.errors import CheckpointError, DataError
from edgeks.models.counts import compression, conv_weights
from edgeks.models.shard_vgg import ShardVGG
from edgeks.sharing.torch import discover


def shared_layers(model):
    return [group.layers for group in discover(model).groups]


def test_s_vggnet_256_reads_one_kernel_in_13_convolutions():
    with torch.device("meta"):
        (group,) = discover(ShardVGG(256)).groups
    assert group.kernel_shape == (256, 256, 3, 3)
    assert group.layers == tuple(
        f"stages.{stage}.{i}.conv" for stage, length in enumerate((2, 2, 3, 3, 3)) for i in range(length)
    )


@pytest.mark.parametrize("n", [128, 256])
def test_conv_weights_and_compression_by_the_closed_form(n):
    """No figure of the paper's tables is publicly recorded: these are the counts of the networks as they stand here."""
    with torch.device("meta"):
        e, s = ShardVGG(n, False), ShardVGG(n)
        sl, stage, two = (ShardVGG(n, blending=blending) for blending in ("every", "stage", [1, 13]))
    assert conv_weights(e) == 9 * n * (3 + 12 * n)
    assert conv_weights(s) == 9 * n**2
    assert conv_weights(sl) == (9 + 13) * n**2
    assert conv_weights(stage) == (9 + 4) * n**2
    assert conv_weights(two) == (9 + 2) * n**2
    assert compression(s, e) == pytest.approx(12 + 3 / n)
    assert compression(sl, e) == pytest.approx(9 * (12 + 3 / n) / 22)


@pytest.mark.parametrize(
    ("blending", "followed"),
    [("none", []), ("every", [1, 2, 3, 4]), ("stage", [2, 3]), ([2, 4], [2, 4])],
)
def test_blending_layers_and_norms_are_each_layers_own(blending, followed):
    model = ShardVGG(8, blending=blending, convolutions=(2, 1, 1))
    layers = [layer for stage in model.stages for layer in stage]
    assert [i for i, layer in enumerate(layers, 1) if isinstance(layer.blend, torch.nn.Conv2d)] == followed
    assert shared_layers(model) == [tuple(n for n, m in model.named_modules() if n.endswith(".conv"))]
    own = [layer.blend.weight for layer in layers if isinstance(layer.blend, torch.nn.Conv2d)]
    own += [layer.norm.weight for layer in layers]
    assert len({id(weight) for weight in own}) == len(followed) + 4


def test_forward_by_hand():
    torch.manual_seed(0)
    model = ShardVGG(5, blending=[1], convolutions=(1, 1), classes=3).eval()
    first, second = model.stages[0][0], model.stages[1][0]
    images = torch.randn(2, 3, 8, 8)
    kernel = first.conv.weight
    # Zeros behind the image's channels: the kernel's other inputs have no say.
    x = torch.nn.functional.conv2d(images, kernel[:, :3], padding=1)
    x = torch.einsum("nihw,oi->nohw", x, first.blend.weight[:, :, 0, 0])
    x = torch.nn.functional.max_pool2d(torch.relu(first.norm(x)), 2)
    x = torch.nn.functional.max_pool2d(torch.relu(second.norm(torch.nn.functional.conv2d(x, kernel, padding=1))), 2)
    expected = x.mean((2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_the_unshared_network_reads_the_image_as_it_is():
    model = ShardVGG(6, False, convolutions=(1, 1))
    assert model.stages[0][0].conv.weight.shape == (6, 3, 3, 3)
    assert shared_layers(model) == []


@pytest.mark.parametrize("size", [32, 56])
def test_vgg_16s_pools_leave_one_place_of_32_and_of_56(size):
    places = []
    model = ShardVGG(4, classes=7).eval()
    model.mean.register_forward_hook(lambda module, inputs, output: places.append(inputs[0].shape))
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 7)
    assert places == [(1, 4, 1, 1)]


def test_an_image_that_the_pools_use_up():
    with pytest.raises(DataError, match="5 max pools take images of 32×32 or more, found 8×40"):
        ShardVGG(4)(torch.zeros(1, 3, 8, 40))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": 2}, "channels is 2; legal: a whole number, 3 to 4096"),
        ({"channels": 2, "shared": False, "classes": 0}, "classes is 0"),
        ({"shared": 1}, "shared is 1; legal: true, false"),
        ({"convolutions": [0]}, "convolutions[0] is 0"),
        ({"convolutions": [2] * 9}, "convolutions is [2, 2"),
        ({"blending": "some"}, "blending is 'some'; legal: none, every, stage, or a list of the 13 convolutions"),
        ({"blending": []}, "blending is []"),
        ({"blending": [14]}, "blending is [14]"),
        ({"blending": [1, 1]}, "blending is [1, 1]"),
        ({"blending": [True]}, "blending is [True]"),
        ({"blending": None}, "blending is None"),
        ({"channels": 4096, "shared": False}, "parameters; legal: up to 250,000,000"),
        ({"channels": 4096, "blending": "every"}, "parameters; legal: up to 250,000,000"),
    ],
)
def test_illegal_config(changed, message):
    with pytest.raises(CheckpointError) as caught:
        ShardVGG(**{"channels": 8, **changed})
    assert message in str(caught.value)
