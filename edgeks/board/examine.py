"""`edgeks doctor`: examine boards, set them up, or clean them; one board that fails does not lose the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeks.board.checks import check
from edgeks.board.environment import ensure_environment
from edgeks.board.folder import clean
from edgeks.board.host import Host
from edgeks.board.probe import probe, probe_here
from edgeks.board.report import Examination
from edgeks.board.ssh import Connection
from edgeks.board.wheels import DISTRIBUTIONS, Installable, installable
from edgeks.errors import BoardError, ConfigError, LinkLost

OnLine = Callable[[str, str], None]
USUAL = ("onnxruntime", "litert")


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

    def examine_one(host: Host) -> Examination:
        with Connection(host) as connection:
            facts = probe(connection)
        return Examination(host.name, facts, check(facts, runtimes))

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

    def set_up_one(host: Host) -> Examination:
        def say(line: str) -> None:
            if on_line is not None:
                on_line(host.name, line)

        with Connection(host) as connection:
            facts = probe(connection)
            wanted = runtimes or tuple(name for name in USUAL if isinstance(installable(facts, name), Installable))
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
            facts = probe(connection)
        return Examination(host.name, facts, check(facts, wanted), made, error=error)

    return _each(hosts, set_up_one)


def clean_boards(hosts: Sequence[Host]) -> tuple[Examination, ...]:
    """Remove what edgeks put on the boards. What goes wrong with a board is in its examination."""

    def clean_one(host: Host) -> Examination:
        with Connection(host) as connection:
            return Examination(host.name, None, removed=clean(connection))

    return _each(hosts, clean_one)


def _each(hosts: Sequence[Host], work: Callable[[Host], Examination]) -> tuple[Examination, ...]:
    def guarded(host: Host) -> Examination:
        try:
            return work(host)
        except BoardError as error:
            return Examination(host.name, None, error=str(error))

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        return tuple(pool.map(guarded, hosts))
