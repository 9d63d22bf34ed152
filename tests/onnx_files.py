"""ONNX files as other tools write them."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from edgeks.sharing.plan import SharingPlan


def by_torch(model: nn.Module, path: Path, opset: int, *, size: int = 12, channels: int = 3, **options) -> Path:
    """`model` by torch.onnx.export: the legacy exporter, unless `dynamo=True`; `options` are its own."""
    options = {"dynamo": False, "verbose": False} | options
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            example = torch.zeros(2 if options.pop("dynamic", False) else 1, channels, size, size)
            torch.onnx.export(model.eval(), (example,), str(path), opset_version=opset, **options)
    finally:
        logging.disable(logging.NOTSET)
    return path


def by_text(path: Path, text: str, opset: int = 20, *, checked: bool = True, **constants) -> Path:
    """`(float[1,4,6,6] x) => (float[1,4,6,6] y) { … }` and its constants → file."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> net {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    if checked:
        onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def groups(plan: SharingPlan) -> set[tuple[str, ...]]:
    """Layers of each sharing group."""
    return {group.layers for group in plan.groups}
