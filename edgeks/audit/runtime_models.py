"""The rules by which RAM is predicted, one row each: what a runtime does, and the test that measures it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """`says`: the rule in words. `test`: the test, in tests/, that holds it against a measurement."""

    name: str
    runtime: str
    says: str
    test: str


RULES: tuple[Rule, ...] = ()
