"""A measurement in words: figures with three digits, states as ranges, options, what it was measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edgeks.bench.measurement import Comparison, Job, Measurement
from edgeks.bench.record import Entry
from edgeks.bench.stats import Interval
from edgeks.bench.stream import State
from edgeks.terminal import printable

EMULATED = "emulated: time means nothing"
LONG = 60


def shortened(text: object, limit: int = LONG) -> str:
    """Printable, and cut in the middle where it is longer than `limit`."""
    letters = printable(str(text)[: 4 * LONG * limit])
    half = (limit - 1) // 2
    return letters if len(letters) <= limit else f"{letters[:half]}…{letters[-half:]}"


def figure(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4}f}"


def ms(value: float | None) -> str:
    """Milliseconds with their unit."""
    return "–" if value is None else f"{figure(value)} ms"


def interval(found: Interval | None) -> str:
    """`[1.20, 1.31]`; empty where there is none."""
    return "" if found is None else f"[{figure(found.low)}, {figure(found.high)}]"


def mb(size: int | None) -> str:
    """Bytes → MB of 10⁶ bytes."""
    return "–" if size is None else f"{size / 1e6:.1f} MB" if abs(size) >= 100_000 else f"{size / 1e3:.1f} kB"


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`, `3 processes`."""
    many = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def middle(values: Iterable[float]) -> float | None:
    """The median, the lower one of two."""
    known = sorted(values)
    return known[(len(known) - 1) // 2] if known else None


def runtime(measurement: Measurement) -> str:
    """`onnxruntime 1.31.1`, as the processes found it."""
    facts = measurement.repetitions[0].facts if measurement.repetitions else {}
    return printable(f"{measurement.job.runtime} {facts.get('runtime_version', '')}".strip())


def threads(job: Job) -> str:
    """`1 thread`, `2 threads on cores 0, 1`."""
    return plural(job.threads, "thread") + (f" on {_cores(job)}" if job.pin else "")


def labels(measurements: Sequence[Measurement]) -> list[str]:
    """What tells each job from the others, as short as it may be: the file where nothing does. Without machines."""
    parts = [
        (job.path.name, job.runtime, plural(job.threads, "thread"), _cores(job), f"target {job.target.name}")
        for job in (measurement.job for measurement in measurements)
    ]
    told: list[tuple[str, ...]] = [()] * len(parts)
    for column in zip(*parts, strict=True):
        longer = [(*before, part) for before, part in zip(told, column, strict=True)]
        told = longer if len(set(longer)) > len(set(told)) else told
    return [shortened(", ".join(one or all_of_it[:1])) for one, all_of_it in zip(told, parts, strict=True)]


def _cores(job: Job) -> str:
    return f"core{'' if len(job.pin) == 1 else 's'} {', '.join(map(str, job.pin))}" if job.pin else "any core"


def names(a: Measurement, b: Measurement) -> tuple[str, str]:
    """What tells two measurements apart: their jobs, their machines, or both."""
    first, second = labels([a, b])
    if a.machine == b.machine:
        return (first, second) if first != second else (f"{first} (a)", f"{second} (b)")
    return f"{first} on {shortened(a.machine)}", f"{second} on {shortened(b.machine)}"


def verdict(comparison: Comparison) -> str:
    """`lean.onnx is faster than net.onnx on pi4`, or why that is not said."""
    (a, b), machine = names(comparison.a, comparison.b), shortened(comparison.a.machine)
    where = f" on {machine}" if comparison.a.machine == comparison.b.machine else ""
    if is_emulated(comparison):
        return f"{b} against {a}{where}: {EMULATED}"
    if comparison.taints:
        return f"{b} against {a}{where}: not decided, the comparison is invalid"
    if comparison.verdict == "no difference shown":
        return f"{b} against {a}{where}: no difference shown"
    return f"{b} is {comparison.verdict} than {a}{where}"


def is_emulated(comparison: Comparison) -> bool:
    """Whether its times mean nothing."""
    return comparison.a.is_emulated or comparison.b.is_emulated


def ratio(comparison: Comparison) -> str:
    """`ratio of p50 0.831 [0.815, 0.847], 4 blocks in random order`."""
    low, high = comparison.interval.low, comparison.interval.high
    blocks = len(comparison.order) or min(len(comparison.a.repetitions), len(comparison.b.repetitions))
    return f"ratio of p50 {comparison.ratio:.3f} [{low:.3f}, {high:.3f}], {plural(blocks, 'block')} in random order"


def validity(entry: Entry) -> tuple[str, bool]:
    """Whether the measurement counts, with the reasons; True: it does."""
    one = entry.measurement
    good, all_of_them = len(one.valid), len(one.repetitions)
    if not one.repetitions:
        return "no process was measured", False
    reasons = "; ".join(map(printable, dict.fromkeys(why for process in one.repetitions for why in process.taints)))
    if entry.taints:
        found = "; ".join(map(printable, entry.taints))
        return f"invalid, {good} of {plural(all_of_them, 'process')} undisturbed: {found}", False
    if good == all_of_them:
        return f"valid: {'the process was' if good == 1 else f'all {good} processes were'} undisturbed", True
    return f"valid: {good} of {plural(all_of_them, 'process')} undisturbed; the others: {reasons}", True


def states_of(measurement: Measurement) -> list[State]:
    """Every reading of the machine over all processes."""
    return [state for repetition in measurement.repetitions for state in repetition.states]


def conditions(measurement: Measurement) -> str:
    """Clock, temperature, load and throttling over the run, or why they are unknown."""
    states = states_of(measurement)
    if not states:
        return "clock, temperature and load were not read"
    return "; ".join(_conditions(states))


def _conditions(states: Sequence[State]) -> Iterator[str]:
    clocks = [mhz for state in states for mhz in state.clock_mhz or ()]
    most = max((mhz for state in states for mhz in state.nominal_clock_mhz or ()), default=None)
    if clocks:
        of = f" of {most:,.0f}" if most and round(min(clocks)) != round(most) else ""
        yield f"clock {_range(clocks, '{:,.0f}')}{of} MHz"
    else:
        yield _unknown(states, "clock_mhz", "clock")
    heat = [state.temperature_c for state in states if state.temperature_c is not None]
    yield f"{_range(heat, '{:.0f}')} °C" if heat else _unknown(states, "temperature_c", "temperature")
    load = [state.load_1min for state in states if state.load_1min is not None]
    yield f"load {_range(load, '{:.1f}')}" if load else _unknown(states, "load_1min", "load")
    bits = [state.throttled for state in states if state.throttled is not None]
    if bits:
        now, past = any(bit & 0xF for bit in bits), any(bit >> 16 & 0xF for bit in bits)
        yield "throttled while it ran" if now else "throttled before, since boot" if past else "never throttled"


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"


def _unknown(states: Sequence[State], key: str, name: str) -> str:
    why = next((state.unknown[key] for state in states if state.unknown.get(key)), "")
    return f"{name} unknown{f' ({shortened(why, 160)})' if why else ''}"


def device(entry: Entry) -> str:
    """The machine: board or processor, cores, operating system."""
    one = entry.measurement
    facts = one.repetitions[0].facts if one.repetitions else {}
    known = one.machine_facts
    model = _fact(known, "model") or facts.get("cpu") or "unknown machine"
    cores = facts.get("cores") or _fact(known, "cores")
    system = _fact(known, "os") or facts.get("platform")
    parts = [model, plural(cores, "core") if isinstance(cores, int) else "", system]
    if one.is_emulated:
        parts.append("emulated")
    return ", ".join(printable(part) for part in parts if part)


def _fact(facts: dict[str, Any], key: str) -> Any:
    """A fact that is known."""
    found = facts.get(key)
    return None if isinstance(found, dict) and "unknown" in found else found


def ram(entry: Entry) -> str:
    """The peaks and the parts."""
    split = entry.ram
    if split is None:
        measured = entry.measurement.repetitions
        return (
            f"unknown: {'the system does not tell the memory of a process' if measured else 'no process was measured'}"
        )
    other = split.run_bytes - split.run_anonymous_bytes - split.run_mapped_bytes
    files, heap = mb(split.run_mapped_bytes), mb(split.run_anonymous_bytes)
    parts = f"{heap} anonymous, {files} of the model's files, {mb(other)} of libraries"
    return (
        f"{mb(split.run_peak_bytes)} at run peak, {mb(split.load_peak_bytes)} while loading; after the runs {parts}; "
        f"above {mb(split.baseline_bytes)} before loading"
    )


def parity(measurement: Measurement) -> str:
    """Outputs there against those here."""
    found = measurement.parity
    return str(found.parity) if found.parity else f"not compared: {printable(found.reason) or 'it was not asked for'}"


def session(measurement: Measurement) -> str:
    """Target and session options, as the processes were opened."""
    used = measurement.repetitions[0].session if measurement.repetitions else {}
    if "kernels" in used:
        cached = [f"weight cache {used['weight_cache']}"] if "weight_cache" in used else []
        options = [f"kernels {used['kernels']}", *cached]
    else:
        options = [f"graph optimisation {used['graph_optimization']}"] if "graph_optimization" in used else []
        if used.get("disabled_optimizers"):
            options.append(f"without {', '.join(map(str, used['disabled_optimizers']))}")
        entries = used.get("session_config")
        options += [f"{key}={value}" for key, value in entries.items()] if isinstance(entries, dict) else []
        options += [f"no {name.replace('_', ' ')}" for name in ("arena", "memory_pattern") if used.get(name) is False]
    return printable(f"target {measurement.job.target.name}{': ' if options else ''}{'; '.join(options)}")
