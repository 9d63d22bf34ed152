"""Data parallel training: this process's place among those that torchrun started, and what they tell each other.

torch.distributed itself, not ignite.distributed: the latter takes ranks from SLURM_* where it finds them, and so from
the wrong place in a process that torchrun started within a Slurm job.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from edgeks.errors import ConfigError, ProcessLost

PATIENCE = timedelta(hours=2)  # torchrun ends them all when one is lost; what is waited for is a slow disk
LOST = ("gloo", "connection", "socket", "broken pipe", "nccl")  # words of the errors that a lost process leaves behind
FAILED = "edgeks/failed"

Value = TypeVar("Value")


def rank() -> int:
    """This process's number, 0 to count() − 1; process 0 is the one that writes and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def started_by_torchrun() -> bool:
    """Whether the environment says that this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, in each of them."""
    if count() > 1:
        dist.all_reduce(values)
    return values


def from_first(value: Value, device: torch.device) -> Value:
    """What process 0 has, in each of them."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=device)
    return box[0]


def chosen_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` → the device of this process.

    Raises:
        ConfigError: there is no CUDA device, or not one for each process of this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("training: device is 'cuda', and torch finds no CUDA device; legal here: auto, cpu")
    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > devices:
        raise ConfigError(
            f"training: {here} processes on a machine with {devices} CUDA devices; legal: a process for each device, "
            "or device cpu"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Within, the processes that torchrun started are one group; alone, or in a group already, nothing.

    Where several fail, as all do when one is lost, the first to fail says why and the others end without a word.

    Raises:
        ConfigError: the device is not there.
        ProcessLost: another process of the group has ended.
    """
    if not started_by_torchrun() or dist.is_initialized():
        yield
        return
    where = chosen_device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    try:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE)
        yield
    except Exception as error:
        if not _fails_first():
            raise SystemExit(getattr(error, "exit_code", 1)) from None
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST):
            raise ProcessLost(
                "training: another process has ended, and this one cannot go on; what that one said, or the log of its "
                "machine, tells why; --resume goes on after the last whole epoch"
            ) from error
        raise
    dist.destroy_process_group()


def _fails_first() -> bool:
    """Whether no other process of the group has failed before."""
    try:
        return bool(distributed_c10d._get_default_store().add(FAILED, 1) == 1)
    except Exception:  # the process or machine that held the store is gone as well
        return True
