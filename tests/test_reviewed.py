"""Faults that reviews found, each with the network that showed it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import checkpoint_of, inputs_of, randomise_batch_norm
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from edgeks.atomic_write import write_text
from edgeks.bench.local import bench
from edgeks.checkpoint import build_architecture
from edgeks.cli import main
from edgeks.errors import ConfigError, DataError, ParityFailed
from edgeks.export_checks import require_parity, saturates_here
from edgeks.exporter import export
from edgeks.formats.onnx import REFERENCE, open_session, run
from edgeks.parity import Parity
from edgeks.sharing.torch import discover, untied
from edgeks.target import catalogue, load_target
from edgeks.train.data import load_dataset
from edgeks.train.progress import NoProgress
from edgeks.train.settings import TrainSettings
from edgeks.train_job import TrainJob, train_checkpoint

SHAPE = (3, 7, 7)
TARGET = load_target("onnx")


def conv(bias=True):
    return nn.Conv2d(4, 4, 3, padding=1, bias=bias)


@pytest.mark.parametrize("int8", [False, True])
def test_tied_weight_norm_is_one_kernel_and_the_network_is_left_alone(tmp_path, int8):
    first, second = parametrizations.weight_norm(conv()), parametrizations.weight_norm(conv())
    for name in ("original0", "original1"):
        setattr(second.parametrizations.weight, name, getattr(first.parametrizations.weight, name))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), first, nn.ReLU(), second).eval()
    before = model(torch.ones(1, *SHAPE))
    for _ in range(2):  # the second export would have met a broken network
        report = export(checkpoint_of(model, SHAPE), tmp_path / "m.onnx", TARGET, int8=int8)
    assert [len(group.layers) for group in report.proof.groups] == [2]
    assert torch.equal(model(torch.ones(1, *SHAPE)), before) and parametrize.is_parametrized(first)


class TwoOutputs(nn.Module):
    """The second output is one that eight bits ruin: small values beside one huge channel."""

    def __init__(self):
        super().__init__()
        self.good, self.bad = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.bad.bias[0] = 1e5

    def forward(self, x):
        return self.good(x), self.bad(x)[:, 1:]


def test_every_output_is_compared(tmp_path):
    with pytest.raises(ParityFailed):
        export(checkpoint_of(TwoOutputs(), SHAPE), tmp_path / "m.onnx", TARGET, int8=True)
    assert list(tmp_path.iterdir()) == []
    assert export(checkpoint_of(TwoOutputs(), SHAPE), tmp_path / "m.onnx", TARGET).parity.sqnr_db > 90


@pytest.mark.parametrize("target", ["onnx", "onnx-x64", "rpi-4"])
def test_average_pool_in_ceil_mode_runs_right(tmp_path, target):
    pool = nn.AvgPool2d(2, 2, ceil_mode=True)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 8, 3, padding=1))
    report = export(checkpoint_of(model, SHAPE), tmp_path / "m.onnx", load_target(target), int8=True)
    assert report.parity.sqnr_db > 26
    assert saturates_here(load_target(target)) or report.parity_here.sqnr_db > report.parity.sqnr_db - 1


@pytest.mark.skipif(saturates_here(TARGET), reason="there a bad figure is a warning")
def test_what_the_runtime_gets_wrong_fails_the_export():
    good, bad = Parity(8, 30.0, 1.0, None), Parity(8, 10.0, 0.9, None)
    with pytest.raises(ParityFailed, match="gets an operator of this network wrong"):
        require_parity(Path("m.onnx"), TARGET, 25, good, bad, int8=True)


def test_a_network_in_train_mode_keeps_its_statistics(tmp_path):
    checkpoint = checkpoint_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), SHAPE)
    checkpoint.model.train()
    mean = checkpoint.model[1].running_mean.clone()
    export(checkpoint, tmp_path / "m.onnx", TARGET)
    assert torch.equal(checkpoint.model[1].running_mean, mean)


def test_layers_that_view_one_memory_share(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), conv(), conv())
    model[2].weight = nn.Parameter(model[1].weight.data)
    assert [group.layers for group in discover(model).groups] == [("1", "2")]
    assert export(checkpoint_of(model, SHAPE), tmp_path / "m.onnx", TARGET).proof.kernels_stored == 2
    assert discover(untied(model)).groups == ()


def test_equal_kernels_that_were_never_tied_stay_apart(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), conv(), conv(), conv())
    model[2].weight = model[1].weight
    model[3].load_state_dict(model[1].state_dict())
    report = export(checkpoint_of(model, SHAPE), tmp_path / "m.onnx", TARGET, int8=True)
    assert (len(report.proof.groups), len(report.proof.unshared)) == (1, 2)


class Detached(nn.Module):
    """Reads its kernel once as it is and once detached."""

    def __init__(self):
        super().__init__()
        self.conv = conv(bias=False)
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = self.conv(self.stem(x))
        return nn.functional.conv2d(x, self.conv.weight.detach(), padding=1)


def test_a_detached_kernel_is_the_same_kernel(tmp_path):
    report = export(checkpoint_of(Detached(), SHAPE), tmp_path / "m.onnx", TARGET, int8=True)
    assert [len(group.layers) for group in report.proof.groups] == [2]


def test_a_dead_activation_does_not_coarsen_the_bias_behind_it(tmp_path):
    dead = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(dead.weight)
    nn.init.constant_(dead.bias, -1.0)
    model = nn.Sequential(dead, nn.ReLU(), conv(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 49, 5))
    noise = torch.randn(8, *SHAPE)
    report = export(checkpoint_of(randomise_batch_norm(model, noise), SHAPE), tmp_path / "m.onnx", TARGET, int8=True)
    assert report.parity.sqnr_db > 35


@pytest.mark.parametrize("form", ["squeeze", "scalar"])
def test_an_output_without_a_batch_is_one_clear_line(tmp_path, form):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 7)

        def forward(self, x):
            y = self.conv(x)
            return y.squeeze() if form == "squeeze" else y.sum()

    with pytest.raises(DataError, match="first dimension must be the batch"):
        export(checkpoint_of(Bare(), SHAPE), tmp_path / "m.onnx", TARGET)


class Addmm(nn.Module):
    """A bias of 1×O, and a matrix product whose kernel has three dimensions."""

    def __init__(self):
        super().__init__()
        self.bias, self.kernel = nn.Parameter(torch.randn(1, 5)), nn.Parameter(torch.randn(147, 5))
        self.stack = nn.Parameter(torch.randn(1, 5, 6))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(1), self.kernel)[:, None] @ self.stack


def test_matrix_products_of_other_shapes(tmp_path):
    checkpoint = checkpoint_of(Addmm(), SHAPE)
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True)
    assert report.parity.sqnr_db > 25
    (found,) = run(open_session(tmp_path / "m.onnx", REFERENCE), inputs_of(checkpoint))
    assert found.shape == (32, 1, 6)


def test_layers_outside_the_proof_are_named(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.own = nn.Conv2d(3, 4, 1), conv()
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return nn.functional.conv2d(self.stem(x), self.own.weight * self.gain, padding=1)

    report = export(checkpoint_of(Scaled(), SHAPE), tmp_path / "m.onnx", TARGET)
    assert any("computed at run time" in warning for warning in report.warnings)
    assert not any("u8" in warning for warning in report.warnings)


def test_a_users_network_starts_from_the_seed(tmp_path, monkeypatch):
    (tmp_path / "seeded_net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    job = TrainJob("seeded_net:build", {}, load_dataset("digits"), TrainSettings(epochs=1, validation=0, seed=3))
    made = [train_checkpoint(job, tmp_path / name, resume=False, progress=NoProgress()) for name in ("a.pt", "b.pt")]
    first, second = (checkpoint.model[1].weight.detach().numpy() for checkpoint in made)
    np.testing.assert_array_equal(first, second)
    assert build_architecture("seeded_net:build")[1].weight.shape == (10, 64)


def test_calibration_on_one_value_everywhere_is_refused(tmp_path):
    np.savez(tmp_path / "zeros.npz", np.zeros((4, *SHAPE), np.float32))
    checkpoint = checkpoint_of(nn.Conv2d(3, 4, 1), SHAPE)
    with pytest.raises(DataError, match="0 everywhere"):
        export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, calib=tmp_path / "zeros.npz")


def test_what_a_killed_process_left_is_swept(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    old, own = tmp_path / f".m.txt.{process.pid}.abc.part", tmp_path / f".m.txt.{os.getpid()}.abc.part"
    other = tmp_path / f".other.txt.{process.pid}.abc.part"
    for path in (old, own, other):
        path.touch()
    write_text(tmp_path / "m.txt", "new")
    assert not old.exists() and own.exists() and other.exists()


def test_an_error_shows_names_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["edgeks", "footprint", str(tmp_path / "no:smile:[bold].onnx")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "no:smile:[bold].onnx: no such file" in capsys.readouterr().err


def test_an_optimizer_that_the_runtime_does_not_know_is_refused(tmp_path):
    text = (catalogue("export") / "rpi-4.toml").read_text().replace("ConvBNFusion", "ConvBNFussion")
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"session.disabled_optimizers.*ConvBNFussion.*legal.*ConvBNFusion"):
        load_target(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("threads", [0, 100_000])
def test_bench_threads_have_bounds(tmp_path, threads):
    export(checkpoint_of(nn.Conv2d(3, 4, 1), SHAPE), tmp_path / "m.onnx", TARGET)
    with pytest.raises(DataError, match="threads is"):
        bench(tmp_path / "m.onnx", TARGET, 2, 0, threads=threads)
