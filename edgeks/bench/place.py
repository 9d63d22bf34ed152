"""Where benchmarks run, whatever runtime they need: this machine, or a board whose environments are made on demand."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from edgeks.bench.board_machine import BoardMachine
from edgeks.bench.local import LocalMachine
from edgeks.bench.machine import Machine
from edgeks.bench.runner import cores, cpu_name
from edgeks.board.environment import ensure_environment
from edgeks.board.facts import BoardFacts
from edgeks.board.folder import make_board_folder, remove_unfinished
from edgeks.board.host import Host
from edgeks.board.probe import probe
from edgeks.board.ssh import Connection
from edgeks.errors import BoardError
from edgeks.runtime_profile import COMPILED

LOCAL = LocalMachine.name
STOP_SECONDS = 3.0  # to reach a board once more, to clean up


class Place(Protocol):
    """A machine for each runtime."""

    @property
    def name(self) -> str:
        """What records call it: `local`, or the host's name."""
        ...

    def traits(self) -> dict[str, Any]:
        """What tells machines apart, as JSON: cpu, cores, machine; of a board its host's name."""
        ...

    def machine(self, runtime: str) -> Machine:
        """With what it takes to run `runtime`.

        Raises:
            BoardError: the board cannot be reached, or cannot have the runtime.
        """
        ...


class Here:
    """This machine. `python` is the interpreter of another environment, which needs numpy and the runtime only."""

    name = LOCAL

    def __init__(self, python: Path | None = None) -> None:
        self._machine = LocalMachine(python)

    def traits(self) -> dict[str, Any]:
        """What the runner's facts say of the processor."""
        return {"cpu": cpu_name(), "cores": cores(), "machine": platform.machine()}

    def machine(self, _runtime: str) -> Machine:
        """The same for every runtime."""
        return self._machine


class BoardPlace:
    """A board over one connection, which this context manager holds. What benchmarks put there is removed at the end.

    `wheelhouse`: folder of wheels, fetched here, for a board without internet. `on_status` is told what takes time.

    Raises:
        BoardError: the board cannot be reached.
    """

    def __init__(
        self, host: Host, wheelhouse: Path | None = None, on_status: Callable[[str], None] = lambda _: None
    ) -> None:
        self.name = host.name
        self._wheelhouse, self._on_status = wheelhouse, on_status
        self._facts: BoardFacts | None = None
        self._machines: dict[str, Machine] = {}
        self._stack = ExitStack()
        connecting = partial(on_status, "connecting")
        connecting()
        self._connection = self._stack.enter_context(Connection(host, on_wait=connecting))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def cut(self) -> bool:
        """End the connection, from any thread: whatever still runs over it ends with LinkLost. False: it had ended."""
        was_open = self._connection.is_open
        self._connection.close()
        return was_open

    def remove_unfinished(self) -> None:
        """What a connection that was cut could not remove on the board, by another one; nothing where there is none."""
        with suppress(BoardError), Connection(self._connection.host, STOP_SECONDS) as connection:
            remove_unfinished(connection)

    @property
    def facts(self) -> BoardFacts:
        """What the board is, asked for once."""
        if self._facts is None:
            self._on_status("looking at the board")
            self._facts = probe(self._connection)
        return self._facts

    def traits(self) -> dict[str, Any]:
        """What doctor knows of the processor."""
        known = self.facts.to_json()
        return {"host": self.name, **{name: known[name] for name in ("cpu", "cores", "machine")}}

    def machine(self, runtime: str) -> Machine:
        """With an environment that has `runtime`, made if there is none."""
        runtime = "litert" if runtime == COMPILED else runtime
        if runtime not in self._machines:
            facts = self.facts
            self._on_status(f"setting up {runtime}")
            python = ensure_environment(self._connection, facts, runtime, self._wheelhouse, on_line=self._on_status)
            made = BoardMachine(self._connection, python, make_board_folder(self._connection), facts.to_json())
            self._machines[runtime] = self._stack.enter_context(made)
        return self._machines[runtime]
