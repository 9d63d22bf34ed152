"""`edgeks doctor`: examine boards, set them up, or clean them; one board that fails does not lose the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event

from edgeks.board.checks import check
from edgeks.board.environment import ensure_environment
from edgeks.board.folder import clean, remove_unfinished
from edgeks.board.host import Host
from edgeks.board.probe import probe, probe_here
from edgeks.board.report import Examination
from edgeks.board.ssh import Connection
from edgeks.board.wheels import DISTRIBUTIONS, Installable, installable
from edgeks.errors import BoardError, ConfigError, EdgeksError, LinkLost

OnLine = Callable[[str, str], None]
USUAL = ("onnxruntime", "litert")
STOP_SECONDS = 3.0  # to reach a board once more, to clean up


def require_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ConfigError: one is no runtime.
    """
    for name in names:
        if name not in DISTRIBUTIONS:
            raise ConfigError(f"--runtime {name}: legal: {', '.join(DISTRIBUTIONS)}")
    return tuple(dict.fromkeys(names))


def examine_here(runtimes: tuple[str, ...] = ()) -> Examination:
    """This machine; `runtimes` must be there.

    Raises:
        BoardError: it is none that the probe can read.
    """
    facts = probe_here()
    return Examination("this machine", facts, check(facts, runtimes))


def examine(hosts: Sequence[Host], runtimes: tuple[str, ...] = ()) -> tuple[Examination, ...]:
    """Every board, all at a time; `runtimes` must be there. What goes wrong with a board is in its examination."""

    def examine_one(connection: Connection) -> Examination:
        facts = probe(connection)
        return Examination(connection.host.name, facts, check(facts, runtimes))

    return _each(hosts, examine_one)


def set_up(
    hosts: Sequence[Host],
    runtimes: tuple[str, ...] = (),
    wheelhouse: Path | None = None,
    on_line: OnLine | None = None,
) -> tuple[Examination, ...]:
    """Make environments on every board, all at a time, and examine it after; as `ensure_environment`.

    Without `runtimes`: those of ONNX Runtime and LiteRT that have wheels for the board, else tflite-runtime. `on_line`
    gets the host and what is being done. What goes wrong with a board is in its examination.
    """

    def set_up_one(connection: Connection) -> Examination:
        name = connection.host.name

        def say(line: str) -> None:
            if on_line is not None:
                on_line(name, line)

        facts = probe(connection)
        wanted = runtimes or tuple(one for one in USUAL if isinstance(installable(facts, one), Installable))
        made: dict[str, str] = {}
        error = None
        try:
            for runtime in wanted or ("tflite-runtime",):
                say(f"setting up {runtime}")
                made[runtime] = ensure_environment(connection, facts, runtime, wheelhouse, say)
        except LinkLost:
            raise
        except BoardError as fault:
            error = str(fault)
        after = replace(probe(connection), load=facts.load)  # setting up was the load since
        return Examination(name, after, check(after, wanted), made, error=error)

    return _each(hosts, set_up_one)


def clean_boards(hosts: Sequence[Host]) -> tuple[Examination, ...]:
    """Remove what edgeks put on the boards. What goes wrong with a board is in its examination."""
    return _each(hosts, lambda connection: Examination(connection.host.name, None, removed=clean(connection)))


def _each(hosts: Sequence[Host], work: Callable[[Connection], Examination]) -> tuple[Examination, ...]:
    """`work` on every board, all at a time; where this is interrupted every link is closed, and what ran there ends."""
    opened: list[Connection] = []
    interrupted = Event()

    def guarded(host: Host) -> Examination:
        def go_on() -> None:
            if interrupted.is_set():
                raise BoardError(f"{host.name}: interrupted")

        try:
            with Connection(host, on_wait=go_on) as connection:
                opened.append(connection)
                go_on()
                return work(connection)
        except EdgeksError as error:
            return Examination(host.name, None, error=str(error))

    running: list[Future[Examination]] = []
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        try:
            running += [pool.submit(guarded, host) for host in hosts]
            wait(running)
        except BaseException:
            interrupted.set()
            cut = [connection for connection in opened if connection.is_open]
            for connection in cut:
                connection.close()
            for connection in cut:  # what was being unpacked there
                with suppress(BoardError), Connection(connection.host, STOP_SECONDS) as again:
                    remove_unfinished(again)
            raise
    return tuple(one.result() for one in running)
