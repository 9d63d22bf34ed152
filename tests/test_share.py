"""An unshared trained network into a shared one: tied, its statistics measured anew, fine-tuned, reported."""

import copy
import json
import sys
from dataclasses import replace

import pytest
import torch

from edgeks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeks.cli.entry import main
from edgeks.errors import CheckpointError, ConfigError, DataError, PlanError
from edgeks.models import zoo
from edgeks.quant import prepare_qat
from edgeks.share import share
from edgeks.sharing.torch import discover
from edgeks.train.data import load_dataset
from edgeks.train.fit import evaluate, fit
from edgeks.train.progress import NoProgress
from edgeks.train.settings import TrainSettings

CONFIG = {"blocks_per_stage": 2, "shared_stages": [], "widths": [8, 16], "stem_width": 8, "reduction": 4}
TUNING = TrainSettings(epochs=2, lr=0.003, validation=0.0, distillation=0.5, threads=1)


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    few = slice(0, 400)
    return replace(data, train_images=data.train_images[few], train_labels=data.train_labels[few])


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """An unshared SE-ResNet that knows the digits."""
    arch, config = zoo.architecture("se_resnet", {**CONFIG, "in_channels": 1})
    model = zoo.build(arch, config, seed=0)
    folder = tmp_path_factory.mktemp("trained")
    settings = TrainSettings(epochs=6, validation=0.0, threads=1)
    fit(model, digits, settings, last=folder / "resume")
    checkpoint = Checkpoint(model, arch, config, preprocessing=digits.preprocessing)
    save_checkpoint(folder / "model.pt", checkpoint)
    return folder / "model.pt"


def weights(model):
    return copy.deepcopy(model.state_dict())


def same(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("init", ["first", "mean", "least_squares"])
def test_tied_and_measured_anew(trained, digits, tmp_path, init):
    original = load_checkpoint(trained)
    before = weights(original.model)
    result = share(original, "stage", init=init, dataset=digits, out=tmp_path / "shared.pt")
    assert same(before, original.model.state_dict()) and not discover(original.model).groups
    accuracies = result.accuracies
    assert accuracies.original > 0.8 and accuracies.tuned is None
    assert accuracies.measured > accuracies.tied  # the statistics alone bring some of it back
    loaded = load_checkpoint(tmp_path / "shared.pt")
    assert (
        [len(group.layers) for group in discover(loaded.model).groups] == [fit.layers for fit in result.fits] == [4, 3]
    )
    found = evaluate(loaded.model, digits.test_images, digits.test_labels, loaded.preprocessing)
    assert found == accuracies.measured == loaded.metrics["test_accuracy"]
    assert all(fit.unscaled is None and 0 < fit.relative_error < 1.5 for fit in result.fits)
    saved = 4 * (3 * 8 * 8 * 9 + 2 * 16 * 16 * 9)
    assert result.fp32_bytes[0] - result.fp32_bytes[1] == saved
    assert result.int8_bytes[0] - result.int8_bytes[1] == saved // 4


class Stop(NoProgress):
    """Breaks the training off when its first epoch is on the disk."""

    def epoch(self, record):
        raise KeyboardInterrupt


def test_fine_tuned_and_resumed_to_the_same_bits(trained, digits, tmp_path):
    original = load_checkpoint(trained)
    arguments = {"init": "least_squares", "dataset": digits, "settings": TUNING}
    whole = share(original, "stage", **arguments, out=tmp_path / "whole.pt")
    assert whole.accuracies.tuned > whole.accuracies.measured
    assert discover(load_checkpoint(tmp_path / "whole.pt").model).groups
    assert not original.model.training
    with pytest.raises(KeyboardInterrupt):
        share(original, "stage", **arguments, out=tmp_path / "cut.pt", progress=Stop())
    assert [path.name for path in tmp_path.iterdir() if "cut" in path.name] == ["cut.pt.resume"]
    resumed = share(original, "stage", **arguments, out=tmp_path / "cut.pt", resume=True)
    assert same(weights(whole.checkpoint.model), resumed.checkpoint.model.state_dict())
    assert resumed.accuracies == whole.accuracies
    assert not (tmp_path / "cut.pt.resume").exists()


def test_the_original_s_logits_are_learned(trained, digits, tmp_path):
    """With nothing but its logits to go by, and every label wrong, the tied network becomes what the original is."""
    original = load_checkpoint(trained)
    wrong = replace(digits, train_labels=(digits.train_labels + 1) % 10)
    settings = replace(TUNING, epochs=4, distillation=1.0)
    result = share(original, "stage", init="mean", dataset=wrong, settings=settings, out=tmp_path / "shared.pt")
    assert result.accuracies.tuned > result.accuracies.measured + 0.05


def test_what_is_refused(trained, digits, tmp_path):
    original = load_checkpoint(trained)
    with pytest.raises(ConfigError, match="fine-tuning needs data: give --data"):
        share(original, "stage", settings=TUNING)
    with pytest.raises(ConfigError, match="fine-tuning needs a checkpoint to write: give -o"):
        share(original, "stage", dataset=digits, settings=TUNING)
    with pytest.raises(PlanError, match="unknown initialisation 'best'; legal: first, mean, least_squares"):
        share(original, "stage", init="best", out=tmp_path / "shared.pt")
    with pytest.raises(DataError, match="digits: images of 1×16×16"):
        share(original, "stage", dataset=load_dataset("digits", 16))
    small = prepare_qat(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)), torch.zeros(1, 1, 8, 8))
    with pytest.raises(CheckpointError, match="trained with fake quantisation"):
        share(replace(original, model=small), "stage")
    assert not list(tmp_path.iterdir())


def test_the_command(trained, tmp_path, capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgeks", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, *capsys.readouterr()

    plain = ("share", trained, "--groups", "stage", "--data", "digits", "--epochs", "0", "--init", "mean")
    code, out, err = run(*plain, "-o", tmp_path / "s.pt")
    assert code == 0, err
    for text in ("kernels by mean", "fp32 bytes", "tied, BN statistics measured anew", "s.pt: test accuracy"):
        assert text in out
    assert "… accuracy of the original" in err
    code, out, err = run(*plain, "--json", "--quiet")
    report = json.loads(out)
    assert err == "" and len(report["groups"]) == 2
    assert set(report["conversion"]["accuracy"]) == {"original", "tied", "measured", "tuned"}
    for refused, message in [
        (("share", trained, "-o", tmp_path / "x.pt"), "-o is for tying layers: add --groups all, stage, a"),
        (("share", trained, "--data", "digits"), "--data is for tying layers: add --groups all, stage, a"),
        (("share", trained, "--init", "mean"), "--init is for tying layers: add --groups"),
        (("share", trained, "--groups", "all", "--lr", "1"), "--lr is for fine-tuning: add --data"),
        (("share", trained, "--groups", "nope.json"), "nope.json: cannot be read as a sharing plan (No such file"),
        (("share", tmp_path / "s.pt", "--groups", "stage"), "groups 'stage' tie nothing: those layers share a kernel"),
        (("share", trained, "--groups", "all", "-o", trained), "is the checkpoint to share; name another file"),
        (("share", trained, "--groups", "all", "--data", "digits"), "fine-tuning needs a checkpoint to write: give -o"),
    ]:
        code, _, err = run(*refused)
        assert code == 2 and message in " ".join(err.split())
