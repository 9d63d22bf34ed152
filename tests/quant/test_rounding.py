"""Rounding chosen jointly: its objective is computed here anew, with torch, from what each layer reads."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import SharedConvs, checkpoint_of, inputs_of, small_checkpoint
from onnx_text import normal
from torch import nn

from edgeks.exporter import export
from edgeks.graph.float_graph import float_graph
from edgeks.graph.kernels import array, kernel_reads, output_channels
from edgeks.graph.passes.quantize_kernels import symmetric_codes
from edgeks.models.convmixer import ConvMixer
from edgeks.quant import rounding
from edgeks.quant.options import Int8Options
from edgeks.quant.rounding import adaround, round_channel
from edgeks.samples import Samples
from edgeks.target import load_target


def graph_of_checkpoint(checkpoint):
    samples = Samples(inputs_of(checkpoint), "test", real=True)
    return float_graph(checkpoint.model, samples.inputs[:1], 20)[0], samples.inputs


def kernels_of(graph):
    return {str(read.kernel.name): (array(read.kernel), output_channels(read)) for read in kernel_reads(graph)}


@torch.no_grad()
def objective(checkpoint, layers, errors):
    """Σ_l E‖a_l·(W − Ŵ)·x_l‖² per sample. `layers`: (module, its BN or None); `errors`: W − Ŵ of each."""
    total = 0.0
    inputs = torch.from_numpy(inputs_of(checkpoint))

    def add(norm, error):
        def hook(module, args):
            x = args[0]
            if isinstance(module, nn.Linear):
                out = x @ error.T
            else:
                conv = nn.functional.conv2d if isinstance(module, nn.Conv2d) else nn.functional.conv1d
                out = conv(x, error, None, module.stride, module.padding, module.dilation, module.groups)
            if norm is not None:
                gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                out = out * gain.reshape(1, -1, *[1] * (out.ndim - 2))
            nonlocal total
            total += float((out.double() ** 2).sum()) / len(inputs)

        return hook

    handles = [
        module.register_forward_pre_hook(add(norm, torch.from_numpy(error.astype(np.float32))))
        for (module, norm), error in zip(layers, errors, strict=True)
    ]
    checkpoint.model(inputs)
    for handle in handles:
        handle.remove()
    return total


NETS = {
    "strides and dilations": lambda: SharedConvs(8, (1, 2, 1), dilations=(1, 1, 2), bias=True),
    "grouped": lambda: SharedConvs(8, (1, 2, 1), groups=4),
    "depthwise": lambda: SharedConvs(8, (1, 2, 1), groups=8),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("samples", [32, 5])
def test_the_joint_objective_is_what_torch_says_and_below_nearest(name, samples):
    network = NETS[name]()
    checkpoint = small_checkpoint(network, 8, negative=0.4)
    checkpoint.calibration = checkpoint.calibration[:samples]
    graph, inputs = graph_of_checkpoint(checkpoint)
    found = adaround(graph, inputs)
    layers = {
        "stem.weight": [(network.stem, network.stem_norm)],
        "convs.0-2.weight": list(zip(network.convs, network.norms, strict=True)),
        "head.weight": [(network.head, None)],
    }
    assert set(found.codes) == set(layers)
    chosen = nearest = 0.0
    for kernel, (weight, axis) in kernels_of(graph).items():
        codes, scale = symmetric_codes(weight.astype(np.float64), axis)
        assert found.codes[kernel].dtype == np.int8 and found.codes[kernel].shape == weight.shape
        assert np.abs(found.codes[kernel].astype(int)).max() <= 127
        steps = scale.reshape(-1, *[1] * (weight.ndim - 1))
        near, far = (
            objective(checkpoint, layers[kernel], [weight - c * steps] * len(layers[kernel]))
            for c in (codes, found.codes[kernel])
        )
        assert far <= near * (1 + 1e-5)
        chosen, nearest = chosen + far, nearest + near
    assert found.objective == pytest.approx(chosen, rel=1e-3)
    assert found.nearest == pytest.approx(nearest, rel=1e-3)
    assert found.objective < 0.8 * found.nearest
    again = adaround(graph, inputs)
    assert all(np.array_equal(found.codes[kernel], again.codes[kernel]) for kernel in found.codes)


class Lines(nn.Module):
    """A Conv1d called twice, a Linear on 3-D and 2-D inputs: MatMul and Gemm on one kernel, stored IO."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line, self.fc, self.head = nn.Conv1d(12, 12, 3, 2, 1), nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x):
        x = self.line(x.flatten(2).transpose(1, 2).reshape(len(x), 12, -1))
        x = self.fc(torch.relu(x))
        return self.head(torch.relu(self.fc(x.mean(1))))


def test_matrices_and_one_dimension():
    network = Lines()
    checkpoint = checkpoint_of(network, (3, 6, 12))
    graph, inputs = graph_of_checkpoint(checkpoint)
    layers = {"line": network.line, "fc": network.fc, "head": network.head}
    assert {read.node.op_type for read in kernel_reads(graph)} == {"Conv", "MatMul", "Gemm"}
    found = adaround(graph, inputs)
    total = 0.0
    for kernel, (weight, axis) in kernels_of(graph).items():
        _, scale = symmetric_codes(weight.astype(np.float64), axis)
        steps = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        error = weight - found.codes[kernel] * steps
        module = layers[next(name for name in layers if kernel.startswith(name))]
        total += objective(checkpoint, [(module, None)], [error if axis == 0 else error.T])
    assert found.objective == pytest.approx(total, rel=1e-3)
    assert found.objective < found.nearest


def test_fewer_positions_than_there_are_estimate_the_same(monkeypatch):
    checkpoint = small_checkpoint(SharedConvs(8, (1, 2)), 24)
    graph, inputs = graph_of_checkpoint(checkpoint)
    whole = adaround(graph, inputs)
    monkeypatch.setattr(rounding, "LEAST_POSITIONS", 2000)
    monkeypatch.setattr(rounding, "POSITIONS_PER_INPUT", 1)
    part = adaround(graph, inputs)
    assert part.objective != whole.objective
    assert part.nearest == pytest.approx(whole.nearest, rel=0.15)


def test_kernels_that_are_too_large_stay_rounded_to_nearest(monkeypatch):
    checkpoint = small_checkpoint(SharedConvs(8, (1, 2)))
    graph, inputs = graph_of_checkpoint(checkpoint)
    monkeypatch.setattr(rounding, "MAX_GRAM_BYTES", 4 * (27 * 27 + 8 * 8))
    found = adaround(graph, inputs)
    assert set(found.codes) == {"stem.weight", "head.weight"} and found.left == ("convs.0-1.weight",)
    assert str(found).endswith("; to nearest, since they are too large: convs.0-1.weight")


def test_layers_that_stay_float_are_left_out():
    graph, inputs = graph_of_checkpoint(small_checkpoint(SharedConvs(8, (1, 2))))
    assert set(adaround(graph, inputs, {"stem"}).codes) == {"convs.0-1.weight", "head.weight"}


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 20))
def test_no_single_step_is_better(seed, inputs, rows):
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, inputs)) + random.standard_normal()
    gram, steps = x.T @ x, random.uniform(-127, 127, inputs)
    nearest = np.rint(steps)
    codes, before, after = round_channel(gram, steps, nearest)
    assert after <= before == pytest.approx(float((nearest - steps) @ gram @ (nearest - steps)))
    assert np.abs(codes).max() <= 127 and np.array_equal(codes, np.rint(codes))
    damped = gram + rounding.DAMPING * np.mean(np.diag(gram)) * np.eye(inputs)

    def value(chosen):
        return (chosen - steps) @ damped @ (chosen - steps)

    if not np.array_equal(codes, nearest):
        for index, step in itertools.product(range(inputs), (-1, 1)):
            moved = codes.copy()
            moved[index] += step
            assert abs(moved[index]) > 127 or value(moved) >= value(codes) - 1e-6 * np.mean(np.diag(damped))


@pytest.mark.parametrize("seed", range(20))
def test_a_tiny_problem_is_solved_as_by_brute_force(seed):
    """x is constant over the taps, as in the flat parts of an image: what counts is the sum of the errors."""
    random = np.random.default_rng(seed)
    gram, steps = np.ones((6, 6)), random.uniform(-100, 100, 6)
    _, _, after = round_channel(gram, steps, np.rint(steps))
    choices = itertools.product(*((np.floor(s), np.ceil(s)) for s in steps))
    best = min(float((np.array(c) - steps).sum() ** 2) for c in choices)
    assert after == pytest.approx(best, abs=1e-9)


def test_a_dead_channel_is_left_as_it_is():
    steps = normal(5) * 50
    codes, before, after = round_channel(np.zeros((5, 5)), steps, np.rint(steps))
    np.testing.assert_array_equal(codes, np.rint(steps))
    assert before == after == 0


@pytest.mark.parametrize("target", ["onnx", "onnx-x64"])
def test_an_export_holds_each_kernel_once(target, tmp_path):
    checkpoint = small_checkpoint(ConvMixer(8, 4, 3, 2, 2), negative=0.3)
    reports = {}
    for choice in ("nearest", "adaround"):
        options = Int8Options(rounding=choice)
        reports[choice] = export(
            checkpoint, tmp_path / "m.onnx", load_target(target), int8=True, options=options, min_sqnr_db=0
        )
    assert reports["adaround"].proof.kernels_stored == reports["nearest"].proof.kernels_stored == 4
    assert abs(reports["adaround"].file_bytes - reports["nearest"].file_bytes) < 50  # a zero point more or less
    (row,) = (row for row in reports["adaround"].ledger.rows if row.step == "adaround")
    assert row.note.startswith("4 kernels rounded jointly over their layers, 0.")
