"""States of the machine during a run → taints: why its numbers are not those of the undisturbed machine.

What is unknown taints nothing; the states say why it is unknown. docs/measuring.md has the reasons for the thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from edgeks.bench.stream import RunnerStream, State
from edgeks.wording import counted

LEAST_CLOCK = 0.95  # of the nominal clock
SHARE_OF_SLOW_READINGS = 0.1
MOST_CELSIUS = 80.0  # Arm boards slow down from here
MOST_OF_OTHERS = 0.05  # of the capacity of the cores that the process may run on
MOST_STEAL = 0.01
LEAST_CPU_SECONDS = 0.03  # three ticks of the kernel's clock: less cannot be told from none
MOST_SWAPPED_PAGES = 64
MOST_MAJOR_FAULTS = 10

# Bits of the Raspberry Pi's get_throttled: now. The same 16 higher: since boot.
THROTTLED = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "slowed down by temperature"}


def taints(stream: RunnerStream) -> tuple[str, ...]:
    """Each reason once, or nothing; nothing as well for a stream without states."""
    found: list[str] = []
    if stream.warmup and stream.warmup.stable is False:
        found.append(f"latency was not stable after {stream.warmup.seconds:.1f} s of warm-up")
    if stream.states:
        found.extend(_of_states(stream.states, stream.facts))
    return tuple(found)


def summarised(processes: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Taints of each process → one text for each kind: in how many, and the one with the largest number."""
    kinds: dict[str, list[str]] = {}
    for found in processes:
        for text in found:
            kinds.setdefault(re.sub(r"[\d.]+", "#", text), []).append(text)
    of = counted(len(processes), "process", "processes")
    return tuple(f"in {len(texts)} of {of}: {max(texts, key=_numbers)}" for texts in kinds.values())


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def _of_states(states: Sequence[State], facts: dict[str, Any]) -> Iterator[str]:
    is_arm = str(facts.get("machine", "")).startswith(("aarch64", "arm"))
    throttled = _throttled([state.throttled for state in states])
    if throttled:
        yield f"the board was slowed down: {', '.join(throttled)}; see to its power supply and cooling"
    slow = _slow_clock([state for state in states if state.moment != "before"])
    if slow:
        yield f"{slow}: set the performance governor, or let the board cool"
    hottest = max((state.temperature_c for state in states if state.temperature_c is not None), default=0.0)
    if is_arm and hottest >= MOST_CELSIUS:
        yield f"it was {hottest:.0f} °C hot; from {MOST_CELSIUS:.0f} °C boards slow down"
    capacity = states[-1].seconds * states[-1].allowed_cores
    for seconds, most, what in (
        (_sum(states, "others_cpu_s"), MOST_OF_OTHERS, "other processes used"),
        (_sum(states, "steal_cpu_s"), MOST_STEAL, "the hypervisor took"),
    ):
        if capacity and seconds > max(most * capacity, LEAST_CPU_SECONDS):
            yield f"{what} {seconds / capacity:.0%} of the CPU; at most {most:.0%} is undisturbed"
    swapped = int(_sum(states, "swap_in_pages") + _sum(states, "swap_out_pages"))
    if swapped > MOST_SWAPPED_PAGES:
        yield f"the system swapped {swapped} pages"
    faults = int(_sum(states, "major_faults"))
    if faults > MOST_MAJOR_FAULTS:
        yield f"{faults} pages were read from the disk during the runs: too little RAM"


def _throttled(readings: Sequence[int | None]) -> list[str]:
    """Names of the bits that were on, or that turned on since boot while it ran."""
    known = [bits for bits in readings if bits is not None]
    seen = 0
    for bits in known:
        seen |= bits & 0xF
    for before, after in pairwise(known):
        seen |= (after & ~before) >> 16 & 0xF
    return [name for bit, name in THROTTLED.items() if seen >> bit & 1]


def _slow_clock(states: Sequence[State]) -> str:
    """Core and clock at its slowest, where a tenth of the readings or more have a core in use below its clock."""
    readings: list[tuple[float, float, int]] = []
    for state in states:
        if state.clock_mhz and state.nominal_clock_mhz:
            readings.append(min(zip(state.clock_mhz, state.nominal_clock_mhz, state.cores, strict=True), key=_ratio))
    slow = [reading for reading in readings if _ratio(reading) < LEAST_CLOCK]
    if not slow or len(slow) < SHARE_OF_SLOW_READINGS * len(readings):
        return ""
    clock, nominal, core = min(slow, key=_ratio)
    return f"core {core} ran at {clock:.0f} of {nominal:.0f} MHz"


def _ratio(reading: tuple[float, float, int]) -> float:
    clock, nominal, _ = reading
    return clock / nominal


def _sum(states: Sequence[State], name: str) -> float:
    return sum(getattr(state, name) or 0 for state in states)
