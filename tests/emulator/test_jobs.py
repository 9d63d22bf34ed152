"""Jobs on their disk, and what the console says of them."""

import json

import pytest

from edgeks.emulator import guest, jobs
from edgeks.errors import BoardError

RUNNER_LINES = [json.dumps({"event": "load", "ms": 2.5}), "a library said this", '{"event": "cut o']


def write(tmp_path, configs, beside=None):
    script = tmp_path / "runner.py"
    script.write_text("print()")
    jobs._write_data(tmp_path / "data", script, configs, beside or {})
    return json.loads((tmp_path / "data/jobs.json").read_text())


def test_each_file_is_copied_once_into_a_folder_of_its_own(tmp_path):
    model, inputs, data = tmp_path / "a.onnx", tmp_path / "x.npy", tmp_path / "weights/a.data"
    data.parent.mkdir()
    for path in (model, inputs, data):
        path.write_text(path.name)
    configs = [
        {"model": str(model), "runtime": "onnxruntime", "inputs": inputs, "samples": 3},
        {"model": model, "runtime": "tflite-runtime", "runs": 1},
    ]
    first, second = write(tmp_path, configs, {model: (data,)})
    assert first["config"]["model"] == second["config"]["model"] == "/data/0/a.onnx"
    assert first["config"]["inputs"] == "/data/1/x.npy" and first["config"]["samples"] == 3
    assert (tmp_path / "data/0/a.onnx").read_text() == "a.onnx"
    assert (tmp_path / "data/0/weights/a.data").read_text() == "a.data"
    assert (first["path"], second["path"]) == ("/opt/current", "/opt/tflite-runtime")


def console(*messages, ending=""):
    """A program that writes what the board's console would."""
    lines = [f"{guest.MARK}{json.dumps(message)}" if isinstance(message, dict) else message for message in messages]
    return ["sh", "-c", 'printf "%s\\r\\n" "$@"' + ending, "sh", *lines]


def test_results_come_in_order_and_what_is_no_event_is_left_out():
    found = []
    done = {"job": 0, "lines": RUNNER_LINES, "code": 0, "complaints": "a warning\n"}
    killed = {"job": 1, "lines": [], "code": -9, "complaints": ""}
    words = console("boot: [1.0] @@ noise", {"ready": True}, done, killed, {"done": True}, ending="; sleep 60")
    results = jobs._results(words, 2, 30, lambda index, result: found.append((index, result.code)))
    assert results[0] == jobs.JobResult(({"event": "load", "ms": 2.5},), 0, "a warning")
    assert results[1].code == -9 and found == [(0, 0), (1, -9)]


def test_a_board_that_goes_down_or_hangs_is_an_error_of_one_line():
    done = {"job": 0, "lines": [], "code": 0, "complaints": ""}
    with pytest.raises(BoardError, match="did 1 of 3 jobs: it went down; Kernel panic"):
        jobs._results(console(done, "Kernel panic"), 3, 30, lambda *_: None)
    with pytest.raises(BoardError, match="did 0 of 1 jobs: it was stopped after 1 s"):
        jobs._results(["sleep", "60"], 1, 1, lambda *_: None)
