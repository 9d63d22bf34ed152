"""A run's folder: which stages are finished, told by the content of what went in and what came out."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeks.atomic_write import write_text
from edgeks.errors import FolderBusy, OutputError

STATE_FILE = "state.json"
LOCK_FILE = ".lock"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run: `inputs` is everything that its result depends on, `outputs` the files it leaves."""

    name: str
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    action: Callable[[], None]

    @property
    def key(self) -> str:
        """Hash of the stage's inputs."""
        return hashlib.sha256(json.dumps(self.inputs, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock `file`, which a process that is killed lets go.

    Raises:
        FolderBusy: another process holds it.
        OutputError: its folder cannot be written.
    """
    try:
        lock = file.open("w")
    except OSError as error:
        raise OutputError(f"{file.parent}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderBusy(
                f"{file.parent}: another run is working in this folder; wait, or choose another -o"
            ) from error
        yield


class RunFolder:
    """Runs stages in `path`; a finished one whose inputs and outputs are unchanged is not run again."""

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be made into a run folder ({error.strerror})") from error
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running in this folder meanwhile; a killed process leaves no lock behind.

        Raises:
            FolderBusy: another process is running here.
            OutputError: the folder cannot be written.
        """
        with locked(self.path / LOCK_FILE):
            yield

    def run(self, stage: Stage, starting: Callable[[], None] = lambda: None) -> bool:
        """Run `stage` unless it is finished, `starting` first. True: it was finished and is reused."""
        if self._finished(stage):
            return True
        starting()
        stage.action()
        state = self._state()
        state[stage.name] = {"key": stage.key, "outputs": {name: self.digest(name) for name in stage.outputs}}
        write_text(self.path / STATE_FILE, json.dumps(state, indent=1))
        return False

    def digest(self, name: str) -> str:
        """SHA-256 of a file of the run."""
        with (self.path / name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON output of a stage that is finished."""
        content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON output, whole or not at all."""
        write_text(self.path / name, json.dumps(content, indent=1))

    def _state(self) -> dict[str, Any]:
        """What is finished; a state file that is missing or damaged means that nothing is."""
        try:
            state = json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return state if isinstance(state, dict) else {}

    def _finished(self, stage: Stage) -> bool:
        """Whether `stage` need not be run: same inputs as when it was, and its outputs are as it left them."""
        record = self._state().get(stage.name)
        if not isinstance(record, dict) or record.get("key") != stage.key:
            return False
        outputs = record.get("outputs")
        return isinstance(outputs, dict) and self._unchanged(stage.outputs, outputs)

    def _unchanged(self, names: Sequence[str], digests: dict[str, Any]) -> bool:
        return all((self.path / name).is_file() and self.digest(name) == digests.get(name) for name in names)
