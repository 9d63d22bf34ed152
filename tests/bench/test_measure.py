"""A job in several fresh processes: disturbed ones are repeated, kept and not counted; what is done is never lost."""

import os
from itertools import count

import numpy as np
import onnx
import pytest
from machines import ScriptedMachine

from edgeks.bench.local import LocalMachine
from edgeks.bench.measure import measure
from edgeks.bench.measurement import MLPERF, PRESETS, QUICK, Effort, Job
from edgeks.errors import DataError, EdgeksError, LinkLost, ModelFileError
from edgeks.target import load_target

BRIEF = Effort(processes=3, runs=20, seconds=0.0, warmup=2)


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "net.onnx"
    text = '<ir_version: 10, opset_import: ["": 20]> net (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }'
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return Job(path, load_target("onnx"), "onnxruntime", 1)


def scripted(disturbed=()):
    numbers = count(10)
    return ScriptedMachine(lambda: [float(next(numbers))] * 20, disturbed)


def test_fresh_processes_on_this_machine(job):
    told, so_far = [], []
    found = measure(job, LocalMachine(), BRIEF, told.append, so_far.append)
    assert [len(process.samples_ms) for process in found.repetitions] == [20, 20, 20]
    assert [process.warmup for process in found.repetitions] == [2, 2, 2]
    assert (found.machine, found.is_emulated, found.machine_facts) == ("local", False, {})
    assert found.started.endswith("+00:00")
    assert found.latency.count in {20 * (len(found.valid) or 3)}
    assert found.p50_interval.low <= found.latency.p50_ms <= found.p50_interval.high
    assert [len(each.repetitions) for each in so_far] == [1, 2, 3]
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    memory = found.repetitions[0].memory
    assert [each.stage for each in memory] == ["start", "loaded", "fed", "run"]
    assert (found.ops, found.ops_reason) == (None, "not asked for")


def test_pin_inputs_threads_and_operators(job, tmp_path):
    np.save(tmp_path / "in.npy", np.ones((2, 3, 8, 8), np.float32))
    core = min(os.sched_getaffinity(0))
    pinned = Job(job.path, job.target, job.runtime, 2, (core,), tmp_path / "in.npy")
    found = measure(pinned, LocalMachine(), Effort(processes=1, runs=3, seconds=0.0, warmup=None, profile=True))
    (process,) = found.repetitions
    assert process.session["threads"] == 2
    assert process.pin == (core,)
    assert process.facts["cores"] == 1
    assert process.inputs["x"]["shape"] == [2, 3, 8, 8]
    assert process.warmup_stable is not None
    assert [op.type for op in found.ops] == ["Relu"]
    assert found.p50_interval is None


def test_outputs_of_this_machine(job, tmp_path):
    samples = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "in.npy", samples)
    config = {"model": str(job.path), "runtime": "onnxruntime", "samples": str(tmp_path / "in.npy")}
    (outputs,) = LocalMachine().outputs(job.path, config)
    np.testing.assert_array_equal(outputs, np.maximum(samples, 0))


def test_disturbed_processes_are_repeated_and_do_not_count(job):
    found = measure(job, scripted(disturbed=[0, 3]), Effort(processes=3, repeats=5))
    assert len(found.repetitions) == 5
    assert [process.samples_ms[0] for process in found.valid] == [11.0, 12.0, 14.0]
    assert found.latency.count == 60
    assert found.taints == ()


def test_repeats_end(job):
    found = measure(job, scripted(disturbed=range(9)), Effort(processes=3, repeats=2))
    assert len(found.repetitions) == 5
    assert found.valid == ()
    assert found.taints == ("in 5 of 5 processes: it was 85 °C hot; from 80 °C boards slow down",)
    assert found.latency.count == 100  # said to be invalid, and shown


def test_three_undisturbed_processes_are_enough(job):
    found = measure(job, scripted(disturbed=[1]), Effort(processes=5))
    assert len(found.repetitions) == 5
    assert found.taints == ()
    assert measure(job, scripted(disturbed=[1]), Effort(processes=3)).taints != ()


@pytest.mark.parametrize("error", [KeyboardInterrupt, LinkLost("pi: the link was lost")])
def test_what_was_measured_outlives_an_interruption(job, error):
    machine = scripted()
    numbers = count()

    def samples():
        if next(numbers) == 3:
            raise error
        return [1.0] * 20

    machine.next_samples = samples
    kept = []
    with pytest.raises((KeyboardInterrupt, LinkLost)):
        measure(job, machine, Effort(), on_repetition=kept.append)
    assert len(kept[-1].repetitions) == 3
    assert kept[-1].latency.p50_ms == 1.0
    assert kept[-1].p50_interval is not None


def test_operators_come_from_a_process_that_does_not_count(job):
    machine = scripted()
    found = measure(job, machine, Effort(processes=3, runs=500, seconds=60.0, profile=True))
    assert [op.type for op in found.ops] == ["Conv"]
    assert len(found.repetitions) == 3
    assert [config.get("profile") for config in machine.configs] == [None, None, None, True]
    assert (machine.configs[-1]["runs"], machine.configs[-1]["min_seconds"]) == (20, 0)


def test_presets():
    assert {"default": Effort(), "quick": QUICK, "mlperf": MLPERF} == PRESETS
    assert MLPERF.runs >= 1024
    assert MLPERF.seconds >= 60
    assert QUICK.processes >= 3  # an interval needs three


@pytest.mark.parametrize(
    "effort", [Effort(processes=0), Effort(runs=0), Effort(warmup=-1), Effort(repeats=-1), Effort(seconds=-1.0)]
)
def test_illegal_efforts(job, effort):
    with pytest.raises(DataError, match="legal: "):
        measure(job, scripted(), effort)


def test_a_core_that_is_not_there_and_a_file_that_is_not_there(job, tmp_path):
    with pytest.raises(EdgeksError, match="cores that this process may use"):
        measure(Job(job.path, job.target, job.runtime, 1, (4095,)), LocalMachine(), BRIEF)
    with pytest.raises(ModelFileError, match="no such file"):
        measure(Job(tmp_path / "none.onnx", job.target, job.runtime, 1), LocalMachine(), BRIEF)
