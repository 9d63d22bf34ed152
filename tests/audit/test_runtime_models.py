"""Every rule by which RAM is predicted names a test that is there, and docs/ram_rules.md says what the code says."""

import ast
from pathlib import Path

import pytest

from edgeks.audit.rules_page import PAGE, rules_page
from edgeks.audit.runtime_models import RULES

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_code_says():
    assert (ROOT / PAGE).read_text(encoding="utf-8") == rules_page(), "run `make docs`"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_names_a_test_that_is_there(rule):
    file, name = rule.test.split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert rule.says.endswith(".") and "|" not in rule.says


def test_names_are_unique_and_every_runtime_has_rules():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert {runtime for rule in RULES for runtime in rule.runtime.split(", ")} == {
        "onnxruntime", "litert", "litert-compiled", "tflite-runtime",
    }  # fmt: skip
