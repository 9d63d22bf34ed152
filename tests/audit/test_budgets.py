"""Sizes as users write them, and limits that hold or not."""

import pytest

from edgeks.audit.budgets import BudgetCheck, Budgets, parse_size
from edgeks.errors import ConfigError
from edgeks.target import load_target


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2MB", 2_000_000),
        ("512 kB", 512_000),
        ("1.5MiB", 1_572_864),
        ("0", 0),
        ("4096", 4096),
        ("1gb", 10**9),
        ("7B", 7),
    ],
)
def test_sizes(text, size):
    assert parse_size(text, "--ram") == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "2 megabytes", "1e9", "2TB", "1_000", "٣MB", "9" * 40, "nan"])
def test_what_is_no_size_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="legal: a number and a unit") as caught:
        parse_size(text, "--ram")
    assert "\n" not in str(caught.value)


def test_a_check_knows_by_how_much_it_fails():
    assert BudgetCheck("ram", 120, 100).over_bytes == 20
    assert BudgetCheck("ram", 120, 100).fits is False
    assert (BudgetCheck("ram", 100, 100).fits, BudgetCheck("ram", 100, 100).over_bytes) == (True, 0)
    assert BudgetCheck("ram", None, 100).fits is None
    assert (BudgetCheck("ram", 100, None).fits, BudgetCheck("ram", 100, None).over_bytes) == (None, 0)


def test_given_limits_go_before_the_targets():
    target = load_target("rpi-zero-2w")
    assert Budgets.of(None, None, None) is None
    assert Budgets.of(None, 5, None) == Budgets("the budget", 5, None)
    assert Budgets.of(target, None, 7) == Budgets("rpi-zero-2w", target.flash_budget_bytes, 7)
