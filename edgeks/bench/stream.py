"""What the runner says: its JSON lines, gathered, and the result that they make. One protocol, here and on a board."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeks.bench.plain_data import PlainDataError, from_plain, load_json, read_value, to_plain
from edgeks.bench.stats import Latency, summarise
from edgeks.errors import MAX_MESSAGE, DataError, EdgeksError, ModelFileError
from edgeks.runtime_profile import COMPILED

Moment = Literal["before", "during", "after"]

MAX_BYTES = 1 << 28  # of all events of a process
MAX_MS = 24 * 3600 * 1e3


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the process at one stage (start, loaded, fed, run); None where the system does not say.

    `mapped_bytes`: resident pages of the model's own files. `peak_bytes`: the most resident since the stage before.
    """

    stage: str
    rss_bytes: int | None
    anonymous_bytes: int | None
    mapped_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class State:
    """The machine at one moment of a run: before the first counted inference, between two, after the last.

    `seconds` are since the first reading. `clock_mhz` and `nominal_clock_mhz` have one value for each of `cores`, where
    threads of the process computed last; nominal is the most that the core can do, on x86 without turbo. `throttled`
    are the Raspberry Pi's bits: 0 to 3 now, 16 to 19 since boot. What counts up counts since the reading before (0 in
    the first): CPU seconds of this process, of others on the `allowed_cores` cores that it may use, and taken by the
    hypervisor; pages that the system swapped; major page faults and involuntary context switches of this process. What
    is None is in `unknown` with why.
    """

    moment: Moment
    seconds: float
    cores: tuple[int, ...]
    allowed_cores: int
    clock_mhz: tuple[float, ...] | None = None
    nominal_clock_mhz: tuple[float, ...] | None = None
    temperature_c: float | None = None
    throttled: int | None = None
    load_1min: float | None = None
    own_cpu_s: float | None = None
    others_cpu_s: float | None = None
    steal_cpu_s: float | None = None
    swap_in_pages: int | None = None
    swap_out_pages: int | None = None
    major_faults: int | None = None
    involuntary_switches: int | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Inferences after the first that do not count. `stable` is None where their number was given."""

    runs: int
    seconds: float
    stable: bool | None


@dataclass(frozen=True, slots=True)
class OpTime:
    """One operator of the network in one inference: mean milliseconds, as the runtime's own profiler has them.

    An operator with a body (Loop, If) has the time of what is in it, which is listed as well: `depth` is 1 there.
    """

    name: str
    type: str
    ms: float
    depth: int = 0


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One fresh process: every sample in ms in the order of the runs, and what it was measured on and with.

    `taints` say why its numbers are not the machine's undisturbed ones (edgeks.bench.validity); empty: nothing was
    seen. `warmup` are the inferences after the first that do not count; `warmup_stable` whether latency had become
    stable, None where their number was given. `pin`: the cores it had to stay on, none: any.
    """

    path: Path
    target: str
    session: dict[str, Any]
    warmup: int
    facts: dict[str, Any]
    inputs: dict[str, Any]
    load_ms: float
    first_inference_ms: float
    samples_ms: tuple[float, ...]
    memory: tuple[Memory, ...]
    states: tuple[State, ...] = ()
    taints: tuple[str, ...] = ()
    warmup_stable: bool | None = None
    pin: tuple[int, ...] = ()

    @property
    def latency(self) -> Latency:
        """Percentiles, mean, minimum, maximum, count of the samples."""
        return summarise(self.samples_ms)


@dataclass(frozen=True, slots=True)
class _FedInput:
    shape: tuple[int, ...]
    dtype: str


@dataclass(slots=True)
class RunnerStream:
    """What the events of the runner have said so far. It may run on a board that nobody can trust: all is checked."""

    facts: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    load_ms: float = 0.0
    first_inference_ms: float = 0.0
    warmup: WarmUp | None = None
    samples: list[float] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    ops: tuple[OpTime, ...] | None = None
    ops_reason: str = ""
    error: tuple[str, str] | None = None
    ended: bool = False
    _bytes: int = 0

    def take_line(self, line: str | bytes) -> None:
        """Add one line of the runner's stdout; nothing where a library printed it, or it was cut off.

        Raises:
            EdgeksError: it is an event that the runner does not send, or one too many.
        """
        try:
            event = load_json(line)
        except ValueError:
            return
        if isinstance(event, dict) and "event" in event:
            self._bytes += len(line)
            if self._bytes > MAX_BYTES:
                raise EdgeksError(f"the benchmark process sent more than {MAX_BYTES >> 20} MiB of events; ask for less")
            self.take(event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Add one event of the runner; nothing after its end.

        Raises:
            EdgeksError: it has not the keys and values that the runner sends.
        """
        if self.ended:
            return
        try:
            self._take(str(event["event"]), {key: value for key, value in event.items() if key != "event"})
        except PlainDataError as error:
            raise EdgeksError(f"the benchmark process sent what it should not: {error}") from error

    def _take(self, kind: str, event: dict[str, Any]) -> None:
        def value(hint: Any, key: str) -> Any:
            return read_value(hint, event.get(key), f"{kind}.{key}")

        if kind == "facts":
            self.facts = read_value(dict[str, str | int], event, kind)
        elif kind == "inputs":
            self.inputs = to_plain(value(dict[str, _FedInput], "inputs"))
        elif kind == "load":
            (self.load_ms,) = _times([value(float, "ms")], kind)
        elif kind == "first_inference":
            (self.first_inference_ms,) = _times([value(float, "ms")], kind)
        elif kind == "warmup":
            self.warmup = from_plain(WarmUp, event, kind)
        elif kind == "samples":
            self.samples.extend(_times(value(tuple[float, ...], "ms"), kind))
        elif kind == "memory":
            self.memory.append(from_plain(Memory, event, kind))
        elif kind == "state":
            self.states.append(_sound(from_plain(State, event, kind)))
        elif kind == "ops":
            self.ops, self.ops_reason = value(tuple[OpTime, ...] | None, "ops"), value(str, "reason")
        elif kind == "error":
            self.error = value(str, "stage"), value(str, "message")[:MAX_MESSAGE]
        elif kind == "end":
            self.ended = value(bool, "ok") or self.error is not None

    def require_end(self, path: Path, config: Mapping[str, Any], ending: str, last_words: str) -> None:
        """Raise what the runner complained of, or that it stopped before it had done what `config` asks for.

        `ending` is how the process ended ("ended with code 1"), `last_words` the end of its stderr.

        Raises:
            ModelFileError: the runtime cannot load or run the file.
            DataError: the inputs cannot be used.
            EdgeksError: anything else.
        """
        if self.error:
            raise _error(path, config["runtime"], *self.error)
        wanted = 0 if config.get("outputs") else config.get("runs", 1)
        if not self.ended or len(self.samples) < wanted:
            raise EdgeksError(
                f"{path}: the benchmark process {ending} before it was done; {last_words or 'no message'}"
            )


def _times(found: Iterable[float], kind: str) -> list[float]:
    """Milliseconds of a clock that goes on."""
    times = list(found)
    for ms in times:
        if not 0 < ms < MAX_MS:
            raise PlainDataError(f"{kind}.ms is {ms:g}; legal: above 0, less than {MAX_MS:g}")
    return times


def _sound(state: State) -> State:
    """A reading whose clocks are those of its cores."""
    for name in ("clock_mhz", "nominal_clock_mhz"):
        clocks = getattr(state, name)
        if clocks is not None and not (len(clocks) == len(state.cores) and all(mhz > 0 for mhz in clocks)):
            raise PlainDataError(f"state.{name} is {str(clocks)[:60]}; legal: one above 0 for each of its cores")
    return state


def _error(path: Path, runtime: str, stage: str, message: str) -> EdgeksError:
    name = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT", COMPILED: "LiteRT"}.get(runtime, runtime)
    if stage == "model":
        return ModelFileError(f"{path}: {name} cannot load it: {message}")
    if stage == "run":
        return ModelFileError(f"{path}: {name} cannot run it: {message}")
    if stage == "input":
        return DataError(f"{path}: {message}")
    return EdgeksError(f"{path}: {message}")
