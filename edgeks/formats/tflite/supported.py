"""The lowering table as a page for users: `python -m edgeks.formats.tflite.supported FILE` writes it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from edgeks.formats.tflite.table import LOWERINGS
from edgeks.model_files.tflite_file import OPERATOR_NAMES

PAGE = "docs/tflite_ops.md"
HEAD = """# Operators that edgeks lowers to TFLite

Written by `make docs` from the docstrings of `edgeks/formats/tflite/ops/`; do not edit it.

The operators are those of ONNX, which torch.onnx.export makes of a network: SiLU is a Sigmoid and a Mul there. Feature
maps are held as N×H×W×C; a TRANSPOSE appears only where an operator needs another order of axes than its input has.
Tensors have up to 6 axes, and sizes that are known at export. `resize_tensor_input` gives a finished file another
batch, where the network has no ConvTranspose and does not mix images itself.

An operator that is *in float* stands between a DEQUANTIZE and a QUANTIZE in an int8 file. The others compute with int8
there, between operators that do.

| operator | TFLite | what it takes |
|---|---|---|
"""


def supported_ops_page() -> str:
    """docs/tflite_ops.md: for every operator of the table its TFLite operators and its rule."""
    return HEAD + "".join(f"| {op} | {', '.join(tflite_operators(op))} | {_rule(op)} |\n" for op in LOWERINGS)


def tflite_operators(op: str) -> list[str]:
    """TFLite operators that the rule of `op` names, in its order."""
    words = re.findall(r"[A-Z][A-Z0-9_]{2,}", _rule(op))
    return list(dict.fromkeys(word for word in words if word in OPERATOR_NAMES.values()))


def _rule(op: str) -> str:
    return " ".join((LOWERINGS[op].__doc__ or "").split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(supported_ops_page(), encoding="utf-8")
