"""Where in the user's Python a node comes from, for errors that are about nodes."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import onnx_ir as ir

from edgeks.graph.rewrite import SOURCE

STACK_TRACE = "pkg.torch.onnx.stack_trace"  # key of Node.metadata_props, by torch's exporter
CAPTURED = "captured_from"  # key of Model.meta: "torch" for a graph that was captured from a module
FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in ', re.MULTILINE)


def note_sources(model: ir.Model, libraries: Collection[Path]) -> None:
    """The stack trace that the exporter recorded on each node → Node.meta["source"], `net.py:12`.

    It is the innermost line that is in none of `libraries` (folders); a path below the working directory is relative.
    Nodes of which no such line is known have no source.
    """
    model.meta[CAPTURED] = "torch"
    for node in model.graph:
        frames = FRAME.findall(node.metadata_props.get(STACK_TRACE, ""))
        own = [(Path(file), line) for file, line in frames if not any(Path(file).is_relative_to(f) for f in libraries)]
        if own:
            file, line = own[-1]
            here = Path.cwd()
            shown = file.relative_to(here) if file.is_relative_to(here) else file
            node.meta[SOURCE] = f"{shown}:{line}"
