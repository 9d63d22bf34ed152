"""Training: it learns, keeps the best epoch, resumes to the same bits, and says clearly what is wrong."""

import io
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from edgeks.errors import CheckFailed, CheckpointError, ConfigError, DataError, OutputError
from edgeks.models.zoo import build
from edgeks.train.data import load_dataset
from edgeks.train.fit import evaluate, fit
from edgeks.train.progress import BarProgress, LineProgress, NoProgress, progress_for
from edgeks.train.settings import TrainSettings

CONFIG = {"dim": 16, "depth": 3, "kernel_size": 3, "patch_size": 1, "kernels": 2, "in_channels": 1}
SETTINGS = TrainSettings(epochs=4, batch_size=16, lr=0.02, augment=("crop",), threads=1, device="cpu")


def network(seed=0):
    return build("convmixer", CONFIG, seed)


def some_digits():
    whole = load_dataset("digits")
    return replace(
        whole,
        train_images=whole.train_images[:400],
        train_labels=whole.train_labels[:400],
        test_images=whole.test_images[:100],
        test_labels=whole.test_labels[:100],
    )


@pytest.fixture(scope="module")
def digits():
    return some_digits()


@pytest.fixture(scope="module")
def straight(digits, tmp_path_factory):
    """Four epochs in one go: network, result and state file."""
    model, last = network(), tmp_path_factory.mktemp("straight") / "last.pt"
    return model, fit(model, digits, SETTINGS, last=last), last


def assert_same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


class StopAt(NoProgress):
    """Breaks the training off in the middle of an epoch."""

    def __init__(self, iteration):
        self.at = iteration

    def iteration(self, epoch, done, loss, accuracy):
        if done == self.at:
            raise KeyboardInterrupt


def test_it_learns_and_ends_in_evaluation_mode(digits, straight):
    model, result, _ = straight
    assert not model.training
    assert result.test_accuracy > 0.4  # a guess: 0.1
    assert result.test_accuracy == evaluate(model, digits.test_images, digits.test_labels, digits.preprocessing)
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]
    best = max(record.validation_accuracy for record in result.history)
    assert result.history[result.best_epoch - 1].validation_accuracy == best == result.validation_accuracy
    assert result.metrics()["test_accuracy"] == result.test_accuracy


def test_sharing_survives_training(straight):
    model, _, _ = straight
    assert len({id(block.depthwise.weight) for block in model.blocks}) == 1
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in network().parameters())


def test_the_same_seed_gives_the_same_bits(digits, straight, tmp_path):
    again = network()
    torch.manual_seed(99)  # the global generator has no say
    assert fit(again, digits, SETTINGS, last=tmp_path / "last.pt") == straight[1]
    assert_same_weights(again, straight[0])
    other = network()
    fit(other, digits, replace(SETTINGS, seed=1), last=tmp_path / "last.pt")
    assert not torch.equal(other.head.weight, again.head.weight)


@pytest.mark.parametrize("stop_at", [5, 23, 50])  # there are 23 iterations an epoch
def test_resumed_after_an_interruption_to_the_same_bits(digits, straight, tmp_path, stop_at):
    last = tmp_path / "last.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(network(), digits, SETTINGS, last=last, progress=StopAt(stop_at))
    assert last.exists() == (stop_at > 23)
    model = network()
    assert fit(model, digits, SETTINGS, last=last, resume=True) == straight[1]
    assert_same_weights(model, straight[0])


def test_resumed_with_sgd_milestones_and_dropout(digits, tmp_path):
    def dropout_network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))

    settings = TrainSettings(
        epochs=4, lr=0.1, optimizer="sgd", schedule="milestones", milestones=(1, 3), gamma=0.5, validation=0, threads=1
    )
    one, two = dropout_network(), dropout_network()
    result = fit(one, digits, settings, last=tmp_path / "one.pt")
    assert (result.best_epoch, result.validation_accuracy) == (4, None)
    with pytest.raises(KeyboardInterrupt):
        fit(two, digits, settings, last=tmp_path / "two.pt", progress=StopAt(16))
    fit(two, digits, settings, last=tmp_path / "two.pt", resume=True)
    assert_same_weights(one, two)


def test_resuming_a_finished_training_trains_no_more(digits, straight):
    model, before = network(), straight[2].stat().st_mtime_ns
    assert fit(model, digits, SETTINGS, last=straight[2], resume=True, progress=StopAt(1)) == straight[1]
    assert straight[2].stat().st_mtime_ns == before
    assert_same_weights(model, straight[0])


def test_without_resume_an_old_state_is_not_used(digits, straight, tmp_path):
    last = tmp_path / "last.pt"
    last.write_bytes(b"something else")
    model = network()
    assert fit(model, digits, SETTINGS, last=last) == straight[1]


def test_resume_refuses_another_training(digits, straight):
    last = straight[2]
    with pytest.raises(CheckpointError, match=r"other settings: epochs 4 \(now 5\), lr 0\.02 \(now 0\.01\); give"):
        fit(network(), digits, replace(SETTINGS, epochs=5, lr=0.01), last=last, resume=True)
    with pytest.raises(CheckpointError, match="by a training with other data"):
        fit(network(), replace(digits, test_images=digits.test_images ^ 1), SETTINGS, last=last, resume=True)
    unshared = build("convmixer", {**CONFIG, "kernels": 0})
    with pytest.raises(CheckpointError, match="by a training with another network"):
        fit(unshared, digits, SETTINGS, last=last, resume=True)
    with pytest.raises(CheckpointError, match="by a training with other weights to start from"):
        fit(network(), digits, SETTINGS, last=last, resume=True, start="another checkpoint")


def test_speed_settings_may_change_on_resume(digits, straight):
    settings = replace(SETTINGS, threads=2, device="auto")
    assert fit(network(), digits, settings, last=straight[2], resume=True).best_epoch == straight[1].best_epoch


def test_a_state_of_another_version_is_named(digits, tmp_path):
    torch.save({"version": 1}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="training state of version 1, which another edgeks wrote; legal: 2; end"):
        fit(network(), digits, SETTINGS, last=tmp_path / "last.pt", resume=True)


def test_fp16_scales_its_loss(digits, tmp_path):
    settings = replace(SETTINGS, precision="fp16", epochs=1, batch_size=200)
    assert fit(network(), digits, settings, last=tmp_path / "last.pt").history[0].train_loss < 10
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"]["scaler"]["scale"] > 1


def test_mixed_precision_learns_keeps_fp32_and_resumes(digits, tmp_path):
    settings = replace(SETTINGS, precision="bf16", epochs=3, validation=0)
    one, two = network(), network()
    result = fit(one, digits, settings, last=tmp_path / "one.pt")
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in one.state_dict().values())
    plain = network()
    fit(plain, digits, replace(settings, precision="fp32"), last=tmp_path / "plain.pt")
    assert not torch.equal(plain.head.weight, one.head.weight)
    with pytest.raises(KeyboardInterrupt):
        fit(two, digits, settings, last=tmp_path / "two.pt", progress=StopAt(40))
    fit(two, digits, settings, last=tmp_path / "two.pt", resume=True)
    assert_same_weights(one, two)


def test_parts_of_a_step_add_up_to_it(digits, tmp_path):
    def plain_network():  # without BN, whose statistics are each part's
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    settings = TrainSettings(epochs=2, batch_size=50, lr=0.1, optimizer="sgd", threads=1, device="cpu")
    whole, parts = plain_network(), plain_network()
    fit(whole, digits, settings, last=tmp_path / "last.pt")
    fit(parts, digits, replace(settings, accumulation=7), last=tmp_path / "last.pt")
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_average_of_the_weights_is_kept(digits, tmp_path):
    """One step at a time, so that the average can be told from the weights that the states hold."""
    settings = replace(SETTINGS, epochs=3, batch_size=400, ema=0.75, validation=0, positive_scales=False)
    model, seen = network(), []

    class Keep(NoProgress):
        def epoch(self, record):
            seen.append(torch.load(tmp_path / "last.pt", weights_only=True)["model"])

    fit(model, digits, settings, last=tmp_path / "last.pt", progress=Keep())
    for key in ("head.weight", "blocks.0.pointwise_norm.running_var"):
        first, second, third = (weights[key] for weights in seen)
        torch.testing.assert_close(model.state_dict()[key], 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)
    assert len({id(block.depthwise.weight) for block in model.blocks}) == 1


def test_gradients_are_clipped_and_a_plateau_lowers_the_rate(digits, tmp_path):
    settings = replace(SETTINGS, optimizer="sgd", momentum=0.0, epochs=3, batch_size=400, lr=1.0, validation=0)
    clipped = replace(settings, clip_norm=1e-3, weight_decay=0.0, positive_scales=False, epochs=1)
    model, before = network(), network()
    fit(model, digits, clipped, last=tmp_path / "last.pt")
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before.parameters(), strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)
    stuck = replace(settings, lr=1e-9, epochs=4, schedule="plateau", patience=0, gamma=0.5, validation=0.1)
    history = fit(network(), digits, stuck, last=tmp_path / "last.pt").history
    accuracies = [record.validation_accuracy for record in history]
    worse = sum(accuracy <= max(accuracies[:epoch]) for epoch, accuracy in enumerate(accuracies) if epoch)
    assert worse > 0
    rates = torch.load(tmp_path / "last.pt", weights_only=True)["step"]["optimizer"]["param_groups"]
    assert rates[0]["lr"] == pytest.approx(1e-9 * 0.5**worse)


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("content", ["truncated", "text", "empty", "hostile", "other"])
def test_a_damaged_state_is_refused(digits, straight, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    last = tmp_path / "last.pt"
    whole = straight[2].read_bytes()
    other = io.BytesIO()
    torch.save({"version": 2}, other)
    last.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "text": b"no state",
            "empty": b"",
            "hostile": pickle.dumps(Hostile()),
            "other": other.getvalue(),
        }[content]
    )
    with pytest.raises(CheckpointError, match=r"last\.pt: not a training state of edgeks, or damaged; delete it"):
        fit(network(), digits, SETTINGS, last=last, resume=True)
    assert not (tmp_path / "executed").exists()


def test_divergence_is_one_line_with_advice(digits, tmp_path, capfd):
    settings = replace(SETTINGS, lr=1000.0, optimizer="sgd")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    with pytest.raises(CheckFailed, match=r"diverged in epoch \d+: the loss is (nan|inf); lower lr \(now 1000\)"):
        fit(model, digits, settings, last=tmp_path / "last.pt")
    assert capfd.readouterr() == ("", "")


def test_network_and_data_that_do_not_fit(digits, tmp_path):
    colour = build("convmixer", {**CONFIG, "in_channels": 3})
    with pytest.raises(DataError, match=r"digits: the network does not take images of 1×8×8"):
        fit(colour, digits, SETTINGS, last=tmp_path / "last.pt")
    classes = build("convmixer", {**CONFIG, "classes": 7})
    with pytest.raises(DataError, match=r"gives \(1, 7\) for one image; legal: \(1, 10\)"):
        fit(classes, digits, SETTINGS, last=tmp_path / "last.pt")
    with pytest.raises(DataError, match="no parameters that could be trained"):
        fit(nn.Flatten(), digits, SETTINGS, last=tmp_path / "last.pt")
    with pytest.raises(OutputError, match="does not exist"):
        fit(network(), digits, replace(SETTINGS, epochs=1), last=tmp_path / "nowhere" / "last.pt")


def test_a_teacher_is_copied_and_belongs_to_the_training(digits, straight, tmp_path):
    teacher, last = straight[0], tmp_path / "last.pt"
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    teacher.train()
    settings = replace(SETTINGS, distillation=1.0, validation=0)
    shuffled = replace(digits, train_labels=digits.train_labels[::-1].copy())  # the teacher alone can tell
    model = network()
    assert fit(model, shuffled, settings, last=last, teacher=teacher).test_accuracy > 0.3  # a guess: 0.1
    assert not teacher.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    with pytest.raises(CheckpointError, match="by a training with another teacher"):
        fit(network(), shuffled, settings, last=last, resume=True, teacher=network(2))
    with pytest.raises(DataError, match=r"the teacher gives \(1, 7\) for one image"):
        fit(network(), digits, settings, last=last, teacher=build("convmixer", {**CONFIG, "classes": 7}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(digits, tmp_path):
    with pytest.raises(ConfigError, match="device is 'cuda', and torch finds no CUDA device; legal here: auto, cpu"):
        fit(network(), digits, replace(SETTINGS, device="cuda"), last=tmp_path / "last.pt")


def test_weight_decay_and_threads_are_applied(digits, straight, tmp_path):
    before = torch.get_num_threads()
    model = network()
    fit(model, digits, replace(SETTINGS, weight_decay=5.0, epochs=2), last=tmp_path / "last.pt")
    assert model.head.weight.norm() < straight[0].head.weight.norm()
    assert torch.get_num_threads() == before


def test_evaluate_counts_and_leaves_the_mode(digits):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    model = Constant().train()
    accuracy = evaluate(model, digits.train_images, digits.train_labels, digits.preprocessing)
    assert accuracy == np.mean(digits.train_labels == 3)
    assert model.training


@pytest.mark.parametrize("positive", [True, False])
def test_gammas_stay_positive_if_asked_and_the_network_is_plain_afterwards(digits, tmp_path, positive):
    settings = replace(SETTINGS, epochs=1, optimizer="sgd", lr=3.0, positive_scales=positive)
    model = network()
    fit(model, digits, settings, last=tmp_path / "last.pt")
    gammas = [module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(bool((gamma > 0).all()) for gamma in gammas) == positive
    assert list(model.state_dict()) == list(network().state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in network().named_parameters()]


def test_plain_lines_without_a_terminal(digits, tmp_path):
    out = io.StringIO()
    progress = progress_for(Console(file=out, width=20))
    assert isinstance(progress, LineProgress)
    result = fit(network(), digits, replace(SETTINGS, epochs=2), last=tmp_path / "last.pt", progress=progress)
    record = result.history[0]
    first, second = out.getvalue().splitlines()
    assert first == (
        f"epoch 1/2  loss {record.train_loss:.4f}  accuracy {record.train_accuracy:.2%}"
        f"  validation {record.validation_accuracy:.2%}"
    )
    assert second.startswith("epoch 2/2")


def test_a_bar_on_a_terminal(digits, tmp_path):
    out = io.StringIO()
    progress = progress_for(Console(file=out, force_terminal=True, width=120))
    assert isinstance(progress, BarProgress)
    fit(network(), digits, replace(SETTINGS, epochs=2), last=tmp_path / "last.pt", progress=progress)
    assert "100%" in out.getvalue()
    assert "epoch 2/2" in out.getvalue()
    assert "loss" in out.getvalue()
    assert "validation" in out.getvalue()


def test_quiet_says_nothing():
    assert isinstance(progress_for(Console(force_terminal=True), quiet=True), NoProgress)
