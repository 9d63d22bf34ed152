"""Studies end to end on small networks: the table, the figure, what is kept, what fails, and what is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeks.errors import ConfigError
from edgeks.run_folder import locked
from edgeks.study.run import NoStudyProgress, run_study
from edgeks.study.settings import read_study
from edgeks.study.work import BEGUN_FILE, LOCK_FILE, Task, run_task
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

    def planned(self, points, finished):
        self.finished = finished

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

    longer = Told()
    run_study(study(tmp_path, epochs=2), folder, quick=False, progress=longer)
    assert longer.finished == 0 and len(longer.trained) == 4


def test_points_of_other_processes_are_waited_for_and_dead_ones_noticed(tmp_path):
    from edgeks.study.run import _tasks

    (task, *_), _dataset = _tasks(study(tmp_path), tmp_path / "study", [], NoStudyProgress())
    assert isinstance(task, Task)
    task.folder.mkdir(parents=True)
    with locked(task.folder / LOCK_FILE):
        assert run_task(task, "attempt", lambda task: NoProgress()) == "busy"
    (task.folder / BEGUN_FILE).write_text("attempt")
    assert run_task(task, "attempt", lambda task: NoProgress()) == "failed"
    assert "ended without a word" in task.failure("attempt")
    assert run_task(task, "next attempt", lambda task: NoProgress()) == "done"
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
    with pytest.raises(ConfigError, match="--slurm: there is no sbatch on this machine"):
        run_study(study(tmp_path), tmp_path / "study", slurm={})
