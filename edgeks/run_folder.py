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
MAX_SHOWN = 60


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
        outputs = {name: self.digest(name) for name in stage.outputs}
        state[stage.name] = {"key": stage.key, "inputs": stage.inputs, "outputs": outputs}
        self._write_state(state)
        return False

    def difference(self, stage: Stage) -> str:
        """How the inputs that `stage` was last finished with differ from these, in words; empty: they do not."""
        record = self._state().get(stage.name)
        if not isinstance(record, dict) or record.get("key") == stage.key:
            return ""
        now = json.loads(json.dumps(stage.inputs, default=str))
        written = _table(record, "inputs")
        return ", ".join(_differences(written, now)) if written else "other settings or data"

    def discard(self, name: str) -> None:
        """Forget the stage `name` and all those that something it made went into; remove what they made."""
        state, left = self._state(), [name]
        while left:
            outputs = _table(state.pop(left.pop(), None), "outputs")
            for output in outputs:
                if Path(output).name == output and (self.path / output).is_file():
                    (self.path / output).unlink()
            for other, record in state.items():
                inputs = _table(record, "inputs")  # an older edgeks kept none: then it may be of anything
                if other not in left and (not inputs or any(d in inputs.values() for d in outputs.values())):
                    left.append(other)
        self._write_state(state)

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

    def _write_state(self, state: dict[str, Any]) -> None:
        write_text(self.path / STATE_FILE, json.dumps(state, indent=1, default=str))

    def _finished(self, stage: Stage) -> bool:
        """Whether `stage` need not be run: same inputs as when it was, and its outputs are as it left them."""
        record = self._state().get(stage.name)
        if not isinstance(record, dict) or record.get("key") != stage.key:
            return False
        return self._unchanged(stage.outputs, _table(record, "outputs"))

    def _unchanged(self, names: Sequence[str], digests: dict[str, Any]) -> bool:
        return all((self.path / name).is_file() and self.digest(name) == digests.get(name) for name in names)


def _table(record: object, key: str) -> dict[str, Any]:
    """A table of a stage's record; one that is missing or damaged reads as empty."""
    found = record.get(key) if isinstance(record, dict) else None
    return found if isinstance(found, dict) else {}


def _differences(written: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """`lr 0.01 (now 0.02)`; of what is too long to be read, as a hash is, `other data`."""
    for key in sorted({*written, *now}):
        old, new = written.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new)
        elif len(f"{old}{new}") > MAX_SHOWN:
            yield f"other {key}"
        else:
            yield f"{key} {old!r} (now {new!r})"
