"""SWRN: the parameters of the networks of arXiv 1902.09701, its banks, its initialisation, training, checkpoints."""

import pytest
import torch

from edgeks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeks.errors import CheckpointError, ConfigError
from edgeks.models.counts import conv_weights, parameters
from edgeks.models.positive_scales import positive_scales
from edgeks.models.soft_resnet import SoftWideResNet
from edgeks.models.zoo import architecture, build
from edgeks.quant.qat import prepare_qat
from edgeks.sharing.template_bank import bank_of, coefficients_of
from edgeks.sharing.torch import discover


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("wrn_28_10", 36_479_194),
        ("swrn_28_10", 36_479_302),
        ("swrn_28_10_1", 12_287_212),
        ("wrn_28_14", 71_470_810),
        ("swrn_28_14", 71_470_918),
        ("swrn_28_14_2", 33_537_790),
        ("swrn_28_18_2", 55_414_014),
    ],
)
def test_parameters(name, exact):
    """Derived from the rule of the published code; 33.5 million is what is printed of the paper's CIFAR-10 record."""
    with torch.device("meta"):
        assert parameters(build(name, {})) == exact


def test_a_bank_per_stage_for_all_3x3_but_the_first_blocks():
    with torch.device("meta"):
        model = SoftWideResNet(22, 2, 3)
    plan = discover(model)
    assert not plan.groups
    assert [(bank.layers, bank.templates, bank.kernel_shape) for bank in plan.banks] == [
        (tuple(f"stages.{s}.{b}.conv{c}" for b in (1, 2) for c in (1, 2)), 3, (32 * 2 ** (s - 1),) * 2 + (3, 3))
        for s in (1, 2, 3)
    ]
    assert conv_weights(model) == sum(k.kernel_bytes // 4 for k in plan.unshared if len(k.kernel_shape) > 2) + sum(
        3 * bank.kernel_bytes // 4 for bank in plan.banks
    )


def test_mixing_vectors_start_orthonormal_and_templates_he_initialised():
    model = build("swrn", {"depth": 22, "width": 2, "templates": 2}, seed=0)
    layers = [conv for block in model.spatial(3) for conv in block]
    mixes = torch.stack([coefficients_of(layer) for layer in layers])
    torch.testing.assert_close(mixes.T @ mixes, torch.eye(2))
    bank = bank_of(layers[0])
    assert bank is bank_of(layers[3])
    assert bank.templates[1].std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_a_step_trains_templates_and_coefficients_and_a_checkpoint_keeps_them(tmp_path):
    name, config = architecture("swrn", {"depth": 16, "width": 1, "templates": 1, "in_channels": 1})
    model = build(name, config, seed=0).to(memory_format=torch.channels_last)
    layer = model.stages["2"][1].conv1
    before = bank_of(layer).stacked.detach().clone(), coefficients_of(layer).detach().clone()
    with positive_scales(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(4, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(bank_of(layer).stacked, before[0])
    assert not torch.equal(coefficients_of(layer), before[1])

    path, images = tmp_path / "soft.pt", torch.randn(2, 1, 8, 8)
    save_checkpoint(path, Checkpoint(model.eval(), name, config, plan=discover(model)))
    again = load_checkpoint(path)
    assert again.plan == discover(model)
    torch.testing.assert_close(again.model(images), model(images))
    stored = sum(tensor.numel() for tensor in {id(p): p for p in model.state_dict(keep_vars=True).values()}.values())
    assert path.stat().st_size < 4 * stored + 200_000  # the templates once


def test_quantisation_aware_training_is_refused():
    model = build("swrn", {"depth": 16, "width": 1, "templates": 2})
    with pytest.raises(ConfigError, match="mixes its kernels from template banks"):
        prepare_qat(model, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"templates": 3}, "swrn: templates is 3; legal: a whole number, 0 to 2"),
        ({"depth": 10}, "swrn: depth is 10; legal with templates: 16 or more, in steps of 6"),
        ({"depth": 15}, "swrn: depth is 15; legal with basic blocks: 6·n + 4"),
        ({"templates": None}, "swrn: templates is None"),
    ],
)
def test_illegal_config(changed, message):
    with pytest.raises(CheckpointError) as caught:
        SoftWideResNet(**{"depth": 16, "width": 1, "templates": 1, **changed})
    assert message in str(caught.value)
