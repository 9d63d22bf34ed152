"""A point of a study and its run folder: whether it is finished, why it failed, and under which settings it was run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import edgeks
from edgeks.atomic_write import write_text
from edgeks.errors import OutputError
from edgeks.layered_toml import flat
from edgeks.pipeline import MODEL
from edgeks.study.points import Point
from edgeks.train.resume import SPEED_ONLY

POINT_FILE, FAILURE_FILE, SETTINGS_FILE = "point.json", "failure.json", "settings.json"
RESUME = f"{MODEL}.resume"
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
    def settings(self) -> dict[str, Any]:
        """Everything that the trained network depends on, as JSON; not what decides about speed alone."""
        recipe = self.point.recipe
        settings: dict[str, Any] = {"architecture": recipe.architecture, "config": recipe.config}
        stages = {"train": recipe.training, "qat": recipe.qat if self.exports else None}
        for name, stage in stages.items():
            if stage is not None:
                settings[name] = {key: value for key, value in stage.to_dict().items() if key not in SPEED_ONLY}
        settings |= {"data": self.data, "edgeks": edgeks.__version__}
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    @property
    def key(self) -> str:
        """Hash of everything that the point's result depends on."""
        recipe, inputs = asdict(self.point.recipe), self.settings
        if self.exports:
            inputs["artefacts"] = {key: recipe[key] for key in OF_ARTEFACTS}
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

    def other_settings(self) -> str | None:
        """How the settings of the network in the folder, trained or begun, differ from these; None: not at all."""
        if not any((self.folder / name).exists() for name in (POINT_FILE, MODEL, RESUME)):
            return None
        written = read_json(self.folder / SETTINGS_FILE)
        was, now = flat(written if isinstance(written, dict) else {}), flat(self.settings)
        if not was:
            return f"by an edgeks that left no {SETTINGS_FILE}"
        key = next((key for key in [*now, *was] if was.get(key) != now.get(key)), None)
        if key is None:
            return None
        return "other data" if key == "data" else f"{key} {was.get(key)!r}, now {now.get(key)!r}"

    def make_ready(self) -> None:
        """Leave no network in the folder that was trained under other settings, and write these there.

        Raises:
            OutputError: there is one, and it is not to be overwritten.
        """
        other = self.other_settings()
        if other is not None and not self.overwrite:
            raise OutputError(f"{self.folder}: trained under other settings ({other}); another -o, or --overwrite")
        if other is not None:
            for name in (POINT_FILE, RESUME, MODEL):
                (self.folder / name).unlink(missing_ok=True)
        write_text(self.folder / SETTINGS_FILE, json.dumps(self.settings, indent=1))

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
