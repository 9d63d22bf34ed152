"""Tying: what is exact, what BN takes, and what is said where it can take nothing."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeks.errors import PlanError
from edgeks.models.convmixer import ConvMixer
from edgeks.sharing.torch import apply_plan, discover, plan_sharing
from edgeks.sharing.tying import tie


def network(seed, *, bias=False, groups=1, multiples=True):
    """Three conv – BN – ReLU whose kernels are positive multiples per channel of one kernel; trained-looking BN."""
    torch.manual_seed(seed)
    blocks = []
    for _ in range(3):
        norm = nn.BatchNorm2d(4)
        with torch.no_grad():
            norm.weight.uniform_(-0.5, 1.5)
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 3)
        blocks += [nn.Conv2d(4, 4, 3, padding=1, bias=bias, groups=groups), norm, nn.ReLU()]
    model = nn.Sequential(*blocks).eval()
    if multiples:
        with torch.no_grad():
            for conv in (model[3], model[6]):
                conv.weight.copy_(model[0].weight * (0.2 + 3 * torch.rand(4, 1, 1, 1)))
    return model


@settings(max_examples=8)
@given(st.integers(0, 999), st.booleans(), st.sampled_from([1, 4]), st.booleans())
def test_multiples_of_one_kernel_are_tied_without_a_change(seed, bias, groups, tie_bias):
    model = network(seed, bias=bias, groups=groups)
    plan = plan_sharing(model, "all", tie_bias=tie_bias and bias)
    tied = copy.deepcopy(model)
    (fit,) = tie(tied, plan, "least_squares")
    assert fit.layers == 3 and fit.relative_error < 1e-6 and fit.unscaled is None
    assert discover(tied) == plan
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(tied(x), model(x), rtol=1e-4, atol=1e-4)
    for before, after in zip(model, tied, strict=True):
        if isinstance(before, nn.BatchNorm2d):
            assert torch.equal(before.weight > 0, after.weight > 0)  # no sign of γ changes


def test_the_statistics_become_those_of_the_shared_convolution():
    """Measured on the untied network's own inputs, so that training mode goes on where evaluation stood."""
    model = network(3)
    x = torch.randn(64, 4, 12, 12)
    with torch.no_grad():
        for layer in (1, 4, 7):  # statistics that the network really has
            y = model[:layer](x)
            model[layer].running_mean.copy_(y.mean((0, 2, 3)))
            model[layer].running_var.copy_(y.var((0, 2, 3)))
    tied = copy.deepcopy(model)
    tie(tied, plan_sharing(tied, "all"), "least_squares")
    for layer in (1, 4, 7):
        y = tied[:layer](x)
        torch.testing.assert_close(tied[layer].running_mean, y.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(tied[layer].running_var, y.var((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_a_dead_channel_has_no_say_and_stays_dead():
    model = network(1, multiples=False)
    with torch.no_grad():
        model[3].weight[2] *= 1e-12
        model[4].running_var[2] = 1e-24
    live = torch.stack([model[0].weight[2].flatten(), model[6].weight[2].flatten()]).detach()
    tie(model, plan_sharing(model, "all"), "least_squares")
    kernel = model[0].weight[2].detach().flatten()
    outside = kernel - torch.linalg.lstsq(live.T, kernel[:, None]).solution.flatten() @ live
    assert outside.norm() < 1e-5 * kernel.norm()
    assert model[4].weight[2].abs() < 1e-6 and bool(torch.isfinite(model[4].running_var).all())


@pytest.mark.parametrize("init", ["first", "mean"])
def test_first_and_mean_are_apply_plan_s_and_leave_bn_alone(init):
    model = network(2, multiples=False)
    plan = plan_sharing(model, "all")
    expected = apply_plan(copy.deepcopy(model), plan, init).state_dict()
    (fit,) = tie(model, plan, init)
    assert fit.unscaled is None and 0.3 < fit.relative_error < 1
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_no_scale_goes_through_gelu():
    model = ConvMixer(4, 2, 3, 1)
    plan = plan_sharing(model, "all")
    expected = apply_plan(copy.deepcopy(model), plan, "mean").state_dict()
    fits = tie(model, plan, "least_squares")
    assert [fit.unscaled for fit in fits] == [
        "blocks.0.depthwise is read by GELU, not by BN alone",
        "blocks.0.pointwise is read by GELU, not by BN alone",
    ]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_orthogonal_kernels_are_as_far_as_the_report_says():
    model = network(0, multiples=False)
    with torch.no_grad():
        for index, conv in enumerate((model[0], model[3], model[6])):
            conv.weight.zero_()
            conv.weight[:, index] = 1.0
    (fit,) = tie(model, plan_sharing(model, "all"), "mean")
    assert fit.relative_error == pytest.approx(fit.unrelated_error) == pytest.approx((2 / 3) ** 0.5)


def test_nothing_is_changed_where_something_is_wrong():
    model = network(0)
    before = copy.deepcopy(model.state_dict())
    plan = plan_sharing(model, "all")
    with pytest.raises(PlanError, match="unknown initialisation 'best'; legal: first, mean, least_squares"):
        tie(model, plan, "best")
    model[6] = nn.Conv2d(4, 4, 1)
    with pytest.raises(PlanError, match="not isomorphic"):
        tie(model, plan, "least_squares")
    assert not discover(model).groups
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items() if "6" not in name)
