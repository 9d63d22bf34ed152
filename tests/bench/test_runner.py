"""The runner by itself: warm-up, pinning, times of operators, memory that is out."""

import json
import os
import subprocess
import sys

import onnx
import pytest

from edgeks.bench.local import RUNNER
from edgeks.bench.runner import warm_up

CONVOLUTION = """
<ir_version: 10, opset_import: ["": 20]>
net (float[1,8,32,32] x) => (float[1,8,32,32] y)
<float[8,8,3,3] w = {}>
{{ hidden = Conv <pads = [1, 1, 1, 1]> (x, w)  y = Relu(hidden) }}
"""
LOOP = """
<ir_version: 10, opset_import: ["": 20]>
net (float[1,4] x) => (float[1,4] y)
<int64 trips = {5}>
{
  y = Loop (trips, , x) <body = body (int64 i, bool go_on, float[1,4] inner) => (bool again, float[1,4] next) {
    again = Identity(go_on)
    next = Sin(inner)
  }>
}
"""


def convolution():
    ones = ", ".join(["1.0"] * (8 * 8 * 9))
    return CONVOLUTION.format("{" + ones + "}").replace("{{", "{").replace("}}", "}")


def write(path, text):
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def events(path, before="", **config):
    """Runner's events, of a process started by the shell after `before`."""
    command = f'{before} exec "{sys.executable}" "{RUNNER}"'
    given = json.dumps({"model": str(path), **config})
    done = subprocess.run(["sh", "-c", command], input=given, capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


def only(found, kind):
    (event,) = [event for event in found if event["event"] == kind]
    return event


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "net.onnx", convolution())


class Engine:
    """Runs as long as it is told, in seconds, the last for ever."""

    def __init__(self, clock, *durations):
        self.clock, self.durations = clock, list(durations)

    def run(self):
        self.clock.now += self.durations.pop(0) if len(self.durations) > 1 else self.durations[0]


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr("edgeks.bench.runner.time.perf_counter", lambda: found.now)
    monkeypatch.setattr("edgeks.bench.runner.time.perf_counter_ns", lambda: round(found.now * 1e9))
    return found


def told(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_warm_up_waits_for_a_clock_that_rises(clock, capsys):
    """Windows of 5, 6, 9 and 10 runs; only the last is as fast as the one before."""
    warm_up(Engine(clock, *[0.02] * 7, *[0.015] * 7, 0.01), {"warmup": None})
    assert told(capsys) == {"event": "warmup", "runs": 30, "seconds": pytest.approx(0.405), "stable": True}


def test_warm_up_of_slow_inferences_is_two_windows_of_five(clock, capsys):
    warm_up(Engine(clock, 1.0), {"warmup": None})
    assert told(capsys) == {"event": "warmup", "runs": 10, "seconds": pytest.approx(10.0), "stable": True}


def test_warm_up_gives_up(clock, capsys):
    slower = [0.01 * 1.01**number for number in range(1000)]
    warm_up(Engine(clock, *slower), {"warmup": None, "warmup_seconds": 2})
    found = told(capsys)
    assert found["stable"] is False
    assert 2 < found["seconds"] < 2.5


def test_a_given_number_of_warm_up_runs(clock, capsys):
    warm_up(Engine(clock, 0.01), {"warmup": 3})
    assert told(capsys) == {"event": "warmup", "runs": 3, "seconds": pytest.approx(0.03), "stable": None}


def test_states_are_before_between_and_after_the_counted_runs(path):
    found = events(path, runs=3, min_seconds=1.2, warmup=None)
    kinds = [event["event"] for event in found]
    assert kinds.index("warmup") < kinds.index("state")
    moments = [event["moment"] for event in found if event["event"] == "state"]
    assert moments[0] == "before"
    assert moments[-1] == "after"
    assert set(moments[1:-1]) == {"during"}
    seconds = [event["seconds"] for event in found if event["event"] == "state"]
    assert seconds == sorted(seconds)
    assert seconds[-1] >= 1.2


def test_threads_stay_on_the_pinned_cores(path):
    core = max(os.sched_getaffinity(0))
    found = events(path, runs=200, threads=2, pin=[core])
    assert only(found, "facts")["cores"] == 1
    assert [event["cores"] for event in found if event["event"] == "state"][-1] == [core]


@pytest.mark.parametrize("pin", [[4095], [0, -1], ["0"], 0.5])
def test_an_illegal_core(path, pin):
    error = only(events(path, pin=pin), "error")
    assert error["stage"] == "config"
    assert "cores that this process may use: 0" in error["message"]


def test_times_of_operators(path, tmp_path):
    found = events(path, before=f"TMPDIR={tmp_path};export TMPDIR;", runs=10, warmup=5, profile=True)
    ops = only(found, "ops")
    assert ops["reason"] == ""
    assert next(op["type"] for op in ops["ops"] if "Reorder" not in op["type"]).endswith("Conv")
    mean = sum(sum(event["ms"]) for event in found if event["event"] == "samples") / 10
    assert 0 < sum(op["ms"] for op in ops["ops"]) <= mean
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


def test_operators_in_a_loop_are_of_its_depth(tmp_path):
    ops = only(events(write(tmp_path / "net.onnx", LOOP), runs=4, profile=True), "ops")["ops"]
    depths = {op["type"]: op["depth"] for op in ops}
    assert depths["Loop"] == 0
    assert depths["Sin"] == 1
    inner = sum(op["ms"] for op in ops if op["depth"] == 1)
    assert 0 < inner <= sum(op["ms"] for op in ops if op["depth"] == 0)


def test_onnx_runtime_sends_nothing_of_what_it_runs(path, tmp_path):
    """Its telemetry notes its session in TMPDIR, and collects in the home folder what it will send."""
    home = tmp_path / "home"
    home.mkdir()
    (ended, *_) = events(path, before=f"export HOME={home} XDG_CACHE_HOME={home} TMPDIR={home};", runs=1)[::-1]
    assert ended == {"event": "end", "ok": True}
    assert list(home.iterdir()) == []


def test_memory_that_is_out_is_said_so(tmp_path):
    """Under a limit of address space that holds the process, but not 400 MB of activations more."""
    text = (
        '<ir_version: 10, opset_import: ["": 20]> net (float[1,1] x) => (float[N,M] y) <int64[2] to = {10000, 10000}> '
    )
    path = write(tmp_path / "net.onnx", text + "{ wide = Expand(x, to)  y = Neg(wide) }")
    error = only(events(path, before="ulimit -v 900000;"), "error")
    assert error["stage"] == "memory"
    assert error["message"].startswith("out of memory while running the model; the system has ")


def test_no_line_is_too_long_for_the_way_from_a_board(tmp_path):
    tiny = write(tmp_path / "tiny.onnx", LOOP)
    found = events(tiny, runs=25_000, warmup=0)
    samples = [event["ms"] for event in found if event["event"] == "samples"]
    assert sum(map(len, samples)) == 25_000
    assert max(len(json.dumps(each)) for each in samples) < 1 << 19
