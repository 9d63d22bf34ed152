"""The rules of RAM as a page for users: `python -m edgeks.audit.rules_page FILE` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeks.audit.runtime_models import RULES

PAGE = "docs/ram_rules.md"
HEAD = """# How RAM is predicted

Written by `make docs` from `edgeks/audit/runtime_models.py`; do not edit it.

`edgeks footprint` predicts RAM from the file alone, by what each runtime does with it. Every rule is held against a
measurement by the test that it names. The figures behind the rules (bytes of code that become resident, tiles of the
matrix kernels) were measured with ONNX Runtime 1.31, LiteRT 2.3 and tflite-runtime 2.14 on x86-64, and on arm64 as an
emulated Cortex-A72. Predicted and measured RAM of whole networks: [x86-64](results/ram.md),
[arm64](results/arm64.md).

| rule | runtime | what it says | test |
|---|---|---|---|
"""


def rules_page() -> str:
    """docs/ram_rules.md: a row for every rule."""
    return HEAD + "".join(f"| {rule.name} | {rule.runtime} | {rule.says} | `{rule.test}` |\n" for rule in RULES)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(rules_page(), encoding="utf-8")
