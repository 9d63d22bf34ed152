"""Which row is recommended, and which are on the front, on made-up measurements."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeks.advice.choose import Rules, beaten_by, front, keeps_parity, ranked, tie_share
from edgeks.advice.forms import forms_for
from edgeks.advice.profiles import TriedProfile, not_worth_trying
from edgeks.advice.rows import Artefact, Candidate, Round, Row
from edgeks.parity import Parity
from edgeks.runtime_profile import PROFILES, MeasuredRam
from edgeks.target import load_target

TARGET = load_target("onnx")
HERE = Rules("latency", None, None, elsewhere=False)


def row(name, flash, ram, *p50, top1=1.0, sqnr=30.0, own=False, form=0):
    artefact = Artefact(Path(name), name, "onnx", TARGET, forms_for(TARGET, "onnx")[form], own, flash, {}, {}, {})
    measured = MeasuredRam("", "", "", 0, 0, 0, 0, 0, ram, ram, 0, 0)
    rounds = tuple(Round(ms, 3, 0.1) for ms in p50)
    return Row(Candidate(artefact, PROFILES["onnx"][0], own), None, measured, Parity(9, sqnr, 1.0, top1), rounds)


def names(rows):
    return [each.candidate.artefact.path.name for each in rows]


def test_of_equally_fast_rows_the_least_ram_then_flash():
    rows = [row("a", 9, 30_000_000, 1.0), row("b", 9, 5_000_000, 1.04), row("c", 8, 5_000_000, 1.03),
            row("d", 1, 1_000_000, 1.06)]  # fmt: skip
    assert names(ranked(rows, HERE)) == ["c", "b", "a", "d"]


def test_rows_that_repeat_badly_are_more_easily_equal():
    assert tie_share([row("a", 1, 1, 1.0, 1.0)]) == 0.05
    assert tie_share([row("a", 1, 1, 0.9, 1.0, 1.1), row("b", 1, 1, 2.0, 9.0)]) == pytest.approx(0.1)
    assert tie_share([row("a", 1, 1, 0.2, 1.0, 1.8)]) == 0.25


@pytest.mark.parametrize(("objective", "first"), [("latency", "fast"), ("ram", "lean"), ("flash", "small")])
def test_what_counts_first(objective, first):
    rows = [row("fast", 9, 9_000_000, 1.0), row("lean", 8, 1_000_000, 2.0), row("small", 1, 8_000_000, 3.0)]
    assert names(ranked(rows, replace(HERE, objective=objective)))[0] == first


def test_what_does_not_fit_or_is_not_right_is_not_ranked():
    rules = replace(HERE, ram_budget=10_000_000, flash_budget=100)
    rows = [row("ram", 9, 11_000_000, 1.0), row("flash", 101, 1, 1.0), row("wrong", 9, 1, 1.0, top1=0.9, sqnr=3.0),
            row("low, but right", 9, 1, 2.0, top1=0.995, sqnr=3.0), row("good", 9, 1, 3.0)]  # fmt: skip
    assert names(ranked(rows, rules)) == ["low, but right", "good"]
    assert keeps_parity(replace(rows[0], parity=None), None)


def test_the_front_has_no_row_that_a_kept_one_equals_in_everything():
    rows = [row("a", 9, 9_000_000, 1.0), row("as good", 9, 9_050_000, 1.03), row("worse", 10, 10_000_000, 2.0),
            row("leaner", 9, 5_000_000, 2.0), row("smaller", 5, 9_000_000, 3.0)]  # fmt: skip
    assert names(front(ranked(rows, HERE), HERE)) == ["a", "leaner", "smaller"]


def test_a_row_is_beaten_only_by_one_that_is_as_right_and_no_larger():
    slow = row("slow", 9, 9_000_000, 2.0)
    assert beaten_by(slow, [slow, row("fast", 9, 9_000_000, 1.0)], HERE, 1.5) is not None
    assert beaten_by(slow, [slow, row("larger", 10, 9_000_000, 1.0)], HERE, 1.5) is None
    assert beaten_by(slow, [slow, row("wrong", 9, 1, 1.0, top1=0.5, sqnr=0.0)], HERE, 1.5) is None
    assert beaten_by(slow, [slow, row("near", 9, 1, 1.5)], HERE, 1.5) is None


def test_elsewhere_the_targets_own_way_goes_before_what_is_fast_here():
    rules = replace(HERE, elsewhere=True)
    rows = [row("fast", 9, 1, 0.1), row("own", 9, 9_000_000, 5.0, own=True), row("lean", 9, 5_000_000, 7.0)]
    assert names(ranked(rows, rules)) == ["own", "fast", "lean"]
    assert names(ranked(rows, replace(rules, ram_budget=8_000_000)))[0] == "fast"
    predicted = replace(rows[0], predicted_ram_bytes=7)
    assert predicted.ram_bytes(elsewhere=True) == 7 and predicted.ram_bytes(elsewhere=False) == 1


def predicted(form, **ram):
    artefact = Artefact(
        Path("m"), "", "onnx", TARGET, form, False, 0, {k.replace("_", "-"): v for k, v in ram.items()}, {}, {}
    )
    profiles = {each.name: TriedProfile(each, False) for found in PROFILES.values() for each in found}
    return lambda name: not_worth_trying(artefact, profiles[name])


def test_a_profile_that_cannot_help_is_not_measured():
    reason = predicted(
        None, ort_default=9_000_000, ort_unfolded=9_000_000, ort_lean=8_900_000, ort_no_prepacking=5_000_000
    )
    assert reason("ort-default") == "as ort-unfolded: nothing differs" and reason("ort-unfolded") is None
    assert reason("ort-lean") == "predicted to save no RAM beside ort-unfolded"
    assert reason("ort-no-prepacking") is None
    unknown = predicted(None, ort_default=None, ort_unfolded=None)
    assert unknown("ort-default") is None and unknown("ort-no-prepacking") is None


def test_the_cached_form_is_tried_with_the_cache_only():
    tflite = load_target("tflite")
    form = next(each for each in forms_for(tflite, "tflite") if each.layers == "cached")
    reason = predicted(form, litert_xnnpack=9_000_000, litert_builtin=9_000_000, litert_cached=5_000_000)
    assert reason("litert-builtin") == "the form is for litert-cached" and reason("litert-cached") is None
