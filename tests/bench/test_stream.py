"""What the runner says is checked before it is believed: it may come from a board that is broken or hostile."""

import json
from pathlib import Path

import pytest

from edgeks.bench.stream import RunnerStream
from edgeks.errors import EdgeksError

STATE = {
    **{"event": "state", "moment": "after", "seconds": 1.0, "cores": [0, 1], "allowed_cores": 2, "unknown": {}},
    **{"clock_mhz": None, "nominal_clock_mhz": None, "temperature_c": None, "throttled": None, "load_1min": 0.5},
    **{"own_cpu_s": 1.0, "others_cpu_s": 0.0, "steal_cpu_s": 0.0, "swap_in_pages": 0, "swap_out_pages": 0},
    **{"major_faults": 0, "involuntary_switches": 0},
}
WRONG = {
    "samples.ms is None; legal: a list": {"event": "samples"},
    "samples.ms[0] is 'a'; legal: a number": {"event": "samples", "ms": ["a"]},
    "samples.ms is 0; legal: above 0": {"event": "samples", "ms": [0.0]},
    "samples.ms is 1e+308; legal: above 0": {"event": "samples", "ms": [1e308]},
    "load.ms is None; legal: a number": {"event": "load"},
    "facts.machine is a list": {"event": "facts", "machine": [1]},
    "inputs.inputs is a list; legal: an object": {"event": "inputs", "inputs": [1]},
    "warmup.runs is '1'; legal: a whole number": {"event": "warmup", "runs": "1", "seconds": 1.0, "stable": None},
    "memory.rss_bytes is missing": {"event": "memory", "stage": "run"},
    "state.allowed_cores is '4'; legal: a whole number": {**STATE, "allowed_cores": "4"},
    "state.clock_mhz is (600.0,); legal: one above 0 for each of its cores": {**STATE, "clock_mhz": [600.0]},
    "state.load_1min is 1000": {**STATE, "load_1min": 10**400},
    "ops.ops[0] is 1; legal: an object": {"event": "ops", "ops": [1], "reason": ""},
    "error.message is an object; legal: text": {"event": "error", "stage": "run", "message": {}},
    "end.ok is None; legal: true or false": {"event": "end"},
}


@pytest.mark.parametrize("wanted", WRONG)
def test_events_that_the_runner_does_not_send(wanted: str) -> None:
    with pytest.raises(EdgeksError) as caught:
        RunnerStream().take_line(json.dumps(WRONG[wanted]))
    assert str(caught.value).startswith(f"the benchmark process sent what it should not: {wanted}")


@pytest.mark.parametrize("line", ["hello", "", "[1]", '{"x": 1}', "[" * 10_000, '{"event": "load", "ms": NaN}'])
def test_lines_of_others_are_left_alone(line: str) -> None:
    stream = RunnerStream()
    stream.take_line(line)
    assert stream == RunnerStream()


def test_an_end_without_the_runs_is_none() -> None:
    stream = RunnerStream()
    for event in ({"event": "samples", "ms": [1.0, 2.0]}, {"event": "end", "ok": True}, {"event": "samples", "ms": ""}):
        stream.take(event)
    stream.require_end(Path("net.onnx"), {"runtime": "onnxruntime", "runs": 2}, "ended with code 0", "")
    with pytest.raises(EdgeksError, match=r"net\.onnx: the benchmark process ended with code 0 before it was done"):
        stream.require_end(Path("net.onnx"), {"runtime": "onnxruntime", "runs": 3}, "ended with code 0", "")


def test_a_message_does_not_steer_the_terminal() -> None:
    stream = RunnerStream()
    stream.take({"event": "error", "stage": "run", "message": "\x1b[2J\udc80 evil \u202e" + 10_000 * "x"})
    with pytest.raises(EdgeksError) as caught:
        stream.require_end(Path("net.onnx"), {"runtime": "onnxruntime"}, "", "")
    assert str(caught.value).startswith("net.onnx: ONNX Runtime cannot run it: �[2J� evil �xxx")
    assert len(str(caught.value)) < 1100
