"""Two processes train what one trains: the same weights within rounding, whatever the rows of each. Killed, they end
all, say why in one line, and can be resumed to the same bits.
"""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from together import ARGUMENTS, CONFIG, KILLED, SETTINGS, all_of_it, batch_norm_and_gradients, trained

from edgeks.models.zoo import build
from edgeks.train.data import load_dataset
from edgeks.train.fit import fit
from edgeks.train.launch import launch
from edgeks.train.progress import NoProgress


def started(folder, *more):
    """`edgeks train` as a process, once it has finished an epoch."""
    command = [sys.executable, "-m", "edgeks", "train", *ARGUMENTS, "-o", "resumed.pt", *more]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    while not (folder / "resumed.pt.resume").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return process


def workers(process):
    """The training processes that `process` has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes has in the end, and what was said when one of two was killed before."""
    folder = tmp_path_factory.mktemp("two")
    with started(folder, "--processes", "2") as killed:
        first, second = workers(killed)
        os.kill(second, signal.SIGKILL)
        said = killed.communicate(timeout=120)[1], killed.returncode
    assert not any(Path(f"/proc/{pid}").exists() for pid in (first, second))
    launch(2, partial(all_of_it, folder), NoProgress())
    return [{"said": said, **torch.load(folder / f"{rank}.pt", weights_only=False)} for rank in (0, 1)]


def test_a_killed_process_ends_all_in_one_line(two):
    said, code = two[0]["said"]
    assert (said, code) == (
        "error: training: process 1 of 2 was ended by SIGKILL (too little memory?); --resume goes on after the last "
        "whole epoch\n",
        1,
    )


def assert_same_bits(first, second):
    assert first[0] == second[0]
    assert list(first[1]) == list(second[1])
    assert all(torch.equal(first[1][key], second[1][key]) for key in first[1])


def test_two_processes_resume_to_the_same_bits(two):
    for process in two:
        assert_same_bits(process["resumed"], process["straight"])


def test_killed_and_resumed_to_the_same_bits(tmp_path):
    with started(tmp_path) as killed:
        killed.send_signal(signal.SIGKILL)
    assert not (tmp_path / "resumed.pt").exists()
    assert 1 <= torch.load(tmp_path / "resumed.pt.resume", weights_only=True)["epoch"] < KILLED.epochs
    both = []
    for name in ("resumed", "straight"):
        model = build("convmixer", CONFIG, 0)
        result = fit(model, load_dataset("digits"), KILLED, last=tmp_path / f"{name}.pt.resume", resume=True)
        both.append((result, model.state_dict()))
    assert_same_bits(*both)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_train_what_one_trains(two, tmp_path, name):
    result, weights = trained(name, tmp_path)
    for found, others in (process[name] for process in two):
        assert [record.epoch for record in found.history] == [record.epoch for record in result.history]
        assert found.best_epoch == result.best_epoch
        for mine, theirs in zip(found.history, result.history, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
            assert mine.validation_accuracy == theirs.validation_accuracy
        for key, tensor in weights.items():
            torch.testing.assert_close(
                others[key], tensor, rtol=1e-4, atol=2e-5, msg=lambda text, k=key: f"{k}: {text}"
            )
    first, second = (process[name][1] for process in two)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("rows", ["uneven", "empty"])
def test_statistics_and_a_shared_kernels_gradient_are_those_of_the_whole_batch(two, rows):
    y, gradients, buffers = batch_norm_and_gradients(slice(None))
    torch.testing.assert_close(torch.cat([process[rows][0] for process in two]), y, rtol=1e-4, atol=1e-5)
    for process in two:
        for found, wanted in zip(process[rows][1], gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        for found, wanted in zip(process[rows][2], buffers, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
