"""Instructions: what is refused before anything is emulated, and what is made of what the board says.

Counting itself: device_tests/test_emulated_instructions.py.
"""

import io
import json

import pytest
from rich.console import Console

from edgeks.emulator.jobs import JobResult
from edgeks.errors import ConfigError, DataError, EdgeksError, ModelFileError
from edgeks.instructions import Counted, _finding, count_instructions, count_instructions_of, render, to_json
from edgeks.target import load_target

TARGET = load_target("onnx")
FACTS = {"event": "facts", "runtime": "onnxruntime", "runtime_version": "1.31.1", "platform": "Linux-6.1-aarch64"}
EVENTS = (
    FACTS,
    {"event": "load", "ms": 12.5},
    {"event": "first_inference", "ms": 9.000001},
    {"event": "samples", "ms": [8.1, 8.0]},
    {"event": "samples", "ms": [8.05]},
    {"event": "end", "ok": True},
)


def finding(result, path):
    return _finding(
        Counted(path, TARGET), {"runtime": "onnxruntime"}, {"threads": 1}, "cortex-a72", "7.2.22 (Debian)", result
    )


def test_a_millisecond_is_a_million_instructions(tmp_path):
    found = finding(JobResult(EVENTS, 0, ""), tmp_path / "m.onnx")
    assert (found.load, found.first_inference) == (12_500_000, 9_000_001)
    assert found.inferences == (8_100_000, 8_000_000, 8_050_000)
    assert found.inference == 8_050_000 and found.spread == pytest.approx(100_000 / 8_050_000)


def test_its_json_says_what_was_counted_and_that_it_is_no_time(tmp_path):
    found = json.loads(json.dumps(to_json(finding(JobResult(EVENTS, 0, ""), tmp_path / "m.onnx"))))
    assert found["schema"] == "edgeks.instructions/1" and found["emulated"] is True
    assert found["instructions"]["inference"] == 8_050_000
    assert found["emulator"] == "QEMU 7.2.22 (Debian)" and found["threads"] == 1
    assert not [key for key in found | found["instructions"] if key.endswith("_ms")]


def test_the_report_is_labelled(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    render(finding(JobResult(EVENTS, 0, ""), tmp_path / "[m].onnx"), console)
    text = console.file.getvalue()
    assert "Arm instructions (emulated Cortex-A72, one thread), not time" in " ".join(text.split())
    assert "8.05 M" in text and "12.50 M" in text and "[m].onnx" in text and "QEMU 7.2.22" in text


def test_a_file_that_fails_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "m.onnx"
    error = {"event": "error", "stage": "model", "message": "no such op"}
    refused = finding(JobResult((FACTS, error, {"event": "end", "ok": False}), 1, ""), path)
    assert isinstance(refused, ModelFileError) and "ONNX Runtime cannot load it: no such op" in str(refused)
    killed = finding(JobResult((FACTS,), -11, "last\nwords"), path)
    assert isinstance(killed, EdgeksError)
    assert str(killed) == (
        f"{path}: the benchmark process on the emulated board was killed by signal 11 before it was done; last words"
    )


def test_what_cannot_be_counted_is_refused_before_anything_starts(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelFileError, match="no such file"):
        count_instructions(path, TARGET)
    path.touch()
    with pytest.raises(ConfigError, match="--cpu pentium: legal: cortex-a53"):
        count_instructions(path, TARGET, "pentium")
    with pytest.raises(ConfigError, match="target 'tflite' is for tflite files"):
        count_instructions(path, load_target("tflite"))
    with pytest.raises(DataError, match="runs is 0; legal: 1 to 1000"):
        count_instructions(path, TARGET, runs=0)
    assert count_instructions_of([]) == ()
