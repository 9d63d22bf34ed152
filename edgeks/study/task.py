"""A point of a study and its run folder: whether it is finished, or why it failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import edgeks
from edgeks.atomic_write import write_text
from edgeks.pipeline import other_training, training_inputs
from edgeks.study.points import Point

POINT_FILE, FAILURE_FILE = "point.json", "failure.json"
OF_ARTEFACTS = ("target", "precisions", "form", "activations", "bench_runs", "bench_warmup")  # keys of a Recipe


@dataclass(frozen=True, slots=True)
class Task:
    """A point, its folder, and the fingerprint of the data that it is trained on.

    `overwrite`: what the folder holds of a training under other settings is replaced.
    """

    point: Point
    folder: Path
    data: str
    exports: bool
    overwrite: bool = False

    @property
    def key(self) -> str:
        """Hash of everything that the point's result depends on."""
        recipe = self.point.recipe
        inputs = {"edgeks": edgeks.__version__, **training_inputs(recipe, self.data)}
        if self.exports:
            whole = asdict(recipe)
            inputs["artefacts"] = {key: whole[key] for key in OF_ARTEFACTS}
            inputs["qat"] = recipe.qat and recipe.qat.deciding()
        return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()

    def result(self) -> dict[str, Any] | None:
        """What the finished point has given; None: it is not finished."""
        result = read_json(self.folder / POINT_FILE)
        return result if isinstance(result, dict) and result.get("key") == self.key else None

    def failure(self, attempt: str | None = None) -> str | None:
        """Why the point failed, in this attempt at the study or in any; None: it has not."""
        failure = read_json(self.folder / FAILURE_FILE)
        found = isinstance(failure, dict) and str(failure.get("attempt", "")).startswith(attempt or "")
        return str(failure.get("error")) if failure and found else None

    def other_settings(self) -> str:
        """How the network that was trained in the folder differs from this one; empty: not at all, or there is none."""
        return other_training(self.point.recipe, self.folder, self.data)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Remember what the finished point has given."""
        write_text(self.folder / POINT_FILE, json.dumps({"key": self.key, **result}, indent=1))

    def write_failure(self, attempt: str, error: str) -> None:
        """Remember why the point failed."""
        write_text(self.folder / FAILURE_FILE, json.dumps({"attempt": attempt, "error": error}, indent=1))


def read_json(file: Path) -> Any:
    """A JSON file of a point; one that is missing or damaged reads as empty."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
