"""The zoo: presets, configs that come from files, seeds."""

import json

import pytest
import torch

from edgeks.errors import CheckpointError
from edgeks.models.zoo import PRESETS, ZOO, architecture, build, describe


@pytest.fixture(scope="module")
def rows():
    return describe()


def test_every_preset_builds_and_is_described(rows):
    assert [row.name for row in rows] == list(PRESETS)
    for row in rows:
        assert row.architecture in ZOO
        assert row.description
        assert json.loads(json.dumps(row.config)) == row.config
    parameters = {row.name: row.parameters for row in rows}
    assert parameters["convmixer_410_8_2k"] == 221_820
    assert parameters["se_resnet_d4"] == 5_892_954
    assert next(row for row in rows if row.name == "s_vggnet_256").conv_weights == 9 * 256**2


def test_describe_counts_what_build_makes(rows):
    row = next(row for row in rows if row.name == "convmixer_283_4_2k")
    model = build(row.architecture, row.config)
    assert sum(p.numel() for p in model.parameters()) == row.parameters
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_architecture_resolves_presets_and_overrides():
    name, config = architecture("convmixer_384_20_2k", {"classes": 100})
    assert name == "convmixer"
    assert config == {
        "dim": 384, "depth": 20, "kernel_size": 9, "patch_size": 1, "kernels": 2, "in_channels": 3, "classes": 100,
    }  # fmt: skip
    assert architecture(name, config) == (name, config)
    assert architecture("se_resnet", {"widths": (16, 32)})[1]["widths"] == [16, 32]


def test_build_from_plain_json():
    _, config = architecture("se_resnet_d4_shared", {"widths": [16, 16, 16], "blocks_per_stage": 2})
    model = build("se_resnet", json.loads(json.dumps(config)))
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    config = {"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 1, "kernels": 2}
    before = torch.random.get_rng_state()
    one, same, other = (build("convmixer", config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("resnet", {}, "unknown model 'resnet'; legal: convmixer, se_resnet"),
        (
            "sl_vggnet256",
            {},
            "sl_vggnet_256, sll_vggnet_256, s_vggnet_256, or another preset (`edgeks models` lists them)",
        ),
        ("convmixer", {"dim": 8}, "config key 'depth' is missing; required: dim, depth, kernel_size, patch_size"),
        ("convmixer_128_4", {"width": 8}, "unknown config key 'width'; legal: dim, depth, kernel_size"),
        ("convmixer_128_4", {"dim": "8"}, "dim is '8'; legal: a whole number"),
        ("se_resnet", {"widths": {"a": 1}}, "widths is {'a': 1}; legal: a list"),
    ],
)
def test_bad_names_and_configs(name, config, message):
    with pytest.raises(CheckpointError) as caught:
        build(name, config)
    assert message in str(caught.value)
