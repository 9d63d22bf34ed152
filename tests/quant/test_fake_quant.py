"""Fake quantisers: what ONNX Runtime computes, LSQ's gradients, and ranges that training cannot spoil."""

import math

import numpy as np
import pytest
import torch
from onnx_text import graph_of
from torch import nn

from edgeks.errors import ConfigError
from edgeks.formats.onnx import REFERENCE, open_session, to_proto
from edgeks.graph.passes.quantize_activations import NUMPY_TYPE, Range
from edgeks.graph.passes.quantize_kernels import codes_at
from edgeks.quant.fake_quant import ActivationFakeQuantize, KernelFakeQuantize


def quantiser(low=-1.0, high=3.0, integer_type="uint8", ranges="learned"):
    made = ActivationFakeQuantize(integer_type, ranges)
    made.set_range(Range(low, high))
    return made


@pytest.mark.parametrize("integer_type", ["int8", "uint8"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-2.0, 2.0), (0.0, 0.0), (-7.5, -1.0)])
def test_it_computes_what_onnx_runtime_does_ties_included(integer_type, low, high):
    made = quantiser(low, high, integer_type).eval()
    scale, zero_point = made.scale.detach().numpy(), NUMPY_TYPE[integer_type](made.zero_point.item())
    graph = graph_of(
        "(float[600] x) => (float[600] y) { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        s=scale,
        z=zero_point,
    )
    generator = np.random.default_rng(0)
    ties = (np.arange(-150, 150) + 0.5) * scale  # where it matters whether rounding comes before the zero point
    x = np.concatenate([generator.normal(0, 2, 300), ties]).astype(np.float32)
    expected = open_session(to_proto(graph).SerializeToString(), REFERENCE).run(None, {"x": x})[0]
    np.testing.assert_array_equal(made(torch.from_numpy(x)).detach().numpy(), expected)


def test_gradients_are_straight_through_inside_and_lsqs_for_the_scale():
    made = quantiser(0.0, 2.55)
    scale = made.scale.item()
    x = torch.tensor([0.503, 1.0, -1.0, 9.0], requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (made(x) * upstream).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0]
    position = x.detach() / scale
    slopes = [round(position[0].item()) - position[0].item(), round(position[1].item()) - position[1].item(), 0, 255]
    expected = sum(s * u for s, u in zip(slopes, upstream.tolist(), strict=True)) / math.sqrt(4 * 255)
    assert made.log_scale.grad.item() == pytest.approx(expected * scale, rel=1e-4)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_learned_step_moves_by_a_share_of_itself(optimizer):
    made = quantiser(0.0, 0.01)
    before = made.scale.item()
    steps = optimizer(made.parameters(), lr=1e-3)
    for seed in range(20):
        torch.manual_seed(seed)
        steps.zero_grad()
        made(0.01 * torch.rand(1000)).sub(0.005).square().sum().backward()
        steps.step()
    assert 0.9 * before < made.scale.item() < 1.1 * before


def test_learning_the_step_lowers_the_error_of_a_range_that_is_too_wide():
    torch.manual_seed(0)
    x = torch.rand(4000)
    made = quantiser(0.0, 20.0)
    error = [float((made(x) - x).square().mean())]
    steps = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(100):
        steps.zero_grad()
        loss = (made(x) - x).square().mean()
        loss.backward()
        steps.step()
    error.append(float((made(x) - x).square().mean()))
    assert error[1] < error[0] / 20


def test_a_moving_average_follows_training_batches_and_rests_in_evaluation():
    made = ActivationFakeQuantize("uint8", "moving_average").train()
    made(torch.tensor([0.0, 10.0]))
    assert made.high.item() == 10
    made(torch.tensor([-1.0, 0.0]))
    assert (made.low.item(), made.high.item()) == (pytest.approx(-0.1), pytest.approx(9.0))
    made.eval()(torch.tensor([-100.0, 100.0]))
    assert made.high.item() == pytest.approx(9.0)
    assert not list(made.parameters())


def test_the_first_training_batch_gives_the_range_and_no_range_is_an_error():
    made = ActivationFakeQuantize("uint8", "learned")
    with pytest.raises(ConfigError, match=r"no range yet: train on a batch first, or call edgeks\.quant\.observe"):
        made.eval()(torch.ones(3))
    made.train()(torch.tensor([-1.0, 3.0]))
    made(torch.tensor([-50.0, 50.0]))
    found = made.range()
    assert (found.low, found.high) == (pytest.approx(-1, abs=0.02), pytest.approx(3, abs=0.02))


def test_the_kernel_of_training_is_the_kernel_of_the_export():
    torch.manual_seed(0)
    kernel = torch.randn(6, 4, 3, 3)
    kernel[2] = 0
    made = KernelFakeQuantize(kernel, "learned")
    with torch.no_grad():
        made.log_scale.add_(0.3 * torch.randn(6))
    scale = made.scale.detach().numpy()
    codes = codes_at(kernel.numpy(), scale, 0)
    assert np.abs(codes).max() == 127  # some channels are clipped
    np.testing.assert_array_equal(made(kernel).detach().numpy(), codes * scale.reshape(-1, 1, 1, 1))


def test_scales_of_a_kernel_get_gradients_of_their_own():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(3, 2, 3, 3))
    made = KernelFakeQuantize(kernel, "learned")
    made(kernel)[1].square().sum().backward()
    assert made.log_scale.grad[0] == made.log_scale.grad[2] == 0 != made.log_scale.grad[1]
    assert bool((kernel.grad[0] == 0).all()) and bool((kernel.grad[1] != 0).any())
