"""The state of a training after an epoch, on disk: what it takes to go on as if nothing had happened.

And what a finished training is told from others by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeks.atomic_write import atomic_write
from edgeks.errors import NotResumable
from edgeks.train.dataset import Dataset
from edgeks.train.progress import EpochRecord
from edgeks.train.settings import TrainSettings

VERSION = 2
ANEW = "train without resuming"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must be equal for a training to be continued: settings (without those of speed), data, network and teacher.

    `start`: what the training went on from (`weights_fingerprint` of a checkpoint); empty: a new network.
    """

    settings: dict[str, Any]
    data: str
    network: str
    start: str
    teacher: str

    @classmethod
    def of(
        cls, model: nn.Module, dataset: Dataset, settings: TrainSettings, teacher: nn.Module | None, start: str
    ) -> Fingerprint:
        """Fingerprint of a training that is about to start."""
        return cls(
            settings.deciding(),
            dataset.fingerprint(),
            _network_fingerprint(model),
            start,
            weights_fingerprint(teacher),
        )


@dataclass(frozen=True, slots=True)
class TrainState:
    """After `epoch` finished epochs. `best` is the state dict of epoch `best_epoch`, on the CPU.

    `step` is what the optimiser, the schedule, the loss scaler and the average of the weights remember.
    """

    epoch: int
    model: dict[str, Tensor]
    step: dict[str, Any]
    history: list[EpochRecord]
    best_epoch: int
    best: dict[str, Tensor]


def write_state(path: Path, state: TrainState, fingerprint: Fingerprint) -> None:
    """State → file, whole or not at all."""
    content = {
        "version": VERSION,
        "fingerprint": asdict(fingerprint),
        "epoch": state.epoch,
        "model": state.model,
        "step": state.step,
        "history": [asdict(record) for record in state.history],
        "best_epoch": state.best_epoch,
        "best": state.best,
    }
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def read_state(path: Path, fingerprint: Fingerprint) -> TrainState:
    """File → state, without executing code from it.

    Raises:
        NotResumable: the file is damaged, or was written by another training: the message says what differs.
    """
    try:
        opened = path.open("rb")
    except OSError as error:
        raise NotResumable(f"{path}: cannot be read ({error.strerror}); {ANEW}") from error
    try:
        with opened:
            content = torch.load(opened, map_location="cpu", weights_only=True)
        if content["version"] != VERSION:
            raise NotResumable(
                f"{path}: a training state of version {content['version']!r}, which another edgeks wrote; legal: "
                f"{VERSION}; end that training with the edgeks that began it, or {ANEW}"
            )
        written = Fingerprint(**content["fingerprint"])
        state = TrainState(
            epoch=content["epoch"],
            model=content["model"],
            step=content["step"],
            history=[EpochRecord(**record) for record in content["history"]],
            best_epoch=content["best_epoch"],
            best=content["best"],
        )
    except NotResumable:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise NotResumable(f"{path}: not a training state of edgeks, or damaged; delete it, or {ANEW}") from error
    difference = _difference(written, fingerprint)
    if difference:
        raise NotResumable(f"{path}: was written by a training with {difference}; give the same again, or {ANEW}")
    return state


def check_finished(path: Path, training: Mapping[str, Any] | None, fingerprint: Fingerprint) -> None:
    """The checkpoint `path`, which says that it is of `training`, is what this training would end in.

    Raises:
        NotResumable: another training, or something else, has written it.
    """
    try:
        difference = _difference(Fingerprint(**(training or {})), fingerprint)
    except (TypeError, AttributeError) as error:
        raise NotResumable(f"{path}: does not say which training wrote it; choose another -o, or {ANEW}") from error
    if difference:
        raise NotResumable(f"{path}: was written by a training with {difference}; choose another -o, or {ANEW}")


def _difference(written: Fingerprint, now: Fingerprint) -> str:
    """What differs, in words; empty: nothing."""
    keys = sorted({*written.settings, *now.settings})
    differing = [key for key in keys if written.settings.get(key) != now.settings.get(key)]
    if differing:
        found = ", ".join(f"{k} {written.settings.get(k)!r} (now {now.settings.get(k)!r})" for k in differing)
        return f"other settings: {found}"
    if written.network != now.network:
        return "another network"
    if written.start != now.start:
        return "other weights to start from"
    if written.teacher != now.teacher:
        return "another teacher"
    return "other data" if written.data != now.data else ""


def _network_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and types of parameters and buffers, and which names are the same tensor."""
    first_name: dict[int, str] = {}
    rows = []
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        alias_of = first_name.setdefault(id(tensor), name)
        rows.append([name, list(tensor.shape), str(tensor.dtype), alias_of])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def weights_fingerprint(model: nn.Module | None) -> str:
    """SHA-256 over all weights and buffers with their names; empty without a network."""
    if model is None:
        return ""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
