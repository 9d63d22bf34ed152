"""A against B in random turns: what does not differ is not said to, what does is."""

from dataclasses import replace
from itertools import count

import numpy as np
import onnx
import pytest
from machines import ScriptedMachine

from edgeks.bench.compare import compare, compared
from edgeks.bench.local import LocalMachine
from edgeks.bench.measurement import Effort, Job
from edgeks.errors import DataError
from edgeks.target import load_target

EFFORT = Effort(processes=5)


def model(path, body):
    header = '<ir_version: 10, opset_import: ["": 20]> net (float[1,16,64,64] x) => (float[1,16,64,64] y)'
    path.write_bytes(onnx.parser.parse_model(f"{header} {{ {body} }}").SerializeToString())
    return Job(path, load_target("onnx"), "onnxruntime", 1)


@pytest.fixture
def a(tmp_path):
    return model(tmp_path / "a.onnx", "y = Relu(x)")


@pytest.fixture
def b(tmp_path):
    return model(tmp_path / "b.onnx", "y = Identity(x)")


def noisy(rng, p50=10.0, disturbed=(), log=None):
    """Processes that differ by 3 %, samples within by 5 %."""
    return ScriptedMachine(lambda: p50 * np.exp(rng.normal(0, 0.03) + rng.normal(0, 0.05, 40)), disturbed, log)


def test_the_same_is_not_said_to_differ(a):
    rng = np.random.default_rng(11)
    found = [compare(a, a, noisy(rng), noisy(rng), EFFORT, seed=seed) for seed in range(100)]
    assert sum(each.verdict == "no difference shown" for each in found) >= 93
    assert np.mean([each.ratio for each in found]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("p50", "verdict"), [(8.0, "faster"), (12.5, "slower")])
def test_a_fifth_is_seen(a, b, p50, verdict):
    rng = np.random.default_rng(12)
    found = [compare(a, b, noisy(rng), noisy(rng, p50), EFFORT, seed=seed) for seed in range(30)]
    assert sum(each.verdict == verdict for each in found) >= 28
    assert sum(each.interval.low <= p50 / 10 <= each.interval.high for each in found) >= 27


def test_turns_are_drawn_recorded_and_balanced(a, b):
    log = []
    rng = np.random.default_rng(0)
    found = compare(a, b, noisy(rng, log=log), noisy(rng, log=log), Effort(processes=6), seed=4)
    assert "".join(name[0] for name in log) == "".join(found.order)
    assert sorted(found.order) == ["ab"] * 3 + ["ba"] * 3
    assert found.seed == 4
    again = compare(a, b, noisy(rng), noisy(rng), Effort(processes=6), seed=4)
    others = [compare(a, b, noisy(rng), noisy(rng), Effort(processes=6), seed=seed).order for seed in range(5)]
    assert again.order == found.order
    assert len(set(others)) > 1


def test_a_disturbed_block_is_repeated_and_does_not_count(a, b):
    rng = np.random.default_rng(1)
    numbers = count()
    machine = noisy(rng, disturbed=[1])
    machine.next_samples = lambda: [1000.0 if next(numbers) == 1 else 10.0] * 40
    found = compare(a, b, machine, noisy(rng), Effort(processes=4, repeats=2))
    assert len(found.order) == len(found.a.repetitions) == len(found.b.repetitions) == 5
    assert found.ratio == pytest.approx(1.0, rel=0.1)
    assert found.taints == ()


def test_where_too_few_blocks_are_undisturbed_the_comparison_says_so(a, b):
    rng = np.random.default_rng(1)
    found = compare(a, b, noisy(rng, disturbed=[0]), noisy(rng), Effort(processes=3))
    assert found.taints == ("in 1 of 6 processes: it was 85 °C hot; from 80 °C boards slow down",)


def test_an_interrupted_comparison_keeps_what_it_has(a, b):
    rng = np.random.default_rng(1)
    machine = noisy(rng)
    numbers = count()

    def samples():
        if next(numbers) == 3:
            raise KeyboardInterrupt
        return [10.0] * 40

    machine.next_samples = samples
    kept = []
    with pytest.raises(KeyboardInterrupt):
        compare(a, b, noisy(rng), machine, EFFORT, on_repetition=lambda *both: kept.append(both))
    of_a, of_b = kept[-1]
    assert len(of_b.repetitions) == 3
    whole = compared(*(replace(each, repetitions=each.repetitions[:3]) for each in (of_a, of_b)))
    assert whole.interval.low < whole.interval.high


def test_a_comparison_needs_three_of_each(a, b):
    rng = np.random.default_rng(1)
    with pytest.raises(DataError, match="processes is 2; a comparison needs 3 or more"):
        compare(a, b, noisy(rng), noisy(rng), Effort(processes=2))
    found = compare(a, b, noisy(rng), noisy(rng), Effort(processes=3))
    short = replace(found.a, repetitions=found.a.repetitions[:2])
    with pytest.raises(DataError, match="2 and 3 processes cannot be compared"):
        compared(short, found.b)


@pytest.mark.parametrize("other", ["a", "b"])
def test_on_this_machine(a, b, other):
    """No verdict is asserted: that is the machine's. What it says is what its interval says."""
    told = []
    against = {"a": a, "b": b}[other]
    effort = Effort(processes=3, runs=20, seconds=0.0, warmup=2)
    found = compare(a, against, LocalMachine(), LocalMachine(), effort, told.append)
    assert found.interval.low <= found.ratio <= found.interval.high
    assert found.verdict in ("faster", "slower", "no difference shown")
    assert (found.verdict == "no difference shown") == (found.interval.low <= 1 <= found.interval.high)
    assert told[-1].fraction == 1.0
    assert (told[-1].process, told[-1].processes) == (6, 6)
