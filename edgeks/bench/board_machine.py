"""A board as a Machine: the runner and the model are copied there, and the runner's lines come back."""

from __future__ import annotations

import json
import secrets
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgeks.bench.local import LAST_WORDS, RUNNER
from edgeks.bench.stream import RunnerStream
from edgeks.board.folder import PROCESS
from edgeks.board.ssh import Connection, quote
from edgeks.errors import BoardError, EdgeksError, LinkLost
from edgeks.model_files.onnx_file import data_files
from edgeks.runtime_profile import COMPILED

# The link has time-outs of its own: this one is for a runtime that hangs.
LIMIT_SECONDS = 2 * 3600.0
STALE_MINUTES = 24 * 60
KILLED = 137  # 128 + SIGKILL, as a shell tells it
OUT_OF_MEMORY_EVENT = "out_of_memory"
MAX_OUTPUTS = 1 << 30  # bytes of the outputs for all samples

# Tells, from the kernel's own count, whether the system killed something for want of memory while the runner ran.
COMMAND = """\
kills() { sed -n 's/^oom_kill //p' /proc/vmstat 2>/dev/null; }
before=$(kills)
TMPDIR=%(folder)s PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 %(python)s %(runner)s
code=$?
after=$(kills)
[ "${after:-0}" -gt "${before:-0}" ] && echo '{"event": "%(event)s"}'
exit $code
"""


class BoardMachine:
    """The runner on a board, in a folder of its own below `folder`, which is removed at the end.

    `python` is an interpreter there with numpy and the runtime, `folder` edgeks' folder there, both absolute; `facts`
    is what doctor knows of the board.
    """

    def __init__(self, connection: Connection, python: str, folder: str, facts: dict[str, Any]) -> None:
        self._connection, self._python, self._facts = connection, python, facts
        self._jobs = f"{folder}/jobs"
        self._folder = f"{self._jobs}/{PROCESS}-{secrets.token_hex(4)}"
        self._put: dict[Path, str] = {}

    def __enter__(self) -> Self:
        """Copy the runner; remove what a lost link left a day ago or earlier.

        Raises:
            BoardError: the board cannot be reached or written to.
        """
        stale = (
            f"find {quote(self._jobs)} -mindepth 1 -maxdepth 1 -mmin +{STALE_MINUTES} -exec rm -rf {{}} + 2>/dev/null"
        )
        self._connection.run(f"{stale}; true", check=False)
        self._connection.put(RUNNER, self._runner)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Remove the folder there, if the board can still be reached."""
        try:
            self._connection.run(f"rm -rf {quote(self._folder)}", check=False, timeout=20)
        except LinkLost:
            return  # what was lost with it is known; a later run removes the folder
        except BoardError:
            if kind is None:
                raise

    @property
    def name(self) -> str:
        """The host's name."""
        return self._connection.host.name

    @property
    def is_emulated(self) -> bool:
        """Whether wall time means nothing on it."""
        return self._connection.host.is_emulated

    def facts(self) -> dict[str, Any]:
        """What doctor knows of the board, as JSON."""
        return self._facts

    def run(self, path: Path, config: dict[str, Any], on_progress: Callable[[int], None] | None = None) -> RunnerStream:
        """As `Machine.run`."""
        there = self._translated(path, config)
        if config["runtime"] == COMPILED:
            there["weight_cache"] = f"{self._folder}/cache"
            self._run(path, {**there, "warmup": 0, "runs": 1, "min_seconds": 0})
        return self._run(path, there, on_progress)

    def outputs(self, path: Path, config: dict[str, Any]) -> list[NDArray[Any]]:
        """As `Machine.outputs`."""
        remote = f"{self._folder}/outputs.npz"
        there = {**self._translated(path, config), "outputs": remote}
        if config["runtime"] == COMPILED:
            there["weight_cache"] = f"{self._folder}/cache"
        self._run(path, there)
        with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
            local = Path(folder, "outputs.npz")
            self._connection.get(remote, local, limit=MAX_OUTPUTS)
            try:
                return _outputs(local)
            except Exception as error:  # np.load raises whatever a broken file makes it stumble over
                raise BoardError(f"{self.name}: the outputs that came back cannot be read: {error}") from error

    @property
    def _runner(self) -> str:
        return f"{self._folder}/runner/{RUNNER.name}"  # in a folder of its own: nothing there shadows a module

    def _translated(self, path: Path, config: dict[str, Any]) -> dict[str, Any]:
        """The config with the files of this machine copied to the board, once each, and named as they are there."""
        there = {**config, "model": self._copied(path, data_files(path))}
        for key in ("inputs", "samples"):
            if isinstance(config.get(key), str):
                there[key] = self._copied(Path(config[key]), ())
        return there

    def _copied(self, path: Path, beside: tuple[Path, ...]) -> str:
        """`beside` lie in or below the folder of `path`."""
        path = path.resolve()
        if path not in self._put:
            folder = f"{self._folder}/{len(self._put)}"
            for file in beside:
                self._connection.put(file, f"{folder}/{file.relative_to(path.parent)}")
            self._connection.put(path, f"{folder}/{path.name}")
            self._put[path] = f"{folder}/{path.name}"
        return self._put[path]

    def _run(
        self, path: Path, config: dict[str, Any], on_progress: Callable[[int], None] | None = None
    ) -> RunnerStream:
        stream, out_of_memory = RunnerStream(), False

        def take(line: str) -> None:
            nonlocal out_of_memory
            out_of_memory |= OUT_OF_MEMORY_EVENT in line
            stream.take_line(line)
            if on_progress:
                on_progress(len(stream.samples))

        command = COMMAND % {
            "folder": quote(self._folder),
            "python": quote(self._python),
            "runner": quote(self._runner),
            "event": OUT_OF_MEMORY_EVENT,
        }
        try:
            done = self._connection.run(
                command,
                stdin=json.dumps(config).encode(),
                timeout=LIMIT_SECONDS,
                on_line=take,
                check=False,
                name=f"the run of {path.name}",
            )
            if out_of_memory and done.code == KILLED:
                raise EdgeksError(
                    f"{path.name}: out of memory: the system killed the process; `edgeks footprint` says what the file "
                    "takes, and what would lower it"
                )
            ending = "was killed by SIGKILL" if done.code == KILLED else f"ended with code {done.code}"
            stream.require_end(path, config, f"on {self.name} {ending}", done.stderr.strip()[-LAST_WORDS:])
        except EdgeksError as error:
            if self.name in str(error):
                raise
            raise type(error)(f"{self.name}: {error}") from error
        return stream


def _outputs(path: Path) -> list[NDArray[Any]]:
    """What a runner wrote, wherever it runs: real numbers, no more of them than there is room for. Raises anything."""
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_OUTPUTS:
        raise ValueError(f"they would take {size:,} bytes; at most {MAX_OUTPUTS:,}")
    with np.load(path, allow_pickle=False) as stored:
        found = [stored[f"output_{index}"] for index in range(len(stored.files))]
    for output in found:
        if output.dtype.kind not in "biuf":
            raise ValueError(f"they are {output.dtype}, no real numbers")
    return found
