"""One kernel and positive scales: exact where kernels are multiples, and the best weighted mean of directions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeks.sharing.least_squares import shared_kernel

SHAPES = st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 9))  # layers, output channels, taps


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(kernels, weights, kernel, scales):
    """Σ weights_l·‖W_l/s_l − W‖², with W in units of its own size."""
    scaled = torch.stack(list(kernels)) / scales[..., None]
    size = kernel.norm(dim=1, keepdim=True)
    return (weights * ((scaled - kernel) / size).square().sum(2)).sum()


@settings(max_examples=20)
@given(SHAPES, st.integers(0, 999))
def test_positive_multiples_come_back_exactly(shape, seed):
    layers, channels, taps = shape
    base, factors = random(channels, taps, seed=seed), 0.1 + random(layers, channels, seed=seed).abs()
    kernels = [factor[:, None] * base for factor in factors]
    kernel, scales = shared_kernel(kernels, torch.ones(layers, channels))
    assert bool((scales > 0).all())
    for own, scale in zip(kernels, scales, strict=True):
        torch.testing.assert_close(scale[:, None] * kernel, own)


@settings(max_examples=20)
@given(SHAPES, st.integers(0, 999))
def test_no_other_kernel_of_that_size_is_nearer(shape, seed):
    layers, channels, taps = shape
    kernels, weights = random(layers, channels, taps, seed=seed), random(layers, channels, seed=seed + 1).abs()
    kernel, scales = shared_kernel(list(kernels), weights)
    sizes = kernels.norm(dim=2)
    torch.testing.assert_close(scales * kernel.norm(dim=1), sizes)  # every layer keeps its size
    torch.testing.assert_close(kernel.norm(dim=1), sizes.square().mean(0).sqrt())
    best = objective(kernels, weights, kernel, scales)
    for step in range(5):
        other = kernel + 0.1 * kernel.norm() * random(channels, taps, seed=seed + step)
        other *= (kernel.norm(dim=1) / other.norm(dim=1))[:, None]
        assert objective(kernels, weights, other, scales) >= best - 1e-9


def test_a_layer_that_does_not_count_and_one_that_is_small():
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1e-3]])
    kernel, scales = shared_kernel([first, second], torch.tensor([[1.0], [0.0]]))
    assert kernel[0, 1] == 0 and scales[1] / scales[0] == torch.tensor(1e-3)
    kernel, _ = shared_kernel([first, second], torch.ones(2, 1))
    torch.testing.assert_close(kernel[0, 0], kernel[0, 1])  # a small kernel has the say of a large one


def test_channels_that_are_zero_cancel_or_count_nowhere():
    zero, one = torch.zeros(1, 3), torch.tensor([[0.0, 2.0, 0.0]])
    kernel, scales = shared_kernel([zero, zero], torch.ones(2, 1))
    assert not kernel.any() and not scales.any()
    kernel, scales = shared_kernel([zero, one], torch.ones(2, 1))
    torch.testing.assert_close(scales[1] * kernel, one.double())
    assert scales[0] == 0
    kernel, scales = shared_kernel([one, -one], torch.ones(2, 1))
    torch.testing.assert_close(scales[0] * kernel, one.double())
    kernel, _ = shared_kernel([one, 2 * one], torch.zeros(2, 1))
    assert kernel[0, 1] > 0
