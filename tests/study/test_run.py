"""Studies end to end on small networks: the table, the figure, what is kept, what fails, and what is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeks.errors import ConfigError, OutputError
from edgeks.layered_toml import assignment
from edgeks.run_folder import locked
from edgeks.study.run import NoStudyProgress, run_study
from edgeks.study.settings import read_study
from edgeks.study.task import Task
from edgeks.study.work import BEGUN_FILE, LOCK_FILE, run_task
from edgeks.train.progress import NoProgress

STUDY = """
description = "tiny"
kind = "iso_channel"
recipe = "quickstart"
seeds = [0, 1]
[set]
model.config = {{ depth = 1, kernel_size = 3, patch_size = 2 }}
train = {{ epochs = {epochs}, batch_size = 256 }}
[[plans]]
name = "unshared"
set.model.config.kernels = 0
[[plans]]
name = "shared"
set.model.config.kernels = 2
{more}
[width]
values = [4]
set.model.config.dim = 1
"""
DIVERGES = '[[plans]]\nname = "diverges"\nset.train = { lr = 1000, optimizer = "sgd" }\nset.model.config.kernels = 2\n'


class Told:
    def __init__(self):
        self.trained, self.points = [], []

    def planning(self):
        pass

    def planned(self, points, finished, otherwise):
        self.finished, self.otherwise = finished, otherwise

    def training(self, point):
        self.trained.append(point)
        return NoProgress()

    def point(self, row, over, points):
        self.points.append((over, points))


def study(folder, more="", epochs=1):
    path = folder / "tiny.toml"
    path.write_text(STUDY.format(more=more, epochs=epochs))
    return read_study(path)


def figures(folder):
    return {path.name for path in folder.iterdir() if path.suffix in (".csv", ".svg", ".png")}


def test_a_study_leaves_a_table_and_a_figure_and_is_not_run_twice(tmp_path):
    tiny, folder, told = study(tmp_path, more=DIVERGES), tmp_path / "study", Told()
    result = run_study(tiny, folder, progress=told)
    assert len(told.trained) == 6 and told.points[-1] == (6, 6)
    assert figures(folder) == {"results.csv", "figure.svg", "figure.png"}
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == len(result.rows) == 6
    failed = [row for row in rows if row["error"]]
    assert [row["plan"] for row in failed] == ["diverges", "diverges"] and len(result.failed) == 2
    assert all("training diverged" in row["error"] and row["accuracy"] == "" for row in failed)
    for row in rows[:2]:
        assert (row["data"], row["test_images"], row["epochs"], row["width"]) == ("digits", "359", "1", "4")
        assert 0 < float(row["accuracy"]) < 1 and float(row["train_seconds"]) >= 0
        assert (folder / row["folder"] / "model.pt").is_file()
    assert (folder / "figure.svg").read_text().count("diverges") == 0

    again = Told()
    second = run_study(tiny, folder, progress=again)
    assert again.finished == 4 and {name.partition("_")[0] for name in again.trained} == {"diverges"}
    assert [row.accuracy for row in second.rows] == [row.accuracy for row in result.rows]
    (folder / "figure.svg").unlink()
    assert run_study(tiny, folder, collect=True, progress=Told()) == second
    assert (folder / "figure.svg").is_file()


def test_points_trained_under_other_settings_are_kept_unless_they_are_to_be_overwritten(tmp_path):
    tiny, folder = study(tmp_path), tmp_path / "study"
    one = [assignment("train.epochs", 2, "--set")]
    assert len(run_study(tiny, folder).rows) == 4
    done = {path: path.read_bytes() for path in (*folder.glob("points/*/*.pt"), folder / "results.csv")}
    refused = r"study: 4 points were trained under other settings \(unshared_width4_seed0: epochs 1 \(now 2\)\)"
    with pytest.raises(OutputError, match=f"{refused}; give the same again, another -o, or --overwrite"):
        run_study(tiny, folder, over=one)
    with pytest.raises(ConfigError, match=r"no point of these settings, and 4 points .*epochs 1 \(now 2\)\); give"):
        run_study(tiny, folder, over=one, collect=True)
    with pytest.raises(ConfigError, match="finds no point of these settings, and 4 points were trained under other on"):
        run_study(replace(tiny, seeds=(7,)), folder, collect=True)
    assert all(path.read_bytes() == content for path, content in done.items())
    run_study(tiny, folder, over=[assignment("train.threads", 1, "--set")], progress=(told := Told()))
    assert (told.finished, told.trained) == (4, [])  # what changes speed alone changes no result

    told = Told()
    run_study(replace(tiny, seeds=(0,)), folder, over=one, overwrite=True, progress=told)
    assert told.trained == ["unshared_width4_seed0", "shared_width4_seed0"] and told.otherwise == 2
    collected = run_study(tiny, folder, over=one, collect=True, progress=told)
    assert {row.epochs for row in collected.rows} == {2} and (told.finished, told.otherwise) == (2, 2)
    assert len((folder / "results.csv").read_text().splitlines()) == 3


def test_a_training_begun_under_other_settings_does_not_go_on(tmp_path):
    tiny, folder = study(tmp_path, epochs=3), tmp_path / "study"

    class Stops(Told):
        def training(self, point):
            return StopsAfterAnEpoch()

    class StopsAfterAnEpoch(NoProgress):
        def epoch(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(tiny, folder, progress=Stops())
    (state,) = folder.glob("points/*/model.pt.resume")
    other = [assignment("train.lr", 0.001, "--set")]
    before, result = state.read_bytes(), run_study(replace(tiny, seeds=(0,)), folder, over=other)
    errors = [row.error for row in result.rows]
    assert "lr 0.01 (now 0.001); another -o, or --overwrite" in errors[0] and errors[1] is None
    assert state.read_bytes() == before
    result = run_study(replace(tiny, seeds=(0,)), folder, over=other, overwrite=True)
    assert {row.epochs for row in result.rows} == {3} and not result.failed
    assert len(json.loads((state.parent / "epochs.json").read_text())) == 3


def test_nothing_is_written_where_nothing_is_finished(tmp_path):
    assert run_study(study(tmp_path), tmp_path / "study", collect=True).rows == ()
    assert not (tmp_path / "study").exists()


def test_data_are_read_once(tmp_path):
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)):
        image = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(image)
    more = f'[set.data]\nsource = "folder:{tmp_path}/images"\nsize = 8\n[set.bench]\nruns = 1\n'
    tiny = study(tmp_path)
    tiny.path.write_text(f'precisions = ["fp32"]\n{tiny.path.read_text()}{more}')

    class Planned(Told):
        def planned(self, points, finished, otherwise):
            (tmp_path / "images").rename(tmp_path / "elsewhere")

    tiny = read_study(tiny.path)
    result = run_study(replace(tiny, plans=tiny.plans[:1], seeds=(0,)), tmp_path / "study", progress=Planned())
    assert not result.failed and all(row.fp32_bytes for row in result.rows)


def test_points_of_other_processes_are_waited_for_and_dead_ones_noticed(tmp_path):
    from edgeks.study.run import _tasks

    (task, *_), dataset = _tasks(study(tmp_path), tmp_path / "study", [], False, NoStudyProgress())
    assert isinstance(task, Task)
    task.folder.mkdir(parents=True)
    with locked(task.folder / LOCK_FILE):
        assert run_task(task, "attempt", lambda task: NoProgress(), lambda: dataset) == "busy"
    (task.folder / BEGUN_FILE).write_text("attempt")
    assert run_task(task, "attempt", lambda task: NoProgress(), lambda: dataset) == "failed"
    assert "ended without a word" in task.failure("attempt")
    assert run_task(task, "next attempt", lambda task: NoProgress(), lambda: dataset) == "done"
    assert task.failure() is None and task.result()["epochs"] == 1


@pytest.mark.slow
def test_workers_share_the_points_and_a_killed_study_goes_on_to_the_same_rows(tmp_path):
    tiny = study(tmp_path, more=DIVERGES.replace("lr = 1000", "lr = 0.01"), epochs=2)
    command = [sys.executable, "-m", "edgeks", "study", str(tiny.path), "-o", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    points = tmp_path / "killed" / "points"
    while process.poll() is None and not list(points.glob("*/point.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.read_bytes() for path in points.glob("*/point.json")}
    assert 1 <= len(done) < 6

    run_study(tiny, tmp_path / "killed")
    assert all(path.read_bytes() == content for path, content in done.items())
    run_study(tiny, tmp_path / "farmed", workers=2)
    killed, farmed = (
        [
            {key: value for key, value in row.items() if key != "train_seconds"}
            for row in csv.DictReader((tmp_path / name / "results.csv").open())
        ]
        for name in ("killed", "farmed")
    )
    assert killed == farmed and len(killed) == 6
    assert len(list((tmp_path / "farmed" / "jobs").glob("*_submitted.pkl"))) == 2
    assert all(len(json.loads(file.read_text())) == 2 for file in points.glob("*/epochs.json"))


def test_slurm_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(tmp_path)))
    tiny = replace(study(tmp_path), recipe="none.toml")  # it is said before anything is read
    with pytest.raises(ConfigError, match="--slurm: there is no sbatch on this machine"):
        run_study(tiny, tmp_path / "study", slurm={})


def test_settings_that_slurm_does_not_know(tmp_path, monkeypatch):
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=r"--slurm: .*gpu_count"):
        run_study(replace(study(tmp_path), recipe="none.toml"), tmp_path / "study", slurm={"gpu_count": 1})
