"""Recipes end to end: what a run leaves, what is reused, what survives a kill, and the quickstart's promises."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgeks.checkpoint import load_checkpoint, save_checkpoint
from edgeks.errors import CheckpointError, DataError, NotResumable, OutputError
from edgeks.pipeline import run_recipe, train_recipe
from edgeks.quant import is_prepared
from edgeks.recipe import load_recipe, read_recipe
from edgeks.run_folder import RunFolder
from edgeks.sharing.torch import apply_plan, discover, plan_sharing
from edgeks.target import load_target
from edgeks.train.data import load_dataset
from edgeks.train.progress import NoProgress
from edgeks.train_job import TrainJob, train_checkpoint

RECIPE = """
description = "tiny"
[model]
architecture = "convmixer"
config = {{ dim = 8, depth = 2, kernel_size = 3, patch_size = 1, kernels = {kernels} }}
[data]
source = "digits"
[train]
epochs = {epochs}
validation = 0
threads = 1
[export]
target = "onnx"
[bench]
runs = 20
warmup = 2
"""


class Stages:
    """Remembers what it was told."""

    def __init__(self):
        self.ran, self.reused = [], []

    def stage(self, name, state, detail):
        {"running": [], "done": self.ran, "reused": self.reused}[state].append(name)

    def training(self):
        return NoProgress()


def recipe(folder, epochs=1, kernels=2):
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(epochs=epochs, kernels=kernels))
    return read_recipe(path)


def test_a_run_leaves_every_artefact_and_is_reused_until_something_changes(tmp_path):
    tiny, folder, first = recipe(tmp_path), tmp_path / "run", Stages()
    summary = run_recipe(tiny, folder, first)
    assert len(first.ran) == 11 and first.reused == []
    made = {path.name for path in folder.iterdir()}
    assert {"model.pt", "summary.md", "summary.json", "state.json"} <= made
    for precision in ("fp32", "int8"):
        names = ("{}.onnx", "{}.onnx.ledger.json", "unshared_{}.onnx", "{}.footprint.json", "{}.bench.json")
        assert {name.format(precision) for name in names} <= made
    assert not any(name.endswith((".part", ".resume")) for name in made)
    for row in summary.rows:
        assert row.kernels_stored == row.sharing_groups + row.unshared_layers == 4
        assert row.file_bytes == (folder / row.artefact).stat().st_size
        assert row.ratio == (folder / f"unshared_{row.artefact}").stat().st_size / row.file_bytes
    assert json.loads((folder / "summary.json").read_text())["rows"][0]["artefact"] == "fp32.onnx"

    again = Stages()
    assert run_recipe(tiny, folder, again) == summary
    assert again.ran == [] and again.reused == first.ran

    longer = Stages()
    run_recipe(replace(tiny, bench_runs=21), folder, longer)
    assert longer.ran == ["bench fp32", "bench int8"]

    (folder / "int8.onnx").write_bytes(b"damaged")
    mended = Stages()
    run_recipe(replace(tiny, bench_runs=21), folder, mended)
    assert mended.ran == ["export int8.onnx"]  # to the same bytes, so that what was measured on it still holds


def test_the_trained_network_as_tflite(tmp_path):
    tiny, folder = recipe(tmp_path), tmp_path / "run"
    run_recipe(replace(tiny, precisions=("fp32",)), folder, Stages())
    told = Stages()
    summary = run_recipe(replace(tiny, target=load_target("tflite")), folder, told)
    assert told.reused == ["train"] and len(told.ran) == 10
    assert [row.artefact for row in summary.rows] == ["fp32.tflite", "int8.tflite"]
    for row in summary.rows:
        assert row.kernels_stored == row.sharing_groups + row.unshared_layers == 4
        assert row.file_bytes == (folder / row.artefact).stat().st_size < row.unshared_file_bytes
        assert 0 < row.peak_activation_bytes < row.ram_bytes < 20_000_000 and row.p50_ms > 0
        assert row.accuracy == pytest.approx(load_checkpoint(folder / "model.pt").metrics["test_accuracy"], abs=0.02)
    assert summary.runtime.startswith("litert 2")
    assert f"p50: {summary.runtime} on" in (folder / "summary.md").read_text()
    again = Stages()
    assert run_recipe(replace(tiny, target=load_target("tflite")), folder, again) == summary
    assert again.ran == []


def test_repeated_layers_in_a_loop_and_a_twin_without_one(tmp_path):
    path = tmp_path / "tiny.toml"
    rolled = '[export]\nform = "rolled"\nprecisions = ["int8"]\n'
    path.write_text(RECIPE.format(epochs=1, kernels=2).replace("[export]\n", rolled))
    run_recipe(read_recipe(path), tmp_path / "run", Stages())
    shared, twin = (
        json.loads((tmp_path / "run" / f"{name}int8.onnx.ledger.json").read_text()) for name in ("", "unshared_")
    )
    assert shared["form"] == "rolled qoperator" and len(next(iter(shared["rolled"].values()))) == 2
    assert twin["form"] == "qdq" and "rolled" not in twin


def test_a_qat_stage_fine_tunes_and_exports_what_was_trained(tmp_path):
    path = tmp_path / "tiny.toml"
    qat = '[qat]\nepochs = 1\nlr = 0.001\nfrozen_norm_epochs = 1\n[export]\nprecisions = ["int8"]\n'
    path.write_text(RECIPE.format(epochs=2, kernels=2).replace("[export]\n", qat))
    tiny, first = read_recipe(path), Stages()
    summary = run_recipe(tiny, tmp_path / "run", first)
    assert "train with fake quantisation" in first.ran
    assert [row.artefact for row in summary.rows] == ["int8.onnx", "int8_qat.onnx"]
    assert summary.rows[1].unshared_file_bytes is None and summary.rows[1].kernels_stored == 4
    assert summary.rows[1].sqnr_db > summary.rows[0].sqnr_db  # against the network that trained with quantisation
    trained = load_checkpoint(tmp_path / "run" / "model_qat.pt")
    assert is_prepared(trained.model)
    before = load_checkpoint(tmp_path / "run" / "model.pt").model
    statistics = {name: b for name, b in before.named_buffers() if name.endswith(("running_mean", "running_var"))}
    assert len(statistics) == 10  # frozen in the one epoch
    assert {name for name, b in statistics.items() if not torch.equal(b, trained.model.get_buffer(name))} == set()
    assert not torch.equal(trained.model.get_parameter("stem.weight"), before.get_parameter("stem.weight"))
    again = Stages()
    run_recipe(tiny, tmp_path / "run", again)
    assert again.ran == []
    gentler, told = replace(tiny, qat=replace(tiny.qat, lr=0.0005)), Stages()
    with pytest.raises(OutputError, match=r"model_qat.pt: was trained with lr 0.001 \(now 0.0005\); another -o"):
        run_recipe(gentler, tmp_path / "run", told)
    run_recipe(gentler, tmp_path / "run", told, overwrite=True)
    assert "train" in told.reused and "train with fake quantisation" in told.ran


def test_qat_goes_on_after_an_interruption_to_the_same_bits(tmp_path):
    tiny = recipe(tmp_path, epochs=1)
    dataset = load_dataset("digits", None)
    start = train_checkpoint(
        TrainJob(tiny.architecture, tiny.config, dataset, tiny.training),
        tmp_path / "model.pt",
        resume=False,
        progress=NoProgress(),
    )
    settings = replace(tiny.training, epochs=3, lr=0.001, qat="learned", frozen_norm_epochs=1)

    class Stops(NoProgress):
        def epoch(self, record):
            if record.epoch == 1:
                raise KeyboardInterrupt

    job = TrainJob("", {}, dataset, settings, start)
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(job, tmp_path / "stopped.pt", resume=True, progress=Stops())
    train_checkpoint(job, tmp_path / "stopped.pt", resume=True, progress=NoProgress())
    train_checkpoint(job, tmp_path / "straight.pt", resume=True, progress=NoProgress())
    stopped, straight = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("stopped.pt", "straight.pt"))
    assert all(torch.equal(stopped[name], straight[name]) for name in straight)


class Forbidden(NoProgress):
    """Nothing is to be trained."""

    def start(self, total, done, epochs):
        raise AssertionError("training")


@pytest.mark.parametrize("qat", ["off", "learned"])
def test_a_finished_training_is_not_begun_again(tmp_path, qat):
    tiny, out = recipe(tmp_path), tmp_path / "model.pt"
    job = TrainJob(tiny.architecture, tiny.config, load_dataset("digits", None), replace(tiny.training, qat=qat))
    trained = train_checkpoint(job, out, resume=True, progress=NoProgress())
    faster = replace(job, settings=replace(job.settings, threads=2, device="cpu"))
    found = train_checkpoint(faster, out, resume=True, progress=Forbidden())
    assert found.metrics == trained.metrics and not found.model.training
    before, after = trained.model.state_dict(), found.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_what_another_training_has_finished_stays(tmp_path):
    tiny, out = recipe(tmp_path), tmp_path / "model.pt"
    job = TrainJob(tiny.architecture, tiny.config, load_dataset("digits", None), tiny.training)
    trained = train_checkpoint(job, out, resume=True, progress=NoProgress())
    written = out.read_bytes()

    def resumed(job):
        return train_checkpoint(job, out, resume=True, progress=Forbidden())

    otherwise = r"; choose another -o, or train without resuming"
    with pytest.raises(NotResumable, match=rf"other settings: lr 0.01 \(now 0.02\){otherwise}"):
        resumed(replace(job, settings=replace(job.settings, lr=0.02)))
    with pytest.raises(NotResumable, match=f"with another network{otherwise}"):
        resumed(replace(job, config={**job.config, "kernels": 0}))
    with pytest.raises(NotResumable, match=f"with other data{otherwise}"):
        resumed(replace(job, dataset=replace(job.dataset, test_labels=job.dataset.test_labels[::-1].copy())))
    assert out.read_bytes() == written
    save_checkpoint(out, trained)
    with pytest.raises(NotResumable, match=f"model.pt: does not say which training wrote it{otherwise}"):
        resumed(job)
    out.write_bytes(written[: len(written) // 2])
    with pytest.raises(NotResumable, match=f"truncated.*{otherwise}"):
        resumed(job)


def test_another_training_in_the_folder_is_not_overwritten_unasked(tmp_path):
    tiny, folder = recipe(tmp_path), tmp_path / "run"
    run_recipe(replace(tiny, precisions=("fp32",)), folder, Stages())
    faster = replace(tiny, training=replace(tiny.training, threads=2, device="cpu"))
    again = Stages()
    train_recipe(faster, folder, again)
    assert again.reused == ["train"]
    (folder / "state.json").rename(tmp_path / "state.json")  # as if killed before it was written
    told = Stages()
    told.training = Forbidden
    train_recipe(tiny, folder, told)

    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = replace(tiny, training=replace(tiny.training, lr=0.02), config={**tiny.config, "dim": 16})
    wide = r"model.pt: was trained with dim 8 \(now 16\), lr 0.01 \(now 0.02\); another -o, or --overwrite"
    with pytest.raises(OutputError, match=wide):
        run_recipe(other, folder, Stages())
    elsewhere = replace(tiny, data_size=16)
    with pytest.raises(OutputError, match=r"model.pt: was trained with other data; another -o, or --overwrite"):
        run_recipe(elsewhere, folder, Stages())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept

    (tmp_path / "state.json").rename(folder / "state.json")
    (folder / "notes.txt").write_text("mine")
    told = Stages()
    train_recipe(other, folder, told, overwrite=True)
    assert told.ran == ["train"]
    assert {path.name for path in folder.iterdir()} == {"model.pt", "state.json", "notes.txt", ".lock"}


def test_an_interrupted_training_gives_way_to_another_when_asked(tmp_path):
    tiny, folder = recipe(tmp_path, epochs=2), tmp_path / "run"

    class Stops(NoProgress):
        def epoch(self, record):
            raise KeyboardInterrupt

    stopped = Stages()
    stopped.training = Stops
    with pytest.raises(KeyboardInterrupt):
        train_recipe(tiny, folder, stopped)
    other = replace(tiny, training=replace(tiny.training, epochs=1))
    refusal = r"model.pt.resume: was written by .* epochs 2 \(now 1\); another -o, or --overwrite"
    with pytest.raises(OutputError, match=refusal):
        train_recipe(other, folder, Stages())
    trained = train_recipe(other, folder, Stages(), overwrite=True)
    assert trained.metrics["epochs"] == 1 and not (folder / "model.pt.resume").exists()


def test_training_goes_on_from_a_checkpoint_that_was_just_tied(tmp_path):
    tiny = recipe(tmp_path, epochs=1, kernels=0)
    dataset = load_dataset("digits", None)
    job = TrainJob(tiny.architecture, tiny.config, dataset, tiny.training)
    begun = train_checkpoint(job, tmp_path / "model.pt", resume=False, progress=NoProgress())
    plan = plan_sharing(begun.model, "all")
    tied = replace(begun, model=apply_plan(begun.model, plan), plan=plan)
    went_on = replace(job, config={}, start=tied)
    train_checkpoint(went_on, tmp_path / "tied.pt", resume=False, progress=NoProgress())
    loaded = load_checkpoint(tmp_path / "tied.pt")
    assert loaded.plan == plan and len(discover(loaded.model).groups) == len(plan.groups)
    assert not torch.equal(loaded.model.state_dict()["stem.weight"], tied.model.state_dict()["stem.weight"])
    with pytest.raises(CheckpointError, match="a trained checkpoint has its config"):
        train_checkpoint(replace(went_on, config={"dim": 8}), tmp_path / "x.pt", resume=False, progress=NoProgress())
    larger = load_dataset("digits", 16)
    with pytest.raises(DataError, match="digits: images of 1×16×16; the checkpoint was trained on 1×8×8"):
        train_checkpoint(replace(went_on, dataset=larger), tmp_path / "x.pt", resume=False, progress=NoProgress())


def test_an_unshared_network_has_no_twin(tmp_path):
    summary = run_recipe(recipe(tmp_path, kernels=0), tmp_path / "run", Stages())
    assert [row.ratio for row in summary.rows] == [None, None]
    assert "–" in summary.to_markdown()


def test_a_users_network_that_changed_is_another(tmp_path, monkeypatch):
    source = tmp_path / "changing_net.py"
    text = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(\n"
    text += "        nn.Conv2d(1, 4, 8), nn.{}(), nn.Flatten(), nn.Linear(4, 10)\n    )\n"
    monkeypatch.syspath_prepend(tmp_path)
    ran = []
    for activation in ("ReLU", "ReLU", "Tanh", "Tanh"):
        source.write_text(text.format(activation))
        sys.modules.pop("changing_net", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        tiny = replace(recipe(tmp_path), architecture="changing_net:build", config={})
        told = Stages()
        try:
            train_recipe(tiny, tmp_path / "run", told, overwrite=len(ran) == 3)
            ran.append("train" in told.ran)
        except OutputError as error:
            ran.append(str(error))
    refused = f"{tmp_path / 'run' / 'model.pt'}: was trained with other architecture; another -o, or --overwrite"
    assert ran == [True, False, refused, True]


def test_killed_in_the_middle_it_goes_on_to_the_same_network(tmp_path):
    path = tmp_path / "tiny.toml"
    recipe(tmp_path, epochs=4)
    command = [sys.executable, "-m", "edgeks", "run", str(path), "-o", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    state = tmp_path / "killed" / "model.pt.resume"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.pt").exists()

    run_recipe(read_recipe(path), tmp_path / "killed", Stages())
    run_recipe(read_recipe(path), tmp_path / "straight", Stages())
    killed, straight = (load_checkpoint(tmp_path / name / "model.pt").model for name in ("killed", "straight"))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(killed.state_dict()[name], tensor), name


def test_two_runs_in_one_folder_do_not_mix(tmp_path):
    tiny, folder = recipe(tmp_path), tmp_path / "run"
    with RunFolder(folder).locked(), pytest.raises(OutputError, match="another run"):
        run_recipe(tiny, folder, Stages())


@pytest.mark.slow
def test_the_quickstart_keeps_its_promises(tmp_path):
    summary = run_recipe(load_recipe("quickstart"), tmp_path, Stages())
    fp32, int8 = summary.rows
    assert fp32.accuracy >= 0.97
    assert int8.accuracy >= fp32.accuracy - 0.01
    assert fp32.sqnr_db >= 90 and int8.sqnr_db >= 25
    assert fp32.kernels_stored == int8.kernels_stored == 4
    assert fp32.ratio > 4 and int8.ratio > 2
    assert int8.file_bytes < fp32.file_bytes
    assert Path(tmp_path / "summary.md").read_text().count("4 = 2 groups + 2 unshared") == 2
