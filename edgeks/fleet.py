"""A benchmark on this machine or on boards: boards at the same time, each one job after the other.

What fails on one board is lost there only, and what was measured before it is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from edgeks.bench.compare import compare
from edgeks.bench.measure import Progress, measure
from edgeks.bench.measurement import Comparison, Effort, Job, Measurement
from edgeks.bench.place import LOCAL, BoardPlace, Here, Place
from edgeks.bench.record import Failure
from edgeks.board.host import Host
from edgeks.device_parity import device_parity
from edgeks.errors import BoardError, EdgeksError

STOP_SECONDS = 5.0
# Told what a machine is doing: its name, in words, and the fraction of its work that is done.
OnStatus = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure on each machine: every job of `jobs`, or `jobs[0]` against `against`, in turns.

    `against_host`: where `against` runs, if not on the same machine. `samples`: .npz of real inputs for the comparison
    of outputs. `python`: interpreter of this machine, `wheelhouse`: folder of wheels for boards without internet (see
    `edgeks.board.environment`).
    """

    jobs: tuple[Job, ...]
    effort: Effort
    against: Job | None = None
    against_host: Host | None = None
    samples: Path | None = None
    python: Path | None = None
    wheelhouse: Path | None = None


@dataclass(slots=True)
class Findings:
    """What was found so far, in the order it was asked for. `on_change` is called after every whole process."""

    on_change: Callable[[Findings], None] = lambda _: None
    failures: list[Failure] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    _measurements: dict[tuple[int, int], Measurement] = field(default_factory=dict)
    _comparisons: dict[int, Comparison] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """By machine, then by job."""
        with self._lock:
            return tuple(self._measurements[key] for key in sorted(self._measurements))

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """One per machine."""
        with self._lock:
            return tuple(self._comparisons[key] for key in sorted(self._comparisons))

    def keep(self, machine: int, *measurements: tuple[int, Measurement]) -> None:
        """A measurement so far, by the number of its job."""
        with self._lock:
            self._measurements.update({(machine, number): found for number, found in measurements})
            self.on_change(self)

    def keep_comparison(self, machine: int, comparison: Comparison) -> None:
        """A whole comparison, and its measurements: first what was compared with."""
        with self._lock:
            self._comparisons[machine] = comparison
            self.keep(machine, (0, comparison.a), (1, comparison.b))

    def lose(self, machine: str, job: str, error: Exception) -> None:
        """What was not measured to its end, and why."""
        why = str(error) if isinstance(error, EdgeksError) else f"internal error: {type(error).__name__}: {error}"
        with self._lock:
            self.failures.append(Failure(machine, job, " ".join(why.split())))
            self.errors.append(error)
            self.on_change(self)


class _Stopped(EdgeksError):
    """The user wants it to end."""


def run_fleet(hosts: Sequence[Host], request: Request, findings: Findings, on_status: OnStatus) -> None:
    """Measure on `hosts`, or on this machine where there are none; `findings` fill meanwhile.

    What goes wrong with one job or board is among the findings' failures.

    Raises:
        KeyboardInterrupt: boards were told to stop; the findings hold what was measured before.
    """
    boards: list[BoardPlace] = []
    stopping = threading.Event()

    def watched(machine: str, what: str, fraction: float) -> None:
        if stopping.is_set():
            raise _Stopped("interrupted")
        on_status(machine, what, fraction)

    if not hosts:
        _visit(0, None, request, findings, on_status, boards)
        return
    work: list[Future[None]] = []
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        try:
            for number, host in enumerate(hosts):
                work.append(pool.submit(_visit, number, host, request, findings, watched, boards))
            wait(work)
        except BaseException:
            stopping.set()
            try:
                wait(work, STOP_SECONDS)  # they clean up on their boards
            finally:
                for board in [board for board in boards if board.cut()]:
                    board.remove_unfinished()
            raise


def _visit(
    number: int,
    host: Host | None,
    request: Request,
    findings: Findings,
    on_status: OnStatus,
    boards: list[BoardPlace],
) -> None:
    """All of the request on one machine."""

    def reach(host: Host | None) -> Place:
        if host is None:
            return Here(request.python)
        tell = partial(_tell_status, on_status, host.name)
        board = stack.enter_context(BoardPlace(host, request.wheelhouse, tell))
        boards.append(board)
        return board

    name = host.name if host else LOCAL
    try:
        with ExitStack() as stack:
            place = reach(host)
            if request.against is None:
                _measure_all(number, place, request, findings, on_status)
            else:
                other = place if request.against_host is None else reach(request.against_host)
                _compare(number, (other, place), request, findings, on_status)
        on_status(name, "done", 1.0)
    except Exception as error:  # also a fault of edgeks' own: what other boards say is kept
        findings.lose(name, "", error)


def _measure_all(number: int, place: Place, request: Request, findings: Findings, on_status: OnStatus) -> None:
    """Every job; one that fails does not keep the next from being measured, unless the board is what failed."""
    for index, job in enumerate(request.jobs):
        try:
            _measure(number, index, job, place, request, findings, on_status)
        except _Stopped:
            raise
        except EdgeksError as error:
            findings.lose(place.name, job.name, error)
            if isinstance(error, BoardError):
                return


def _measure(
    number: int,
    index: int,
    job: Job,
    place: Place,
    request: Request,
    findings: Findings,
    on_status: OnStatus,
) -> None:
    many = len(request.jobs)

    def tell(progress: Progress) -> None:
        process = f"process {progress.process} of {progress.processes}: {job.name}"
        on_status(place.name, process, (index + progress.fraction) / many)

    def keep(found: Measurement) -> None:
        findings.keep(number, (index, replace(found, parity=parity)))

    machine = place.machine(job.runtime)
    on_status(place.name, f"outputs: {job.name}", index / many)
    parity = device_parity(job, machine, request.samples)
    keep(measure(job, machine, request.effort, tell, keep))


def _compare(
    number: int,
    places: tuple[Place, Place],
    request: Request,
    findings: Findings,
    on_status: OnStatus,
) -> None:
    """`places`: of what is compared with, and of what is compared."""
    a, b = request.against, request.jobs[0]
    if a is None:
        raise ValueError("nothing to compare with")
    machines = [place.machine(job.runtime) for place, job in zip(places, (a, b), strict=True)]
    name = places[1].name
    parities = []
    for job, machine in zip((a, b), machines, strict=True):
        on_status(name, f"outputs: {job.name}", 0.0)
        parities.append(device_parity(job, machine, request.samples))

    def tell(progress: Progress) -> None:
        on_status(name, f"in turns: block {progress.process} of {progress.processes}", progress.fraction)

    def keep(*found: Measurement) -> None:
        pairs = enumerate(zip(found, parities, strict=True))
        findings.keep(number, *((index, replace(each, parity=parity)) for index, (each, parity) in pairs))

    found = compare(a, b, machines[0], machines[1], request.effort, tell, keep)
    whole = [replace(each, parity=parity) for each, parity in zip((found.a, found.b), parities, strict=True)]
    findings.keep_comparison(number, replace(found, a=whole[0], b=whole[1]))


def _tell_status(on_status: OnStatus, name: str, what: str) -> None:
    on_status(name, what, 0.0)
