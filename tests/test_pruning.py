"""`edgeks prune`: which weights go, what is left of the accuracy, and what a wrong question is answered."""

import csv
import json
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from networks import SharedConvs
from torch import nn

import edgeks
from edgeks import cli
from edgeks.blending_layers import chosen_kernels
from edgeks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeks.errors import ConfigError, DataError, PlanError
from edgeks.models.zoo import architecture, build
from edgeks.pruning import kept_weights
from edgeks.train.data import load_dataset
from edgeks.train.fit import evaluate

CONFIG = {"dim": 12, "depth": 3, "kernel_size": 3, "patch_size": 2, "kernels": 0, "in_channels": 1}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def convmixer(digits, **changes):
    arch, config = architecture("convmixer", CONFIG | changes)
    return Checkpoint(build(arch, config, seed=0).eval(), arch, config, None, digits.preprocessing)


def names(model, layers="blending"):
    return [kernel.name for kernel in chosen_kernels(model, layers)]


def test_blending_layers_are_n_to_n_convolutions_that_own_their_kernel(digits):
    unshared, shared = convmixer(digits).model, convmixer(digits, kernels=2).model
    assert names(unshared) == [f"blocks.{index}.pointwise" for index in range(3)]
    (kernel,) = chosen_kernels(shared, "pointwise")
    assert len(kernel.layers) == 3 and kernel.matrix().shape == (12, 12)
    assert names(unshared, "blocks.1.*") == ["blocks.1.depthwise", "blocks.1.pointwise"]
    with pytest.raises(PlanError, match=r"it has 3 1×1 convolutions that read 1 kernel: blocks\.0\.pointwise"):
        chosen_kernels(shared)
    with pytest.raises(PlanError, match=r"no layer is named 'nothing\*'"):
        chosen_kernels(unshared, "nothing*")
    with pytest.raises(PlanError, match=r"no layer is a blending layer.*its layers are stem, convs\.0, convs\.1"):
        chosen_kernels(SharedConvs())


def test_layers_named_blend_are_the_blending_layers():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv2d(4, 4, 1)
            self.blend = nn.Conv2d(4, 8, 1)
            self.projection = nn.Conv2d(8, 8, 1, stride=2)
            self.grouped = nn.Conv2d(8, 8, 1, groups=2)

    model = Named()
    assert names(model) == ["blend"]
    del model.blend
    assert names(model) == ["mix"]


def test_shardnet_names_its_blending_layers(digits):
    arch, config = architecture("shard_vgg", {"channels": 4, "blending": [2, 4], "convolutions": [2, 2]})
    assert names(build(arch, config)) == ["stages.0.1.blend", "stages.1.1.blend"]


@pytest.mark.parametrize("share", [0, 0.1, 1 / 3, 0.5, 0.9, 1])
def test_exactly_the_asked_number_of_the_smallest_weights_goes(share):
    torch.manual_seed(0)
    kernels = [torch.randn(6, 5, 1, 1), 3 * torch.randn(7, 4)]
    together = torch.cat([kernel.flatten().abs() for kernel in kernels])
    masks = torch.cat([mask.flatten() for mask in kept_weights(kernels, share, "global")])
    assert int((~masks).sum()) == round(share * 58)
    if 0 < share < 1:
        assert together[~masks].max() <= together[masks].min()
    for kernel, mask in zip(kernels, kept_weights(kernels, share, "layer"), strict=True):
        assert int((~mask).sum()) == round(share * kernel.numel())


def test_of_equal_weights_the_first_go():
    (mask,) = kept_weights([torch.tensor([1.0, -1.0, 1.0, -1.0])], 0.5, "global")
    assert mask.tolist() == [False, False, True, True]


def test_the_curve_is_that_of_the_pruned_checkpoints_and_the_network_stays(digits, tmp_path):
    checkpoint = convmixer(digits)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    seen = []
    report = edgeks.prune(checkpoint, digits, shares=(0, 0.5, 1), on_point=lambda done, of: seen.append((done, of)))
    assert all(torch.equal(before[name], tensor) for name, tensor in checkpoint.model.state_dict().items())
    assert seen == [(number, 7) for number in range(1, 8)]
    assert report.weights == 3 * 12 * 12 and [kernel.weights for kernel in report.kernels] == [144] * 3
    assert report.parameters == sum(parameter.numel() for parameter in checkpoint.model.parameters())
    assert [point.zeros for point in report.points] == [0, 216, 432] * 2
    for point in report.points:
        smaller = edgeks.pruned(checkpoint, point.asked, criterion=point.criterion)
        assert point.accuracy == evaluate(smaller.model, digits.test_images, digits.test_labels, digits.preprocessing)
    assert report.points[0].accuracy == report.accuracy and report.points[1].criterion == "global"
    assert {point.least_kept for point in report.points if point.criterion == "layer"} == {0, 0.5, 1}
    rows = list(csv.DictReader(report.to_csv().splitlines()))
    assert [float(row["share"]) for row in rows] == [0, 0.5, 1] * 2
    assert float(rows[1]["of_all_parameters"]) == pytest.approx(216 / report.parameters, abs=1e-6)
    assert json.loads(json.dumps(report.to_json()))["points"][4]["zeros"] == 216


def test_a_shared_kernel_is_pruned_once_and_counted_once(digits):
    checkpoint = convmixer(digits, kernels=2)
    report = edgeks.prune(checkpoint, digits, layers="pointwise", shares=(0.5,), criteria=("global",))
    assert (report.weights, len(report.kernels), len(report.kernels[0].layers)) == (144, 1, 3)
    smaller = edgeks.pruned(checkpoint, 0.5, layers="pointwise").model
    first, *others = (block.pointwise.weight for block in smaller.blocks)
    assert all(other is first for other in others) and int((first == 0).sum()) == 72


def test_wrong_shares_criteria_and_data(digits):
    checkpoint = convmixer(digits)
    with pytest.raises(ConfigError, match=r"pruned share 1\.5; legal: 0 to 1"):
        edgeks.prune(checkpoint, digits, shares=(0, 1.5))
    with pytest.raises(ConfigError, match="pruned share nan"):
        edgeks.pruned(checkpoint, float("nan"))
    with pytest.raises(ConfigError, match="criterion 'random'; legal: global, layer"):
        edgeks.pruned(checkpoint, 0.5, criterion="random")
    with pytest.raises(DataError, match="images of 1×16×16; the checkpoint was trained on 1×8×8"):
        edgeks.prune(checkpoint, load_dataset("digits", 16), shares=(0,))
    checkpoint.preprocessing = None
    colour = convmixer(digits, in_channels=3)
    colour.preprocessing = None
    with pytest.raises(DataError, match="does not take its images"):
        edgeks.prune(colour, digits, shares=(0,))


def test_from_the_command_line(digits, tmp_path, monkeypatch, capfd):
    model = tmp_path / "model.pt"
    save_checkpoint(model, convmixer(digits))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(sys, "argv", ["edgeks", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        signal.signal(signal.SIGTERM, handler)
        printed = capfd.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=printed.out, stderr=printed.err)

    asked = ("--data", "digits", "--shares", "0,0.5", "--share", "0.25", "-o", "half.pt", "--plot", "p.svg")
    done = run("prune", model, *asked, "--csv", "p.csv", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [point["asked"] for point in report["points"]] == [0, 0.25, 0.5] * 2
    assert (tmp_path / "p.csv").read_text().count("\n") == 7
    assert "<svg" in (tmp_path / "p.svg").read_text()
    written = load_checkpoint(tmp_path / "half.pt").model
    assert sum(int((kernel.weight == 0).sum()) for kernel in chosen_kernels(written)) == 108
    done = run("prune", "half.pt", "--share", "0.1", "-o", "again.pt")
    assert done.stdout.startswith("again.pt: 25.0 % zeros"), done  # what there is, not what was asked for
    done = run("blending", model, "-o", "b.png")
    assert (done.returncode, done.stdout) == (
        0,
        "b.png: blocks.0.pointwise, blocks.1.pointwise, blocks.2.pointwise\n",
    ), done.stderr
    for message, arguments in {
        "belong together": ("prune", model, "--data", "digits", "--share", "0.5"),
        "--data is missing": ("prune", model),
        "--shares '': legal: numbers 0 to 1": ("prune", model, "--data", "digits", "--shares", ""),
        "cannot be written as .bmp": ("blending", model, "-o", "b.bmp"),
    }.items():
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and message in done.stderr
