"""Known SQNR, cosine and top-1 values."""

import numpy as np
import pytest

from edgeks.parity import MAX_SQNR_DB, compare


def test_an_error_of_one_hundredth_is_40_db():
    reference = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    found = compare(reference, reference * np.float32(1.01))
    assert found.sqnr_db == pytest.approx(40, abs=1e-3)
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert found.top1_agreement == 1.0 and found.samples == 8


def test_equal_opposite_and_silent_outputs():
    reference = np.array([[1, 2], [3, -4]], np.float32)
    assert compare(reference, reference).sqnr_db == MAX_SQNR_DB
    opposite = compare(reference, -reference)
    assert opposite.sqnr_db == pytest.approx(-6.02, abs=0.01) and opposite.cosine == pytest.approx(-1)
    assert opposite.top1_agreement == 0.0
    assert compare(reference, np.zeros_like(reference)).sqnr_db == pytest.approx(0)
    zeros = np.zeros_like(reference)
    assert compare(zeros, zeros).sqnr_db == MAX_SQNR_DB and compare(zeros, zeros).cosine == 1.0
    assert compare(zeros, reference).sqnr_db == -MAX_SQNR_DB


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_as_bad_as_can_be(value):
    reference = np.ones((2, 3), np.float32)
    output = reference.copy()
    output[1, 1] = value
    assert compare(reference, output).sqnr_db == -MAX_SQNR_DB


def test_top_1_is_only_for_rows_of_class_scores():
    assert compare(np.ones((2, 3, 4, 4), np.float32), np.ones((2, 3, 4, 4), np.float32)).top1_agreement is None
    assert compare(np.ones((2, 1), np.float32), np.ones((2, 1), np.float32)).top1_agreement is None
    half = compare(np.array([[1, 2], [1, 2]], np.float32), np.array([[1, 2], [2, 1]], np.float32))
    assert half.top1_agreement == 0.5
    assert "top-1 agreement 50.0 %" in str(half)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        compare(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32))
