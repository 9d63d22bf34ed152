"""Records kept in a folder, one file per run: none is ever overwritten, and what an interrupted run had found stays."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeks.atomic_write import write_text
from edgeks.bench.measurement import Comparison
from edgeks.bench.plain_data import to_plain
from edgeks.bench.record import Entry, Record, dump, load_record
from edgeks.bench.stats import Interval, Latency
from edgeks.errors import DataError, OutputError

FOLDER = Path("runs", "bench")
STAMP = "%Y%m%dT%H%M%SZ"
MAX_NAME = 60


def claim(folder: Path, stem: str, machine: str, now: datetime | None = None) -> Path:
    """A file for the record of a run that starts: `<UTC time>_<stem>_<machine>.json`, made empty, for this run alone.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    stamp = (now or datetime.now(UTC)).strftime(STAMP)
    name = f"{stamp}_{_plain(stem)}_{_plain(machine)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            path = folder / f"{name}{'' if number == 1 else f'_{number}'}.json"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise OutputError(f"{folder}: records cannot be kept there ({error.strerror})") from error
    raise OutputError(f"{folder}: holds too many records of {name}; move some away")


def save(path: Path, record: Record) -> None:
    """Record → the file that was claimed for it: of a run that goes on, in place of what was known of it before.

    Raises:
        OutputError: it cannot be written; what was there before stays.
    """
    write_text(path, dump(record))


def _plain(name: str) -> str:
    """A name → a part of a file name on any system."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:MAX_NAME] or "unnamed"


def record_id(path: Path) -> str:
    """Six letters that tell a record from the others of its folder."""
    return hashlib.sha256(path.name.encode(errors="replace")).hexdigest()[:6]


def find(folder: Path, identifier: str) -> Path:
    """The record of an id, or of the beginning of one, as the history shows it.

    Raises:
        DataError: no record has it, or several.
    """
    found = [path for path in _files(folder) if record_id(path).startswith(identifier)] if identifier else []
    if len(found) != 1:
        says = "no record has this id" if not found else f"{len(found)} records have ids that begin so"
        raise DataError(f"{identifier}: {says} in {folder}; `edgeks bench --history` lists them")
    return found[0]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement of a record of the folder. `error`: why the run was not finished.

    `change`: p50 against the run before of the same file name, machine and options, as a share (+0.1: a tenth slower);
    `is_shown`: their intervals do not meet. `against` and `verdict`: of a comparison, on the row of its second job.
    """

    path: Path
    started: str
    entry: Entry
    error: str
    against: str
    verdict: str
    change: float | None = None
    is_shown: bool = False
    file_changed: bool = False

    @property
    def id(self) -> str:
        """Of the record, as `find` takes it."""
        return record_id(self.path)


@dataclass(frozen=True, slots=True)
class History:
    """`rows` in the order of time. `damaged`: files that are no record, in one line each.

    `failed`: records of runs that measured nothing, and why.
    """

    rows: tuple[Row, ...]
    damaged: tuple[str, ...]
    failed: tuple[tuple[Path, str], ...]


def history(folder: Path, file: str | None = None) -> History:
    """Every record of a folder, or those of one model file's name. A folder that is not there holds none.

    Raises:
        DataError: the folder cannot be read.
    """
    rows: list[Row] = []
    damaged: list[str] = []
    failed: list[tuple[Path, str]] = []
    for path in _files(folder):
        try:
            record = load_record(path)
        except DataError as error:
            damaged.append(str(error))
            continue
        if not record.entries and file is None:
            failed.append(
                (path, "; ".join(dict.fromkeys(failure.error for failure in record.failures)) or "nothing was measured")
            )
        rows += _rows(path, record)
    wanted = [row for row in rows if file is None or row.entry.measurement.job.path.name == Path(file).name]
    wanted.sort(key=lambda row: (row.started, row.path.name))
    return History(tuple(_with_changes(wanted)), tuple(damaged), tuple(failed))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def _rows(path: Path, record: Record) -> list[Row]:
    against = {id(c.b): (c.a.job.name, _verdict(c)) for c in record.comparisons}
    error = "; ".join(dict.fromkeys(failure.error for failure in record.failures))
    return [
        Row(path, entry.measurement.started, entry, error, *against.get(id(entry.measurement), ("", "")))
        for entry in record.entries
    ]


def _verdict(comparison: Comparison) -> str:
    undecided = comparison.taints or comparison.a.is_emulated or comparison.b.is_emulated
    return "not decided" if undecided else comparison.verdict


def _with_changes(rows: list[Row]) -> list[Row]:
    """Rows in the order of time, each with its change against the one before that is like it and valid."""
    before: dict[str, Row] = {}
    found = []
    for row in rows:
        key = repr(_likeness(row.entry))
        old = before.get(key)
        changed = None if old is None else _change(old.entry.latency, row.entry.latency)
        if old is not None and changed is not None:
            row = replace(
                row,
                change=changed,
                is_shown=_apart(old.entry.p50_interval, row.entry.p50_interval),
                file_changed=_digests(old.entry) != _digests(row.entry),
            )
        if row.entry.latency and not row.entry.taints:
            before[key] = row
        found.append(row)
    return found


def _likeness(entry: Entry) -> tuple[Any, ...]:
    """What two measurements have in common that are compared: name of the file, machine, and every option."""
    one = entry.measurement
    job = one.job
    inputs = entry.inputs_file.sha256 if entry.inputs_file else ""
    options = to_plain(job.target.session)
    return job.path.name, one.machine, one.is_emulated, job.runtime, job.threads, job.pin, options, inputs


def _digests(entry: Entry) -> list[str]:
    return [file.sha256 for file in entry.files]


def _change(old: Latency | None, new: Latency | None) -> float | None:
    if old is None or new is None or not old.p50_ms or new.p50_ms is None:
        return None
    return new.p50_ms / old.p50_ms - 1


def _apart(old: Interval | None, new: Interval | None) -> bool:
    return old is not None and new is not None and (old.high < new.low or new.high < old.low)
