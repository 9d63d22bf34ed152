"""docs/tflite_ops.md is what the code says, and has a line with a rule for every operator."""

from pathlib import Path

import pytest

from edgeks.formats.tflite.supported import PAGE, supported_ops_page, tflite_operators
from edgeks.formats.tflite.table import LOWERINGS

ROOT = Path(__file__).parents[3]
WITHOUT_OPERATOR = {"Identity"}


def test_the_page_is_not_stale():
    assert (ROOT / PAGE).read_text(encoding="utf-8") == supported_ops_page(), "run `make docs`"


@pytest.mark.parametrize("op", LOWERINGS)
def test_every_operator_has_a_line_with_its_rule(op):
    (line,) = [line for line in supported_ops_page().splitlines() if line.startswith(f"| {op} |")]
    assert len(LOWERINGS[op].__doc__) > 3 and "|" not in LOWERINGS[op].__doc__
    assert line.count("|") == 4
    assert bool(tflite_operators(op)) == (op not in WITHOUT_OPERATOR)


def test_operators_are_in_alphabetical_order():
    assert list(LOWERINGS) == sorted(LOWERINGS)
