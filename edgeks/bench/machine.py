"""Where the runner runs: this machine, or a board. One protocol, so that measuring does not know which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edgeks.bench.stream import RunnerStream


class Machine(Protocol):
    """Runs the runner in a fresh process and gathers what it says."""

    @property
    def name(self) -> str:
        """What records call it: `local`, or the host's name."""
        ...

    @property
    def is_emulated(self) -> bool:
        """Whether wall time means nothing on it."""
        ...

    def facts(self) -> dict[str, Any]:
        """What is known of it beyond the runner's own facts event, as JSON: a board's `BoardFacts`; {} here."""
        ...

    def run(self, path: Path, config: dict[str, Any], on_progress: Callable[[int], None] | None = None) -> RunnerStream:
        """One fresh process with the runner's `config`, whose `model` and `inputs` are paths on this machine.

        A weight cache is made beforehand by a process of its own and is warm. `on_progress` gets the number of counted
        runs done.

        Raises:
            ModelFileError, DataError, ConfigError: the file, inputs or options are wrong.
            EdgeksError: the process was killed or crashed, or lacks the runtime.
            BoardError: the board cannot be reached, the link was lost, or something there is in the way.
        """
        ...

    def outputs(self, path: Path, config: dict[str, Any]) -> list[NDArray[Any]]:
        """Every output of the file for the runner's `samples` (a .npy on this machine, or a number), one process.

        Raises:
            As `run`.
        """
        ...
