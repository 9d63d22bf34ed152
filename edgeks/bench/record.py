"""The record of a benchmark: what was measured, with everything that is needed to repeat it. Schema edgeks.bench/2.

docs/bench_schema.md has every key. A record is whole or says why it is not; it can be read back, whoever wrote it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import edgeks
from edgeks.bench.measurement import Comparison, Measurement
from edgeks.bench.plain_data import PlainDataError, from_plain, load_json, to_plain
from edgeks.bench.ram_split import RamSplit, ram_split
from edgeks.bench.stats import Interval, Latency
from edgeks.board.host import Host
from edgeks.errors import DataError, ModelFileError

SCHEMA = "edgeks.bench/2"
MAX_BYTES = 1 << 28
RUNNING = "it was still running when this was written, or it was killed"
# What ssh options may say in a record; of any other (a command, a file, a variable) only the name is kept.
OPEN_OPTIONS = ("hostname", "port", "user", "proxyjump", "hostkeyalias", "connecttimeout", "compression", "ciphers")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as it was when it was measured."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A board as the user named it, without secrets: passwords are left out, and so is what most ssh options say."""

    destination: str
    options: tuple[str, ...]
    folder: str | None
    python: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One measurement of a record. `files`: the model file and the files that hold its external data.

    What follows from the measurement is stored beside it: `latency` and `p50_interval` (None where time means nothing
    or there is no sample), `ram` (of the process that took the most; None where the system does not say), `taints` (why
    it is invalid; empty: it is valid).
    """

    measurement: Measurement
    files: tuple[StoredFile, ...]
    inputs_file: StoredFile | None
    host: HostRecord | None
    latency: Latency | None
    p50_interval: Interval | None
    ram: RamSplit | None
    taints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What was not measured, or not to its end: on which machine, which job, and why in one line."""

    machine: str
    job: str
    error: str


@dataclass(frozen=True, slots=True)
class Record:
    """One run of `edgeks bench`. `comparisons` are between measurements of the record, the same objects."""

    edgeks: str
    command: tuple[str, ...]
    entries: tuple[Entry, ...]
    comparisons: tuple[Comparison, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for was measured to its end."""
        return not self.failures

    def entry(self, measurement: Measurement) -> Entry:
        """What the record holds of a measurement of its own."""
        return next(entry for entry in self.entries if entry.measurement is measurement)


def make_record(
    measurements: Iterable[Measurement],
    comparisons: Sequence[Comparison] = (),
    *,
    command: Sequence[str] = (),
    hosts: Iterable[Host] = (),
    failures: Iterable[Failure] = (),
) -> Record:
    """Measurements, and those of the comparisons → Record. `hosts` are found by the name that measurements call them.

    Files are read, once each unless they change: their digests are part of the record.
    """
    by_name = {host.name: host for host in hosts}
    found = [*measurements, *(one for comparison in comparisons for one in (comparison.a, comparison.b))]
    each_once = {id(measurement): measurement for measurement in found}.values()
    return Record(
        edgeks=edgeks.__version__,
        command=tuple(map(without_password, command)),
        entries=tuple(_entry(measurement, by_name.get(measurement.machine)) for measurement in each_once),
        comparisons=tuple(comparisons),
        failures=tuple(failures),
    )


def _entry(measurement: Measurement, host: Host | None) -> Entry:
    job = measurement.job
    splits = [ram_split(repetition.memory) for repetition in measurement.repetitions]
    timed = not measurement.is_emulated and any(one.samples_ms for one in measurement.repetitions)
    return Entry(
        measurement=measurement,
        files=stored_files(job.path),
        inputs_file=None if job.inputs is None else _stored(job.inputs),
        host=None if host is None else _host(host),
        latency=measurement.latency if timed else None,
        p50_interval=measurement.p50_interval if timed else None,
        ram=max(filter(None, splits), key=lambda split: split.peak_bytes, default=None),
        taints=measurement.taints,
    )


def stored_files(path: Path) -> tuple[StoredFile, ...]:
    """A model file and the files that hold its external data."""
    files = [path]
    if path.suffix == ".onnx":
        from edgeks.model_files.onnx_file import read_model_file

        try:
            constants = read_model_file(path).all_constants()
        except ModelFileError:
            constants = []  # ONNX Runtime reads files that edgeks does not
        files += sorted({constant.data_file for constant in constants if constant.data_file} - {path})
    return tuple(map(_stored, files))


def _stored(path: Path) -> StoredFile:
    try:
        state = path.stat()
        return StoredFile(str(path), state.st_size, _digest(path, state.st_ino, state.st_size, state.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{path}: cannot be read for the record ({error.strerror})") from error


@functools.lru_cache(64)
def _digest(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_password(word: str) -> str:
    """`ssh://pi:secret@board` → `ssh://pi:…@board`, `password=secret` → `password=…`."""
    word = re.sub(r"(?<=//)([^/@:\s]*):[^/@\s]*@", r"\1:…@", word)
    return re.sub(r"(?i)((?:pass(?:word|phrase|wd)?|secret|token)\s*[=:]\s*).+", r"\1…", word)


def _host(host: Host) -> HostRecord:
    options: list[str] = []
    for before, word in zip(("", *host.options), host.options, strict=False):
        name = re.split(r"[=\s]", word.strip(), maxsplit=1)[0]
        if before == "-o":
            options.append(word if name.lower() in OPEN_OPTIONS else f"{name}=…")
        elif before in ("-p", "-l", "-J", "-c") or re.fullmatch(r"-\w", word):
            options.append(without_password(word))
        else:  # what other options take: a file, mostly
            options.append("…")
    return HostRecord(without_password(host.destination), tuple(options), host.folder, host.python)


def to_json(record: Record) -> dict[str, Any]:
    """Record → plain lists, numbers and text, of schema edgeks.bench/2."""
    indices = {id(entry.measurement): index for index, entry in enumerate(record.entries)}
    measurements = []
    for entry in record.entries:
        data = to_plain(entry)
        measurements.append({**data.pop("measurement"), **data})
    comparisons = []
    for comparison in record.comparisons:
        ends = {"a": indices[id(comparison.a)], "b": indices[id(comparison.b)]}
        own = (field.name for field in fields(comparison) if field.name not in ends)
        comparisons.append({**ends, **{name: to_plain(getattr(comparison, name)) for name in own}})
    return {
        "schema": SCHEMA,
        "edgeks": record.edgeks,
        "command": list(record.command),
        "complete": record.is_complete,
        "failures": to_plain(record.failures),
        "measurements": measurements,
        "comparisons": comparisons,
    }


def dump(record: Record) -> str:
    """Record → the text of its file, in ASCII."""
    return json.dumps(to_json(record), allow_nan=False, separators=(",", ":")) + "\n"


def load_record(path: Path) -> Record:
    """The file of a record → Record.

    Raises:
        DataError: it is missing, too large, cut short, of another version, or not what such a file holds.
    """
    try:
        state = path.stat()
        size = state.st_size
        if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
            raise DataError(f"{path}: cannot be read (a device or a pipe)")
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size:,} bytes; a record takes up to {MAX_BYTES:,}")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return from_json(load_json(text))
    except PlainDataError as error:
        raise DataError(f"{path}: is no record of a benchmark: {error}") from error
    except (ValueError, RecursionError) as error:
        found = "empty" if not text.strip() else f"no JSON, or not all of it ({str(error)[:200] or 'nested too deep'})"
        raise DataError(f"{path}: is no record of a benchmark: it is {found}") from error


def from_json(data: Any) -> Record:
    """What `to_json` made → Record.

    Raises:
        PlainDataError: it is something else.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = repr(data.get("schema"))[:60] if isinstance(data, dict) else f"no object but {repr(data)[:60]}"
        raise PlainDataError(f"schema is {found}; legal: {SCHEMA!r}")
    entries = []
    for index, one in enumerate(_list(data, "measurements")):
        where = f"measurements[{index}]"
        measurement = from_plain(Measurement, one, where)
        entries.append(from_plain(Entry, one, where, measurement=measurement))
    comparisons = []
    for index, one in enumerate(_list(data, "comparisons")):
        where = f"comparisons[{index}]"
        ends = {end: _end(one, end, where, entries) for end in ("a", "b")}
        comparisons.append(from_plain(Comparison, one, where, **ends))
    return from_plain(Record, data, entries=tuple(entries), comparisons=tuple(comparisons))


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(data.get(key), list):
        raise PlainDataError(f"{key} is {repr(data.get(key))[:60]}; legal: a list")
    return data[key]  # type: ignore[no-any-return]


def _end(data: Any, end: str, where: str, entries: list[Entry]) -> Measurement:
    index = data.get(end) if isinstance(data, dict) else None
    if type(index) is not int or not 0 <= index < len(entries):
        raise PlainDataError(f"{where}.{end} is {repr(index)[:60]}; legal: the index of a measurement")
    return entries[index].measurement
