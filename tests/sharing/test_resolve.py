"""Template banks → stored kernels: the same function for any mix, by the arithmetic of docs/adr/0021."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeks.errors import ConfigError
from edgeks.sharing.resolve import resolve_soft_sharing, stored_kernels
from edgeks.sharing.template_bank import coefficients_of, share_bank
from edgeks.sharing.torch import discover, plan_sharing, soft_share

X = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """Layers that read one bank with the given mixing vectors; their outputs are added."""

    def __init__(self, alpha, *, groups=1):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, groups=groups) for _ in alpha)
        share_bank(list(self.layers), len(alpha[0]))
        for layer, row in zip(self.layers, alpha, strict=True):
            coefficients_of(layer).data.copy_(torch.tensor(row))

    def forward(self, x):
        return [layer(x) for layer in self.layers]


def resolved(alpha, form="smallest", **options):
    """The resolved network, how its bank is stored, and its largest error relative to the largest output."""
    model = Chain(alpha).eval()
    plain, (bank,) = resolve_soft_sharing(model, form, **options)
    with torch.no_grad():
        expected, found = torch.stack(model(X)), torch.stack(plain.train()(X))
    return plain, bank, float((expected - found).abs().max() / expected.abs().max())


vectors = st.integers(1, 4).flatmap(
    lambda k: st.lists(
        st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=k, max_size=k),
        min_size=max(2, k),
        max_size=6,
    )
)


@settings(max_examples=30, deadline=None)
@given(vectors, st.sampled_from(["smallest", "fastest"]))
def test_any_mix_is_computed_exactly_by_no_more_kernels_than_there_are_templates(alpha, form):
    rank = np.linalg.matrix_rank(np.array(alpha))
    _, bank, error = resolved(alpha, form)
    assert error < 1e-5
    if form == "smallest":
        assert bank.kernels == max(rank, 1)
    else:
        assert bank.convolutions == bank.layers


@pytest.mark.parametrize(
    ("alpha", "form", "kernels", "convolutions"),
    [
        ([[1.0], [2.0], [-3.0]], "smallest", 1, 3),  # one template: a kernel and a factor per layer
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -2.0]], "smallest", 2, 6),  # two layers are the basis
        ([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -2.0]], "fastest", 4, 4),
        ([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0]], "smallest", 1, 3),  # one direction, though there are two templates
        ([[1.0, 2.0], [2.0, 1.0], [2.0, 4.0]], "smallest", 2, 3),  # as many directions as templates: nothing is summed
    ],
)
def test_how_banks_are_stored(alpha, form, kernels, convolutions):
    plain, bank, error = resolved(alpha, form)
    assert (bank.kernels, bank.convolutions) == (kernels, convolutions)
    assert len(discover(plain).kernels) == kernels
    assert error < 1e-6


def test_a_kernel_that_takes_no_more_bytes_than_the_gains_it_avoids_is_stored():
    alpha, gram = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]]), np.eye(2)
    # Stored: the direction that two layers have, and one more; the third's layer would have one term more, of 10 bytes.
    assert len(stored_kernels(alpha, gram, 10, 10)[0]) == 3
    assert len(stored_kernels(alpha, gram, 11, 10)[0]) == 2


def test_bytes_per_weight_decide_for_depthwise_layers():
    model = Chain([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], groups=4)
    found = {size: resolve_soft_sharing(model, weight_bytes=size)[1][0].kernels for size in (1, 4)}
    assert found == {1: 2, 4: 2}  # 9 weights a channel are dearer than 8 bytes of gain and shift
    assert resolve_soft_sharing(model, "fastest")[1][0].kernels == 3


def test_most_factors_are_positive():
    plain, _, _ = resolved([[1.0], [-2.0], [-3.0]])
    gains = [module.weight[0].item() for name, module in plain.named_modules() if name.endswith("gain1")]
    assert gains == [-1.0, 2.0, 3.0]


def test_layers_of_one_kernel_are_written_alike():
    plain, _, _ = resolved([[1.0], [1.0], [1.0]])
    assert {type(layer) for layer in plain.layers} == {nn.Conv2d}  # no factor at all
    plain, _, _ = resolved([[1.0], [2.0], [1.0]])
    assert {type(layer).__name__ for layer in plain.layers} == {"KernelSum"}


def test_biases_and_the_model_itself_are_kept():
    model = Chain([[1.0], [2.0]]).eval()
    plain, _ = resolve_soft_sharing(model)
    assert plain is not model and discover(model).banks and not discover(plain).banks
    gain = plain.layers[1].gain1
    assert torch.equal(gain.bias, model.layers[1].bias)
    assert not plain.train().layers[1].gain1.training  # its statistics never move


def test_without_banks_the_model_is_returned():
    model = nn.Sequential(nn.Conv2d(3, 3, 3))
    assert resolve_soft_sharing(model) == (model, ())
    with pytest.raises(ConfigError, match="form 'best' of template banks; legal: smallest, fastest"):
        resolve_soft_sharing(model, "best")


def test_a_network_of_a_users_own_with_one_module_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.again = self.a

        def forward(self, x):
            return self.again(self.b(self.a(x)))

    model = Twice()
    soft_share(model, plan_sharing(model, [["a", "b"]]), 1)
    plain, (bank,) = resolve_soft_sharing(model.eval())
    assert plain.again is plain.a
    torch.testing.assert_close(plain(X), model(X))
    assert bank.kernels == 1
