"""BoardFacts → checks: what is well, what makes figures worse than the board, what makes measuring impossible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeks.board.facts import BoardFacts, BoardPython, Unknown
from edgeks.board.wheels import DISTRIBUTIONS, OLDEST_PYTHON, Installable, installable
from edgeks.runtime_profile import COMPILED
from edgeks.wording import counted

Status = Literal["ok", "warn", "fail"]

WARM_C, HOT_C = 70.0, 80.0  # a Pi lowers its clock from 80 °C on
LITTLE_RAM, TOO_LITTLE_RAM = 256 << 20, 64 << 20
LITTLE_DISK, TOO_LITTLE_DISK = 500 << 20, 50 << 20  # an environment with one runtime takes up to 130 MB
BUSY_LOAD = 0.5
CLOCK_OFF_S = 24 * 3600.0
RUNTIMES = tuple(runtime for runtime in DISTRIBUTIONS if runtime != COMPILED)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `advice` is what to do about it, empty where nothing needs doing."""

    name: str
    status: Status
    found: str
    advice: str = ""


def check(facts: BoardFacts, runtimes: tuple[str, ...] = ()) -> tuple[Check, ...]:
    """Every check in the order of the report; `runtimes` are those that must be there (none: at least one of all)."""
    return (
        _system(facts),
        _userland(facts),
        _cpu(facts),
        _governor(facts),
        _temperature(facts),
        _throttling(facts),
        _load(facts),
        _ram(facts),
        _swap(facts),
        _folder(facts),
        _disk(facts),
        _python(facts),
        *_runtimes(facts, runtimes),
        _clock(facts),
        _index(facts),
    )


def worst(checks: tuple[Check, ...]) -> Status:
    """The status of all together."""
    found = {one.status for one in checks}
    return "fail" if "fail" in found else "warn" if "warn" in found else "ok"


def _system(facts: BoardFacts) -> Check:
    words = [str(fact) for fact in (facts.model, facts.os, facts.kernel) if not isinstance(fact, Unknown)]
    return Check("system", "ok", ", ".join(words) or "unknown")


def _userland(facts: BoardFacts) -> Check:
    libc = facts.libc
    found = f"{facts.userland}, {libc}"
    if not isinstance(libc, Unknown) and libc.name == "musl":
        advice = (
            "no runtime has wheels for musl: use a Debian or Ubuntu system, or build the runtime and name python = …"
        )
        return Check("ABI", "warn", found, advice)
    if isinstance(facts.userland, Unknown):
        return Check("ABI", "warn", found, "without it nobody knows which wheels to fetch; is this Linux?")
    if facts.userland in {"armv7l", "armv6l", "i686"}:
        if facts.machine in {"aarch64", "x86_64"}:
            found += f", kernel {facts.machine}"
        if facts.userland == "armv7l":
            advice = "32-bit: tflite-runtime only; on a 64-bit system the same board has every runtime and is faster"
        else:
            advice = "no runtime has wheels for it"
        return Check("ABI", "warn", found, advice)
    return Check("ABI", "ok", found)


def _cpu(facts: BoardFacts) -> Check:
    cores = "" if isinstance(facts.cores, Unknown) else f", {counted(facts.cores, 'core')}"
    found = f"{facts.cpu}{cores}"
    if facts.userland == "aarch64" and not isinstance(facts.features, Unknown):
        has = [word for word, name in (("dotprod", "asimddp"), ("i8mm", "i8mm")) if name in facts.features]
        found += f"; {', '.join(has) if has else 'no dotprod: int8 is 2.6 to 4 times slower than on newer cores'}"
    if facts.lacks_atomics:
        found += "; ARMv8.0: no weight cache (LiteRT's CompiledModel needs ARMv8.1)"
    return Check("CPU", "ok", found)


def _governor(facts: BoardFacts) -> Check:
    if isinstance(facts.governor, Unknown):
        return Check("clock", "ok", f"governor {facts.governor}")
    found = f"governor {facts.governor}"
    if not isinstance(facts.clock_mhz, Unknown):
        found += f", {facts.clock_mhz:,.0f} MHz now"
    if not isinstance(facts.clock_range_mhz, Unknown):
        low, high = facts.clock_range_mhz
        found += f", {low:,.0f} to {high:,.0f} MHz"
    if facts.governor == "performance":
        return Check("clock", "ok", found)
    advice = (
        "the clock varies while it measures: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/"
        "scaling_governor; costs power and heat when idle, holds until the next boot"
    )
    return Check("clock", "warn", found, advice)


def _temperature(facts: BoardFacts) -> Check:
    if isinstance(facts.temperature_c, Unknown):
        return Check("temperature", "ok", str(facts.temperature_c))
    found = f"{facts.temperature_c:.0f} °C"
    if facts.temperature_c >= HOT_C:
        return Check(
            "temperature", "fail", found, "at this heat it lowers its clock: let it cool, give it a heat sink or a fan"
        )
    if facts.temperature_c >= WARM_C:
        return Check(
            "temperature", "warn", found, f"near {HOT_C:.0f} °C, where it lowers its clock: a heat sink or a fan"
        )
    return Check("temperature", "ok", found)


def _throttling(facts: BoardFacts) -> Check:
    throttle = facts.throttle
    if isinstance(throttle, Unknown):
        return Check("throttling", "ok", str(throttle))
    reason = " and ".join(
        words
        for bit, words in (
            ("under-voltage", "a power supply or cable that holds 5 V (the board's own make is one)"),
            ("too hot", "cooling"),
        )
        if bit in throttle.now + throttle.since_boot or (bit == "too hot" and throttle.since_boot == ("throttled",))
    )
    advice = f"it needs {reason or 'cooling, or a better power supply'}"
    if throttle.now:
        return Check("throttling", "fail", f"now: {', '.join(throttle.now)}", advice)
    if throttle.since_boot:
        return Check("throttling", "warn", f"not now; since boot: {', '.join(throttle.since_boot)}", advice)
    return Check("throttling", "ok", "none since boot")


def _load(facts: BoardFacts) -> Check:
    if isinstance(facts.load, Unknown):
        return Check("load", "ok", str(facts.load))
    found = f"{facts.load:.2f}"
    if not isinstance(facts.uptime_s, Unknown):
        found += f", up {_span(facts.uptime_s)}"
    if facts.load >= BUSY_LOAD:
        return Check(
            "load", "warn", found, "something else is running there: look with top; after a boot wait a few minutes"
        )
    return Check("load", "ok", found)


def _ram(facts: BoardFacts) -> Check:
    free = facts.ram_available_bytes
    if isinstance(free, Unknown) or isinstance(facts.ram_bytes, Unknown):
        return Check("RAM", "ok", str(free))
    found = f"{_bytes(free)} available of {_bytes(facts.ram_bytes)}"
    if free < TOO_LITTLE_RAM:
        return Check(
            "RAM", "fail", found, "a Python with a runtime takes 40 to 60 MB before the model: stop what else runs"
        )
    if free < LITTLE_RAM:
        return Check("RAM", "warn", found, "large models will not fit: stop what else runs (a desktop takes 200 MB)")
    return Check("RAM", "ok", found)


def _swap(facts: BoardFacts) -> Check:
    used, total = facts.swap_used_bytes, facts.swap_bytes
    if isinstance(used, Unknown) or isinstance(total, Unknown):
        return Check("swap", "ok", str(used))
    if total == 0:
        return Check("swap", "ok", "none")
    found = f"{_bytes(used)} in use of {_bytes(total)}"
    if used > 1 << 20:
        return Check(
            "swap",
            "warn",
            found,
            "latency and RAM are not the model's own while it swaps: sudo swapoff -a, or free RAM",
        )
    return Check("swap", "ok", found)


def _folder(facts: BoardFacts) -> Check:
    if isinstance(facts.folder, Unknown):
        return Check("folder", "fail", str(facts.folder), "name one that can be written: folder = … in the hosts file")
    if isinstance(facts.folder_writable, Unknown) or not facts.folder_writable:
        why = facts.folder_writable.reason if isinstance(facts.folder_writable, Unknown) else "cannot be written"
        found = f"{facts.folder}: {why}"
        return Check("folder", "fail", found, "name one that can be written: folder = … in the hosts file")
    return Check("folder", "ok", f"{facts.folder}, writable")


def _disk(facts: BoardFacts) -> Check:
    free = facts.disk_free_bytes
    if isinstance(free, Unknown):
        return Check("disk", "ok", str(free))
    found = f"{_bytes(free)} free"
    has_any = any(_runtime_of(python, runtime) for python in facts.pythons for runtime in RUNTIMES)
    if free < TOO_LITTLE_DISK:
        return Check("disk", "fail", found, "models cannot be put there: make room, or folder = … on another disk")
    if free < LITTLE_DISK and not has_any:
        return Check("disk", "warn", found, "a runtime needs up to 130 MB: make room, or folder = … on another disk")
    return Check("disk", "ok", found)


def _python(facts: BoardFacts) -> Check:
    there = [python for python in facts.pythons if not python.is_ours]
    if not there:
        return Check(
            "Python", "fail", "none", "on Debian: sudo apt install python3; or name one: python = … in the hosts file"
        )
    found = ", ".join(f"{python.path} {'.'.join(map(str, python.version))}" for python in there)
    recent = [python for python in there if python.version >= (3, OLDEST_PYTHON, 0)]
    if not recent:
        return Check(
            "Python", "fail", found, f"the runner needs 3.{OLDEST_PYTHON} or later: a newer system, or python = …"
        )
    if not any(python.has_venv for python in recent):
        return Check("Python", "warn", found, "none has the module venv: sudo apt install python3-venv")
    return Check("Python", "ok", found)


def _runtimes(facts: BoardFacts, wanted: tuple[str, ...]) -> list[Check]:
    """All runtimes in one; and one for each that was asked for and is not there."""
    setup = "edgeks doctor --host … --setup"
    if isinstance(facts.index_reached, Unknown):
        setup += " --wheelhouse"
    has_any = False
    said, made = [], []
    for runtime in RUNTIMES:
        there = [(python, _runtime_of(python, runtime)) for python in facts.pythons]
        found = [
            f"{name} in {'edgeks’ environment' if python.is_ours else python.path}" for python, name in there if name
        ]
        has_any = has_any or bool(found)
        what = installable(facts, runtime)
        if found:
            state = ", ".join(dict.fromkeys(found))
        elif isinstance(what, Installable):
            state = f"{what.version} can be set up"
            if what.differs:
                state += f", other than here: {', '.join(what.differs)}"
        else:
            state = f"cannot be set up ({what.short})"
        said.append(f"{runtime} {state}")
        if not found and (runtime in wanted or (runtime == "litert" and COMPILED in wanted)):
            advice = f"{setup} --runtime {runtime}" if isinstance(what, Installable) else what.reason
            made.append(Check(runtime, "fail", "not there", advice))
    advice = "" if has_any or made else setup
    return [Check("runtimes", "fail" if advice else "ok", "; ".join(said), advice), *made]


def _runtime_of(python: BoardPython, runtime: str) -> str | None:
    """The version of it that the Python has, with a NumPy."""
    return python.packages.get(DISTRIBUTIONS[runtime][0]) if "numpy" in python.packages else None


def _clock(facts: BoardFacts) -> Check:
    if isinstance(facts.clock_off_s, Unknown):
        return Check("time", "ok", str(facts.clock_off_s))
    off = facts.clock_off_s
    if abs(off) < CLOCK_OFF_S:
        return Check("time", "ok", "set" if abs(off) < 60 else f"off by {_span(abs(off))}")
    found = f"{_span(abs(off))} {'ahead of' if off > 0 else 'behind'} this machine"
    return Check(
        "time", "warn", found, "certificates are refused (TLS): sudo timedatectl set-ntp true, or --wheelhouse"
    )


def _index(facts: BoardFacts) -> Check:
    if isinstance(facts.index_reached, Unknown):
        return Check("index", "ok", f"{facts.index_reached.reason}; the board is set up with --wheelhouse")
    return Check("index", "ok", f"{facts.index_reached} answers")


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
