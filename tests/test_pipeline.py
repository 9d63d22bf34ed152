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

from edgeks.checkpoint import load_checkpoint
from edgeks.errors import OutputError
from edgeks.pipeline import run_recipe
from edgeks.recipe import load_recipe, read_recipe
from edgeks.run_folder import RunFolder
from edgeks.train.progress import NoProgress

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


def test_an_unshared_network_has_no_twin(tmp_path):
    summary = run_recipe(recipe(tmp_path, kernels=0), tmp_path / "run", Stages())
    assert [row.ratio for row in summary.rows] == [None, None]
    assert "–" in summary.to_markdown()


def test_a_users_network_that_changed_is_trained_again(tmp_path, monkeypatch):
    source = tmp_path / "changing_net.py"
    text = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(\n"
    text += "        nn.Conv2d(1, 4, 8), nn.{}(), nn.Flatten(), nn.Linear(4, 10)\n    )\n"
    monkeypatch.syspath_prepend(tmp_path)
    ran = []
    for activation in ("ReLU", "ReLU", "Tanh"):
        source.write_text(text.format(activation))
        sys.modules.pop("changing_net", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        tiny = replace(recipe(tmp_path), architecture="changing_net:build", config={}, precisions=("fp32",))
        told = Stages()
        run_recipe(tiny, tmp_path / "run", told)
        ran.append("train" in told.ran)
    assert ran == [True, False, True]


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
