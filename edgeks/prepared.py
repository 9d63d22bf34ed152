"""What a file that ONNX Runtime has optimised says of itself: for which runtime and CPU, and how it is to be opened."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from onnx import ModelProto

from edgeks.errors import ModelFileError
from edgeks.target import Session

PREPARED_KEY = "edgeks.prepared"  # of metadata_props


@dataclass(frozen=True, slots=True)
class Prepared:
    """`cpu`: architecture and instruction sets, as the runner names them. `session`: for opening it, and no other.

    `source`: name of the file that it was made from, `source_sha256`: of that file (data files not included).
    """

    runtime_version: str
    cpu: str
    session: Session
    source: str
    source_sha256: str

    @property
    def only_for(self) -> str:
        """`ONNX Runtime 1.31.1 on x86_64 avx2 avx512f`."""
        return f"ONNX Runtime {self.runtime_version} on {self.cpu}"

    def to_json(self) -> str:
        """For the file's metadata."""
        return json.dumps(asdict(self), separators=(",", ":"))


def read_prepared(path: Path, proto: ModelProto) -> Prepared | None:
    """What a model says of its preparation; None for one that was not prepared.

    Raises:
        ModelFileError: what it says is malformed.
    """
    stored = next((entry.value for entry in proto.metadata_props if entry.key == PREPARED_KEY), None)
    if stored is None:
        return None
    try:
        return _from_dict(json.loads(stored))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(
            f"{path}: its metadata {PREPARED_KEY!r} is malformed ({error}); prepare it anew"
        ) from error


def _from_dict(found: dict[str, Any]) -> Prepared:
    session = found["session"]
    options = Session(
        threads=_checked(session["threads"], int),
        graph_optimization=_checked(session["graph_optimization"], str),
        disabled_optimizers=(),
        config=tuple((_checked(key, str), _checked(value, str)) for key, value in session["config"]),
        arena=_checked(session["arena"], bool),
        memory_pattern=_checked(session["memory_pattern"], bool),
    )
    if options.graph_optimization != "disabled" or options.threads < 1:
        raise ValueError("its session")
    texts = {field.name: _checked(found[field.name], str) for field in fields(Prepared) if field.name != "session"}
    return Prepared(session=options, **texts)


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
