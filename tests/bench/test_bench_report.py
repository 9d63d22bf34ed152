"""What the terminal shows of a record: the answer first, whether it counts, at most 100 columns."""

import dataclasses
import io
import re

import bench_records as records
import pytest
from rich.console import Console
from test_tflite_bench import network as tflite_network

from edgeks.bench.local import LocalMachine
from edgeks.bench.measure import measure
from edgeks.bench.measurement import DeviceParity, Effort, Job
from edgeks.bench.record import Failure, make_record
from edgeks.bench.report import render
from edgeks.target import load_target


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return records.network(tmp_path_factory.mktemp("networks") / "net.onnx", 4)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return records.network(tmp_path_factory.mktemp("networks") / "lean.onnx", 2)


def printed(record, width=100):
    console = Console(file=io.StringIO(), width=width)
    render(record, console)
    return console.file.getvalue()


def flat(record):
    return " ".join(printed(record, 400).split())


def test_the_answer_comes_first(path):
    text = flat(records.single(path))
    assert re.match(
        r"net\.onnx on local: p50 [\d.]+ ms \[[\d.]+, [\d.]+\], p90 [\d.]+ ms, p99 [\d.]+ ms over 160 runs in 4 "
        r"processes, 1 thread on core 0, onnxruntime \d[\d.]+\. ✓ valid: all 4 processes were undisturbed",
        text,
    )
    for part in (
        "clock 1,500–1,800 of 1,800 MHz; 48–56 °C; load 0.4–1.1",
        "parity SQNR 61.2 dB, cosine 0.999998, top-1 agreement 100.0 %, 8 samples",
        "target onnx: graph optimisation all; without ConvBNFusion",
        "x 1×3×16×16 float32, random",
        "slowest operators",
        "of 30 operators",
        "command edgeks bench net.onnx",
    ):
        assert part in text
    assert re.search(r"RAM -?[\d.]+ .B at run peak, [\d.]+ .B while loading; after the runs [\d.]+ .B anonymous", text)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_every_report_fits(path, other, width):
    for record in (records.single(path), records.against(path, other), records.fleet(path)):
        assert max(map(len, printed(record, width).splitlines())) <= min(width, 100)


def test_a_real_measurement_of_tflite(tmp_path):
    job = Job(tflite_network(tmp_path / "net.tflite"), load_target("tflite"), "litert", 1)
    effort = Effort(processes=1, runs=20, seconds=0.0, warmup=1, profile=True)
    text = flat(make_record([measure(job, LocalMachine(), effort)]))
    assert re.match(
        r"net\.tflite on local: p50 [\d.]+ ms, p90 [\d.]+ ms over 20 runs in 1 process, 1 thread, litert", text
    )
    assert "target tflite: kernels xnnpack" in text
    assert "20 runs: too few; p99 needs 100 runs or more" in text
    assert "1 process: too few for an interval of p50, which needs 3" in text
    assert "no times per operator: " in text
    assert "1 run, as given" in text


def test_what_is_not_known_says_why(path):
    made = records.measurement(path, parity=DeviceParity(None, "no samples travel with the file"))
    bare = tuple(
        dataclasses.replace(state, clock_mhz=None, temperature_c=None, unknown={"clock_mhz": "no cpufreq there"})
        for state in made.repetitions[0].states
    )
    made = dataclasses.replace(
        made,
        repetitions=tuple(
            dataclasses.replace(one, states=bare, memory=(), warmup_stable=index > 0)
            for index, one in enumerate(made.repetitions)
        ),
    )
    text = flat(make_record([made]))
    assert "clock unknown (no cpufreq there); temperature unknown; load" in text
    assert "RAM unknown: the system does not tell" in text
    assert "not compared: no samples travel with the file" in text
    assert "1 of 4 processes not stable" in text


@pytest.mark.parametrize(
    ("bits", "says"), [(0, "never throttled"), (0x50000, "throttled before, since boot"), (0x50005, "throttled while")]
)
def test_throttling_is_told(path, bits, says):
    made = records.measurement(path)
    state = dataclasses.replace(made.repetitions[0].states[0], throttled=bits)
    process = dataclasses.replace(made.repetitions[0], states=(state,))
    assert says in flat(make_record([dataclasses.replace(made, repetitions=(process,))]))


def test_a_measurement_that_does_not_count(path):
    made = records.disturbed(records.measurement(path), "the clock fell to 600 MHz")
    text = flat(make_record([made]))
    assert re.search(r"✗ invalid, 0 of 4 processes undisturbed: .*the clock fell to 600 MHz", text)
    one_good = dataclasses.replace(made, repetitions=(records.measurement(path).repetitions[0], *made.repetitions[1:]))
    assert "✗ invalid, 1 of 4" in flat(make_record([one_good]))
    few = dataclasses.replace(one_good, effort=dataclasses.replace(one_good.effort, processes=1))
    assert "✓ valid: 1 of 4 processes undisturbed; the others: the clock fell" in flat(make_record([few]))


def test_an_emulated_machine_never_shows_a_latency(path):
    made = records.board(path, "pi", is_emulated=True)
    text = flat(make_record([made]))
    assert text.startswith("net.onnx on pi: emulated: time means nothing; RAM ")
    several = flat(make_record([made, dataclasses.replace(made, machine="pi2")]))
    against = flat(make_record([], [records.comparison(made, made)]))
    assert "emulated: time means nothing" in against
    for one in (text, several, against):
        assert not re.search(r"\d ms\b|p50 \d|ratio|faster|MHz|°C", one), one


def test_a_comparison_has_the_verdict_first(path, other):
    record = records.against(path, other)
    text = flat(record)
    assert text.startswith(
        "lean.onnx is faster than net.onnx on local: ratio of p50 0.830 [0.810, 0.850], 4 blocks in random order"
    )
    a, b = record.comparisons[0].a, record.comparisons[0].b
    for verdict, says in (
        ("slower", "lean.onnx is slower than net.onnx on"),
        ("no difference shown", "lean.onnx against net"),
    ):
        assert flat(make_record([], [records.comparison(a, b, verdict=verdict)])).startswith(says)
    invalid = dataclasses.replace(records.comparison(a, b), taints=("others used the CPU",))
    text = flat(make_record([], [invalid]))
    assert text.startswith("lean.onnx against net.onnx on local: not decided, the comparison is invalid")
    assert "✗ invalid: others used the CPU" in text


def test_jobs_are_told_apart_by_what_differs(path):
    a = records.measurement(path)
    for change, machine, names in (
        ({"threads": 2}, "local", ("2 threads", "1 thread", " on local")),
        ({"pin": (2, 3)}, "local", ("cores 2, 3", "core 0", " on local")),
        ({"runtime": "other"}, "local", ("other", "onnxruntime", " on local")),
        ({}, "pi4", ("net.onnx on pi4", "net.onnx on local", "")),
        ({}, "local", ("net.onnx (b)", "net.onnx (a)", " on local")),
    ):
        b = dataclasses.replace(a, job=dataclasses.replace(a.job, **change), machine=machine)
        assert flat(make_record([], [records.comparison(a, b)])).startswith(
            f"{names[0]} is faster than {names[1]}{names[2]}: "
        )


def test_a_fleet_has_a_row_per_host_and_the_failed_one_says_why(path):
    text = printed(records.fleet(path))
    lines = text.splitlines()
    assert re.match(r"net\.onnx, 3 measurements: p50 [\d.]+ ms \(pi4\); 2 without a valid time; 1 failed", lines[0])
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:10] if line.strip()}
    assert rows["pi4"][-1] == "yes" and rows["zero"][-1] == "no"
    assert rows["emulated"][:2] == ["emulated", "–"]
    assert rows["pi5"] == ["failed"]
    assert "✗ pi5, net.onnx: port 22 is closed on pi5.lan; is sshd running there?" in text
    assert "Raspberry Pi 4 Model B Rev 1.4, 2 cores, Debian GNU/Linux 12 (bookworm)" in text


def test_nothing_or_little_was_measured(path):
    failure = Failure("pi5", "net.onnx", "pi5: unknown host key")
    assert flat(make_record([], failures=[failure])) == "✗ pi5, net.onnx: unknown host key"
    nothing = dataclasses.replace(records.measurement(path), repetitions=(), ops=None)
    text = flat(make_record([nothing], failures=[Failure("local", "net.onnx", "it was killed")]))
    assert "no process came to its end" in text and "✗ local, net.onnx: it was killed" in text
    assert "✗ no process was measured" in text


def test_hostile_text_does_not_steer_the_terminal(path):
    evil = "\x1b[31m[bold]\u202e\n\x07"
    made = records.disturbed(
        records.board(path, evil, parity=DeviceParity(None, evil), ops=None, ops_reason=evil, started=evil), evil
    )
    job = dataclasses.replace(made.job, path=path.with_name(f"x{evil}.onnx"), runtime=evil)
    job.path.write_bytes(path.read_bytes())
    process = dataclasses.replace(
        made.repetitions[0],
        facts={"cpu": evil, "platform": evil},
        session={"kernels": evil},
        inputs={evil: {"shape": [1]}},
    )
    made = dataclasses.replace(made, job=job, repetitions=(process,), machine_facts={"model": evil, "os": evil})
    failure = Failure(evil, evil, evil)
    for record in (
        make_record([made], command=[evil]),
        make_record([made, made], [records.comparison(made, records.measurement(path))], failures=[failure]),
    ):
        text = printed(record)
        assert not re.search("[\x1b\x07\u202e]", text)
        assert "[bold]" in text
