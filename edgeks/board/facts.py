"""What is known of a board. A fact that could not be found out is `Unknown`, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

PACKAGES = ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime", "ml-dtypes")

# What `get_throttled` tells: bit n is now, bit n + 16 at any time since the board was switched on.
THROTTLE_BITS = ("under-voltage", "clock capped", "throttled", "too hot")


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not known, and why."""

    reason: str

    def __str__(self) -> str:
        return f"unknown: {self.reason}"


@dataclass(frozen=True, slots=True)
class Libc:
    """The C library that programs on the board are linked with: wheels are made for one."""

    name: Literal["glibc", "musl"]
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} {self.version[0]}.{self.version[1]}"


@dataclass(frozen=True, slots=True)
class Throttle:
    """Raspberry Pi's `get_throttled`, decoded: what holds now, and what held at any time since it was switched on."""

    bits: int

    @property
    def now(self) -> tuple[str, ...]:
        """Of THROTTLE_BITS."""
        return tuple(word for bit, word in enumerate(THROTTLE_BITS) if self.bits >> bit & 1)

    @property
    def since_boot(self) -> tuple[str, ...]:
        """Of THROTTLE_BITS; what holds now is among them."""
        return tuple(word for bit, word in enumerate(THROTTLE_BITS) if self.bits >> bit + 16 & 1)


@dataclass(frozen=True, slots=True)
class BoardPython:
    """One interpreter on the board. `packages`: name → version of those of PACKAGES that it finds.

    `machine` is the platform that its wheels must be for (aarch64, armv7l, x86_64, …), which a 32-bit Python under a
    64-bit kernel tells apart from `uname -m`. `is_ours`: of an environment that edgeks made.
    """

    path: str
    version: tuple[int, int, int]
    machine: str
    packages: Mapping[str, str]
    has_venv: bool
    has_ensurepip: bool
    has_pip: bool
    is_ours: bool

    @property
    def name(self) -> str:
        """As people say it: Python 3.11.2."""
        return f"Python {'.'.join(map(str, self.version))}"


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """One reading of a board. Bytes, °C, MHz, seconds; `load` is the mean over a minute.

    `machine` is the kernel's (`uname -m`), `userland` what programs there are built for; they differ on a 32-bit system
    under a 64-bit kernel. `clock_off_s`: how far the board's clock is ahead of this machine's. `index_reached`: the
    host name of the package index that answered the board.
    """

    model: str | Unknown
    os: str | Unknown
    kernel: str | Unknown
    machine: str | Unknown
    userland: str | Unknown
    libc: Libc | Unknown
    cpu: str | Unknown
    cores: int | Unknown
    features: tuple[str, ...] | Unknown
    governor: str | Unknown
    clock_mhz: float | Unknown
    clock_range_mhz: tuple[float, float] | Unknown
    temperature_c: float | Unknown
    throttle: Throttle | Unknown
    ram_bytes: int | Unknown
    ram_available_bytes: int | Unknown
    swap_bytes: int | Unknown
    swap_used_bytes: int | Unknown
    folder: str | Unknown
    folder_writable: bool | Unknown
    disk_free_bytes: int | Unknown
    uptime_s: float | Unknown
    load: float | Unknown
    clock_off_s: float | Unknown
    index_reached: str | Unknown
    pythons: tuple[BoardPython, ...]

    @property
    def lacks_atomics(self) -> bool:
        """Whether it is known to be an ARMv8.0 core (Cortex-A53, A72), on which LiteRT's CompiledModel dies."""
        known = isinstance(self.features, tuple) and bool(self.features) and self.userland == "aarch64"
        return known and "atomics" not in self.features  # type: ignore[operator]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, text and lists; a fact that is not known is {"unknown": why}."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(fact: object) -> object:
    if isinstance(fact, Unknown):
        return {"unknown": fact.reason}
    if isinstance(fact, Libc):
        return {"name": fact.name, "version": ".".join(map(str, fact.version))}
    if isinstance(fact, Throttle):
        return {"bits": fact.bits, "now": list(fact.now), "since_boot": list(fact.since_boot)}
    if isinstance(fact, BoardPython):
        return {**asdict(fact), "version": ".".join(map(str, fact.version)), "packages": dict(fact.packages)}
    return [_plain(one) for one in fact] if isinstance(fact, tuple) else fact
