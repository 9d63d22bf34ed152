"""benchmarks/emulated.py and the tables made of it: what was measured is found again, and what died says how."""

import json
import subprocess
import sys
from pathlib import Path

import arm64
import emulated
import instructions
import pytest

from edgeks.advice.measurements import Measurements
from edgeks.bench.local import RUNNER

MODEL = Path(__file__).parent / "data" / "litert_torch_static.tflite"
CASE = emulated.Case(MODEL, "litert-builtin", "cortex-a72")


@pytest.fixture(scope="module")
def events():
    """What the runner says here of the case's configuration."""
    config = {**CASE.config, "model": str(MODEL)}
    done = subprocess.run(
        [sys.executable, str(RUNNER)], input=json.dumps(config), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def keep(folder, case, events, code=0, last_words=""):
    found = {"events": events, "code": code, "last_words": last_words}
    Measurements(folder / "emulated.jsonl").once(emulated.KIND, case.about, lambda: found)
    return emulated.Emulated(folder)


def test_what_was_measured_is_found_again(events, tmp_path):
    found = keep(tmp_path, CASE, events).found(CASE)
    [samples] = [event["ms"] for event in events if event["event"] == "samples"]
    assert found.instructions == (round(samples[0] * 1e6),)  # a millisecond under icount is a million instructions
    stages = {event["stage"]: event for event in events if event["event"] == "memory"}
    assert found.ram.baseline_bytes == stages["start"]["rss_bytes"]
    assert not found.failed
    others = CASE.profile, "cortex-a76", 0
    assert emulated.Emulated(tmp_path).found(emulated.Case(MODEL, *others)) is None


def test_a_process_that_died_says_how(events, tmp_path):
    cut = [event for event in events if event["event"] not in ("samples", "end")]
    found = keep(tmp_path, CASE, cut, code=-4, last_words="compiled with lse\n").found(CASE)
    assert found.failed == "killed by signal 4: compiled with lse"
    assert emulated.million(found) == "failed: killed by signal 4: compiled with lse"


def test_a_second_measurement_is_another_one(events, tmp_path):
    again = emulated.Case(MODEL, CASE.profile, CASE.cpu, repeat=1)
    both = keep(tmp_path, CASE, events), keep(tmp_path, again, events)
    assert emulated.repeatability(both[1], [CASE, again]).endswith("0.0000 % apart.")


def test_comparisons_are_of_rows_that_there_are():
    rows = {(block, name, profile) for block, name, profile, _ in instructions.RECIPES}
    assert len(rows) == len(instructions.RECIPES)
    for _, block, _, *forms in instructions.COMPARISONS:
        assert {(block, *form) for form in forms} <= rows


def test_rows_of_big_differ():
    rows = {(block, name, profile) for block, name, profile, _ in arm64.RECIPES}
    assert len(rows) == len(arm64.RECIPES)
