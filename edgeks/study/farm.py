"""Sending the points of a study to other processes, here or on a Slurm cluster: submitit's work."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeks.errors import ConfigError
from edgeks.study.task import Task
from edgeks.study.work import Worker

POLL_SECONDS = 0.5
YEAR_MINUTES = 365 * 24 * 60
MOST_TIMEOUTS = 1000  # how often a job may go on after its time is over
LOST = "its process ended without a word; its output is in {}"


def run_here(tasks: Sequence[Task], attempt: str, workers: int, logs: Path, told: Callable[[Task], None]) -> None:
    """Run `tasks` in `workers` processes of this machine; each takes the next task that none has taken yet.

    Processes outlive this one when it is killed, and finish their points; the next call of the study then waits for
    them. When this one is interrupted they are, too.
    """
    import submitit
    import torch

    executor = submitit.AutoExecutor(logs, cluster="local")
    executor.update_parameters(timeout_min=YEAR_MINUTES, gpus_per_node=torch.cuda.device_count())
    left = list(tasks)
    while left:
        worker = Worker(tuple(left), attempt)
        jobs = [executor.submit(worker) for _ in range(min(workers, len(left)))]
        try:
            still = _wait(left, jobs, attempt, told)
            for job in jobs:
                job.wait()
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
        if len(still) == len(left):  # processes that do not even begin
            _give_up(still, attempt, logs, told)
            return
        left = still


def slurm_executor(workers: int | None, parameters: Mapping[str, Any], logs: Path) -> Any:
    """What submits Slurm jobs with these `parameters` of submitit's, up to `workers` of them running at once.

    Raises:
        ConfigError: no Slurm here, or a parameter that submitit does not know.
    """
    import submitit

    missing = next((name for name in ("sbatch", "srun") if shutil.which(name) is None), None)
    if missing is not None:
        raise ConfigError(f"--slurm: there is no {missing} on this machine; run it where Slurm jobs are submitted from")
    logging.getLogger("submitit").setLevel(logging.ERROR)  # it warns at each look where Slurm keeps no accounts
    executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=MOST_TIMEOUTS)
    settings = {f"slurm_{key}": value for key, value in parameters.items()}
    try:
        executor.update_parameters(slurm_job_name="edgeks-study", **settings)
        if workers is not None:
            executor.update_parameters(slurm_array_parallelism=workers)
    except (NameError, AssertionError, ValueError, TypeError) as error:
        raise ConfigError(f"--slurm: {error}") from error
    return executor


def run_on_slurm(executor: Any, tasks: Sequence[Task], attempt: str, logs: Path, told: Callable[[Task], None]) -> None:
    """Submit one Slurm job for each task by a `slurm_executor`, and wait for them.

    A job that Slurm takes off its machine goes on from the last epoch when it is given another one. Jobs outlive this
    process.
    """
    with executor.batch():
        jobs = [executor.submit(Worker((task,), attempt)) for task in tasks]
    _give_up(_wait(tasks, jobs, attempt, told), attempt, logs, told)


def _wait(tasks: Sequence[Task], jobs: Sequence[Any], attempt: str, told: Callable[[Task], None]) -> list[Task]:
    """Until every task is done or has failed, or every job has ended → the tasks that are left."""
    left = list(tasks)
    while True:
        ended = all(job.done() for job in jobs)  # before looking: what a job did last is seen
        over = [task for task in left if task.result() is not None or task.failure(attempt) is not None]
        for task in over:
            told(task)
        left = [task for task in left if task not in over]
        if ended or not left:
            return left
        time.sleep(POLL_SECONDS)


def _give_up(tasks: Sequence[Task], attempt: str, logs: Path, told: Callable[[Task], None]) -> None:
    for task in tasks:
        task.write_failure(attempt, LOST.format(logs))
        told(task)
