"""Template banks: the mix is a layer's weight, gradients of all layers meet in the templates, plans know banks."""

import pytest
import torch
from torch import nn

from edgeks.errors import PlanError
from edgeks.sharing.plan import SharingPlan, SoftGroup
from edgeks.sharing.report import plan_json, plan_table
from edgeks.sharing.template_bank import bank_of, coefficients_of, own_kernel, share_bank
from edgeks.sharing.torch import apply_plan, discover, plan_sharing, soft_share, untied


def chain(layers=4, width=4, *, bias=False):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Conv2d(width, width, 3, padding=1, bias=bias) for _ in range(layers)])


def test_a_kernel_is_the_mix_of_the_templates():
    model = chain()
    bank = share_bank(list(model), 2)
    for layer in model:
        alpha = coefficients_of(layer)
        assert alpha.shape == (2,)
        expected = alpha[0] * bank.templates[0] + alpha[1] * bank.templates[1]
        torch.testing.assert_close(layer.weight, expected)
    assert sum(p.numel() for p in model.parameters()) == 2 * 4 * 4 * 9 + 4 * 2


def test_gradients_of_all_layers_meet_in_the_templates():
    model = chain()
    bank, x = share_bank(list(model), 2), torch.randn(1, 4, 5, 5)
    model(x).square().sum().backward()
    twin = untied(model)
    twin(x).square().sum().backward()
    alpha = torch.stack([coefficients_of(layer).detach() for layer in model])
    kernels = torch.stack([layer.weight.grad for layer in twin])
    found = bank.stacked.grad.view_as(bank.templates)
    torch.testing.assert_close(found, torch.einsum("lk,loihw->koihw", alpha, kernels))
    for index, layer in enumerate(model):
        expected = (bank.templates.detach() * kernels[index]).flatten(1).sum(1)
        torch.testing.assert_close(coefficients_of(layer).grad, expected)


def test_svd_starts_from_the_nearest_kernels_that_so_many_templates_allow():
    model = chain(5)
    with torch.no_grad():  # the last three are mixes of the first two
        for index, (a, b) in enumerate([(1.0, 2.0), (0.5, -1.0), (0.0, 3.0)], start=2):
            model[index].weight.copy_(a * model[0].weight + b * model[1].weight)
    before = [layer.weight.detach().clone() for layer in model]
    share_bank(list(model), 2, "svd")
    for layer, kernel in zip(model, before, strict=True):
        torch.testing.assert_close(layer.weight, kernel, atol=1e-5, rtol=1e-4)


def test_a_weight_that_is_assigned_becomes_its_nearest_mix():
    model = chain()
    bank = share_bank(list(model), 2)
    model[1].weight = 3 * bank.templates[0].detach() - bank.templates[1].detach()
    torch.testing.assert_close(coefficients_of(model[1]), torch.tensor([3.0, -1.0]), atol=1e-4, rtol=1e-4)


def test_discover_knows_banks_and_a_plan_makes_them_again():
    model = soft_share(chain(bias=True), plan_sharing(chain(bias=True), 1), 2)
    plan = discover(model)
    assert plan.banks == (SoftGroup("0-3", ("0", "1", "2", "3"), (4, 4, 3, 3), 2, "own"),)
    assert plan.layer_count == 4
    assert SharingPlan.from_json(plan.to_json()) == plan
    other = apply_plan(chain(bias=True), plan)
    assert discover(other) == plan
    bank = bank_of(other[0])
    assert bank_of(apply_plan(other, plan)[0]) is bank  # there already: unchanged


def test_bytes_of_a_bank_by_hand():
    plan = discover(soft_share(chain(bias=True), plan_sharing(chain(bias=True), 1), 2))
    kernel, coefficients, biases = 4 * 4 * 9 * 4, 4 * 2 * 4, 4 * 4 * 4
    assert plan.banks[0].stored_bytes == 2 * kernel + coefficients + biases
    assert plan.banks[0].saved_bytes == 2 * kernel - coefficients
    row = plan_json(plan)["banks"][0]
    assert (row["templates"], row["bytes_stored"]) == (2, plan.banks[0].stored_bytes)
    table = plan_table(plan)
    assert table.title == "0 sharing groups, 1 template bank, 0 unshared layers"
    assert table.caption is None
    assert "banks" not in plan_json(discover(chain()))


def test_a_bank_that_saves_nothing_is_said_to():
    model = chain()
    share_bank(list(model), 4)
    plan = discover(model)
    assert plan.banks[0].saved_bytes < 0
    assert "stores no less than the kernels" in plan_table(plan).caption


def test_the_untied_twin_owns_plain_kernels():
    model, x = chain(), torch.randn(1, 4, 5, 5)
    share_bank(list(model), 1)
    twin = untied(model)
    assert [type(layer) for layer in twin] == [nn.Conv2d] * 4
    assert list(twin.state_dict()) == [f"{n}.weight" for n in range(4)]
    assert torch.equal(twin(x), model(x))
    assert bank_of(model[0]) is not None  # the model itself is as it was


def test_own_kernel_keeps_value_bias_and_frozenness():
    model = chain(bias=True)
    model[0].weight.requires_grad_(False)
    share_bank(list(model), 2)
    assert [coefficients_of(layer).requires_grad for layer in model] == [False, True, True, True]
    value = model[0].weight.detach().clone()
    own_kernel(model[0])
    assert torch.equal(model[0].weight, value) and not model[0].weight.requires_grad
    assert list(model[0].state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("layers", "templates", "init", "message"),
    [
        (chain(1), 1, "orthogonal", "needs at least 2 layers, found 1"),
        (chain(), 0, "orthogonal", "templates of a bank: 0; legal: 1 to the number of its layers, 4"),
        (chain(), 5, "orthogonal", "templates of a bank: 5"),
        (chain(), True, "orthogonal", "templates of a bank: True"),
        (chain(), 2, "mean", "unknown initialisation 'mean' of a template bank; legal: orthogonal, svd"),
        ([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3)], 1, "svd", "must have one kernel shape"),
        ([nn.Linear(4, 4), nn.Linear(4, 4)], 1, "svd", "read by Conv2d layers; found Linear"),
        ([nn.utils.parametrizations.weight_norm(layer) for layer in chain()], 1, "svd", "computed already"),
    ],
)
def test_illegal_banks(layers, templates, init, message):
    with pytest.raises(PlanError) as caught:
        share_bank(list(layers), templates, init)
    assert message in str(caught.value)


def test_plans_that_do_not_fit():
    plan = discover(soft_share(chain(), plan_sharing(chain(), 1), 2))
    with pytest.raises(PlanError, match=r"template bank '0-3' plans 2 templates of \(4, 4, 3, 3\); its layers read"):
        apply_plan(chain(width=8), plan)
    with pytest.raises(PlanError, match="the plan's largest group has 4 layers; legal: fewer than that"):
        soft_share(chain(), plan_sharing(chain(), 1), 4)
    with pytest.raises(PlanError, match="None templates; legal: 1 to the number of its layers, 4"):
        SharingPlan.from_json(plan.to_json().replace('"templates"', '"temples"'))
