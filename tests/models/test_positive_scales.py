"""γ > 0 by parametrisation: under any optimiser, without a trace in the network, and at no cost while γ > 0."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from edgeks.models.positive_scales import positive_scales


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.Flatten()
    )


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def train(model, steps, lr, momentum=0.0):
    """SGD towards random targets on random images."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(torch.randn(4, 3, 6, 6, generator=generator))
        (output - torch.randn(output.shape, generator=generator)).square().mean().backward()
        optimizer.step()
        yield


@pytest.mark.parametrize(("lr", "steps"), [(0.1, 20), (10.0, 20), (1e4, 2)])
def test_no_rate_makes_a_gamma_negative(lr, steps):
    model = network()
    with positive_scales(model):
        for _ in train(model, steps, lr, momentum=0.9):
            assert all((norm.weight > 0).all() for norm in norms(model))
    assert all((norm.weight > 0).all() for norm in norms(model))


def test_plain_training_would_have_made_some_negative():
    model = network()
    list(train(model, 20, 10.0, momentum=0.9))
    assert any((norm.weight < 0).any() for norm in norms(model))


def test_while_gamma_is_positive_the_bits_are_those_of_plain_training():
    plain, kept = network(), network()
    list(train(plain, 10, 0.02, momentum=0.9))
    assert all((norm.weight > 0.5).all() for norm in norms(plain))
    with positive_scales(kept):
        list(train(kept, 10, 0.02, momentum=0.9))
    first, second = plain.state_dict(), kept.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_afterwards_gammas_are_plain_parameters_under_their_names():
    model = network()
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    with positive_scales(model):
        assert all(parametrize.is_parametrized(norm) for norm in norms(model))
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert all(isinstance(norm._parameters["weight"], nn.Parameter) for norm in norms(model))
    assert [name for name, _ in model.named_parameters() if "parametrizations" in name] == []


def test_an_exception_inside_restores_too():
    model = network()
    with pytest.raises(KeyboardInterrupt), positive_scales(model):
        raise KeyboardInterrupt
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_a_negative_gamma_begins_anew_at_zero_and_can_grow():
    model = network()
    with torch.no_grad():
        norms(model)[0].weight[:2] = torch.tensor([-1.5, -1e-3])
    with positive_scales(model):
        gamma = norms(model)[0].weight.detach()
        assert (gamma > 0).all() and (gamma[:2] < 1e-6).all() and torch.equal(gamma[2:], torch.ones(4))
        list(train(model, 10, 0.5))
    assert (norms(model)[0].weight > 0).all()


def test_gammas_that_layers_share_stay_positive():
    model = network()
    first, second = norms(model)
    second.weight = first.weight
    with positive_scales(model):
        list(train(model, 10, 10.0))
        assert (first.weight > 0).all() and (second.weight > 0).all()
    assert (first.weight > 0).all() and (second.weight > 0).all()
    assert second.weight is first.weight


def test_norms_without_gamma_and_networks_without_norms_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Linear(4, 4))
    with positive_scales(model):
        assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_a_copy_taken_inside_goes_on_working():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    x = torch.randn(2, 1, 3, 3)
    with positive_scales(model):
        best = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(best(x), model(x))
    assert type(model[1]) is nn.BatchNorm2d
