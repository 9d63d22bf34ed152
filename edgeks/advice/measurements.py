"""What was measured, one JSON line each, written at once: an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeks.errors import OutputError


class Measurements:
    """The lines of one file, by a key of everything that a measurement depends on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, dict[str, Any]] = {}
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if text and not text.endswith("\n"):  # cut off by a kill: what follows is a line of its own
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")
        except OSError as error:
            raise OutputError(f"{path}: cannot be used ({error.strerror})") from error
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("key"), str) and isinstance(entry.get("found"), dict):
                self._found[entry["key"]] = entry["found"]

    def get(self, kind: str, about: dict[str, Any]) -> dict[str, Any] | None:
        """What was found before about just that; None where it was not measured."""
        return self._found.get(_key(kind, about))

    def once(self, kind: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was found before about just that; else `measure` it, and write it down.

        Raises:
            OutputError: the file cannot be written.
        """
        key = _key(kind, about)
        if key not in self._found:
            found = measure()
            line = json.dumps({"kind": kind, "key": key, "about": about, "found": found})
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error
            self._found[key] = found
        return self._found[key]


def _key(kind: str, about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([kind, about], sort_keys=True).encode()).hexdigest()
