"""Several training processes on this machine, started and watched by torch's own launcher."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from edgeks.errors import CheckFailed, EdgeksError, ProcessLost
from edgeks.train.progress import EpochRecord, NoProgress, TrainingProgress

Work = Callable[[TrainingProgress], object]

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
GRACE_SECONDS = 5.0


def launch(processes: int, work: Work, progress: TrainingProgress) -> None:
    """Call `work` in that many new processes, as torchrun would; what the first reports reaches `progress` here.

    `work` is pickled. When one process fails or is lost, when this one is interrupted or ends, all end.

    Raises:
        EdgeksError: what the first of them to fail raised.
        CheckFailed: one was killed.
        RuntimeError: one failed for an unknown reason.
    """
    pipes = [get_context("spawn").Pipe(duplex=False) for _ in range(processes)]
    ears, mouths = [ear for ear, _ in pipes], [mouth for _, mouth in pipes]
    heard = _Heard(ears, progress)
    heard.start()
    ended: ChildFailedError | None = None
    try:
        with _undisturbed(), TemporaryDirectory(prefix="edgeks-") as logs:
            elastic_launch(_config(processes, Path(logs)), _one)(pickle.dumps(work), mouths, os.getpid())
    except ChildFailedError as error:
        ended = error
    except SignalException as error:
        signal.raise_signal(error.sigval)  # as if the launcher had not caught it
        raise KeyboardInterrupt from None  # whoever handles it goes on
    finally:
        for mouth in mouths:
            mouth.close()
        heard.join()
        progress.stop()
    if heard.refusals:
        raise heard.refusals[0]
    if ended is not None:
        raise _explained(ended, heard.failures, processes)


def _config(processes: int, logs: Path) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
        shutdown_timeout=int(GRACE_SECONDS),
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The launcher logs nothing, signals are handled as before afterwards, and new processes start with SIGINT blocked.

    Ctrl-C reaches all processes of a terminal; one that is still importing would print a traceback. In this process
    another thread takes the signal meanwhile.
    """
    disabled = logging.root.manager.disable
    logging.disable()  # torch's loggers have handlers of their own, and what they tell is told here in one line
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if in_main:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        logging.disable(disabled)


class _Heard(threading.Thread):
    """Passes on what the processes send until all have ended; keeps their errors, the earliest first."""

    def __init__(self, ears: list[Connection[Any, Any]], progress: TrainingProgress) -> None:
        super().__init__(daemon=True)
        self.refusals: list[EdgeksError] = []
        self.failures: dict[int, str] = {}
        self._ears, self._progress = ears, progress

    def run(self) -> None:
        """Until every pipe has reached its end."""
        number = {ear: rank for rank, ear in enumerate(self._ears)}
        while number:
            for ear in wait(list(number)):
                assert isinstance(ear, Connection)  # noqa: S101  # it is what was given
                try:
                    self._take(number[ear], *ear.recv())
                except (EOFError, OSError):
                    del number[ear]

    def _take(self, rank: int, kind: str, *content: Any) -> None:
        if kind == "refused":
            self.refusals.append(content[0])
        elif kind == "failed":
            self.failures[rank] = content[0]
        else:
            getattr(self._progress, kind)(*content)


class _Sent(NoProgress):
    """Progress that another process shows."""

    def __init__(self, mouth: Connection[Any, Any]) -> None:
        self._mouth = mouth

    def start(self, total: int, done: int, epochs: int) -> None:
        """Told."""
        self._mouth.send(("start", total, done, epochs))

    def iteration(self, epoch: int, done: int, loss: float, accuracy: float) -> None:
        """Told."""
        self._mouth.send(("iteration", epoch, done, loss, accuracy))

    def epoch(self, record: EpochRecord) -> None:
        """Told."""
        self._mouth.send(("epoch", record))


def _one(work: bytes, mouths: list[Connection[Any, Any]], parent: int) -> None:
    """What each process does. It ends with its parent: the launcher has asked the kernel for SIGINT then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if os.getppid() != parent:
        os._exit(1)
    rank = int(os.environ["RANK"])
    mouth = mouths[rank]
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(mouths)))
    try:
        pickle.loads(work)(_Sent(mouth) if rank == 0 else NoProgress())  # noqa: S301  # from the parent, by a pipe
        return
    except ProcessLost as error:
        time.sleep(2 * GRACE_SECONDS)  # the launcher is about to find the lost one, and to end this one
        mouth.send(("refused", error))
    except EdgeksError as error:
        mouth.send(("refused", error))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        mouth.send(("failed", f"{reason}\n{traceback.format_exc()}" if "--debug" in sys.argv else reason))
    os._exit(1)  # at once: the others wait for this process


def _explained(error: ChildFailedError, failures: dict[int, str], processes: int) -> Exception:
    rank, failure = error.get_first_failure()
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return CheckFailed(
            f"training: process {rank} of {processes} was ended by {name}"
            f"{' (too little memory?)' if name == 'SIGKILL' else ''}; --resume goes on after the last whole epoch"
        )
    reason = failures.get(rank) or next(iter(failures.values()), f"exit code {failure.exitcode}")
    return RuntimeError(f"training process {rank}: {reason}")
