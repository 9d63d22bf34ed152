"""A board → `BoardFacts`, by one script that needs no more than a POSIX shell there."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from edgeks.board.facts import BoardFacts, BoardPython, Libc, Throttle, Unknown
from edgeks.board.ssh import Connection, quote
from edgeks.errors import BoardError

SCRIPT = Path(__file__).with_name("probe.sh")
PYTHON_FACTS = Path(__file__).with_name("python_facts.py")
SECONDS = 90.0  # a Pi Zero starts a Python in 0.5 s, and the package index has 5 s to answer

# e_machine of an ELF header → the machine that its programs are for, as wheels call it.
ELF_MACHINES = {0x03: "i686", 0x28: "armv7l", 0x3E: "x86_64", 0xB7: "aarch64", 0xF3: "riscv64"}
DPKG_MACHINES = {"arm64": "aarch64", "armhf": "armv7l", "armel": "armv6l", "amd64": "x86_64", "i386": "i686"}

# CPU implementer and part of /proc/cpuinfo on Arm, where Linux gives no name.
ARM_CORES = {
    (0x41, 0xB76): "ARM1176",
    (0x41, 0xC05): "Cortex-A5",
    (0x41, 0xC07): "Cortex-A7",
    (0x41, 0xC09): "Cortex-A9",
    (0x41, 0xC0F): "Cortex-A15",
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2",
    (0x4E, 0x004): "Nvidia Carmel",
}

Fact = TypeVar("Fact")


class _NotSaid(ValueError):
    """The board's words do not hold the fact; the message is the reason."""


def probe(connection: Connection) -> BoardFacts:
    """Read what the board is and how it is doing: one command, nothing is written there.

    Raises:
        BoardError: the board cannot be reached, or has no POSIX shell.
    """
    before = time.time()
    found = connection.run(script(connection.host.folder, connection.host.python), timeout=SECONDS, check=False)
    try:
        return read_facts(found.stdout, (before + time.time()) / 2)
    except ValueError as error:
        said = " ".join(found.stderr.split())[-200:]
        raise BoardError(
            f"{connection.host.name}: what it is could not be read ({error}); is it a Linux board with a POSIX shell?"
            + (f" It said: {said}" if said else "")
        ) from error


def probe_here() -> BoardFacts:
    """The same of this machine, the Python of this process first.

    Raises:
        BoardError: there is no POSIX shell.
    """
    before = time.time()
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    try:
        found = subprocess.run(
            ["sh", "-c", script()],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            env={**os.environ, "PATH": own},
        )
        return read_facts(found.stdout, (before + time.time()) / 2)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise BoardError(f"this machine: what it is could not be read ({error}); doctor needs Linux and sh") from error


def script(folder: str | None = None, python: str | None = None) -> str:
    """The text for `sh -c`; `folder` and `python` as in `Host`."""
    ahead = f"folder={quote(folder or '')}\npython={quote(python or '')}\n"
    ahead += f"python_facts={quote(PYTHON_FACTS.read_text(encoding='utf-8'))}\n"
    return ahead + SCRIPT.read_text(encoding="utf-8")


def read_facts(output: str, now: float) -> BoardFacts:
    """What the script printed → facts; `now` is this machine's time in the middle of it, in seconds since 1970.

    Raises:
        ValueError: it is not what the script prints, or was cut off.
    """
    sections = _sections(output)
    if "end" not in sections:
        raise ValueError(f"the script stopped after {list(sections)[-1]!r}" if sections else "it printed nothing of it")
    machine = _fact(sections, "machine", str)
    pythons = _pythons(sections.get("pythons", ""))
    memory = _memory(sections)
    clocks = [_fact(sections, name, _mhz) for name in ("cpuinfo_min_freq", "cpuinfo_max_freq")]
    date = _fact(sections, "date", float)
    return BoardFacts(
        model=_fact(sections, "model", str),
        os=_fact(sections, "os_release", _os_name),
        kernel=_fact(sections, "kernel", str),
        machine=machine,
        userland=_userland(sections, machine, pythons),
        libc=_libc(sections),
        cpu=_fact(sections, "cpuinfo", _cpu),
        cores=_fact(sections, "cores", int),
        features=_fact(sections, "cpuinfo", _features),
        governor=_fact(sections, "governor", lambda text: ", ".join(text.split())),
        clock_mhz=_fact(sections, "scaling_cur_freq", _mhz),
        clock_range_mhz=_range(*clocks),
        temperature_c=_fact(sections, "thermal", _temperature),
        throttle=_fact(sections, "throttled", _throttle),
        ram_bytes=memory["MemTotal"],
        ram_available_bytes=memory["MemAvailable"],
        swap_bytes=memory["SwapTotal"],
        swap_used_bytes=_difference(memory["SwapTotal"], memory["SwapFree"]),
        folder=_fact(sections, "folder", str),
        folder_writable=_fact(sections, "writable", lambda text: text == "yes"),
        disk_free_bytes=_fact(sections, "df", _disk_free),
        uptime_s=_fact(sections, "uptime", lambda text: float(text.split()[0])),
        load=_fact(sections, "loadavg", lambda text: float(text.split()[0])),
        clock_off_s=date if isinstance(date, Unknown) else date - now,
        index_reached=_index(sections),
        pythons=pythons,
    )


def _sections(output: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    name = None
    for line in output.splitlines():
        if line.startswith("@@"):
            name = line[2:].strip()
            found[name] = []
        elif name is not None:
            found[name].append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def _fact(sections: Mapping[str, str], name: str, read: Callable[[str], Fact]) -> Fact | Unknown:
    text = sections.get(name, "")
    if text.startswith("!!"):
        return Unknown(text[2:].splitlines()[0])
    if not text:
        return Unknown(f"the board did not say its {name}")
    try:
        found = read(text)
        if isinstance(found, float) and not math.isfinite(found):
            raise ValueError
        return found
    except _NotSaid as error:
        return Unknown(str(error))
    except (ValueError, IndexError, KeyError, OverflowError):
        return Unknown(f"the board's words for {name} are not understood: {' '.join(text.split())[:80]!r}")


def _os_name(text: str) -> str:
    fields = dict(line.partition("=")[::2] for line in text.splitlines())
    name = fields.get("PRETTY_NAME") or fields["NAME"]
    return name.strip("\"'")


def _userland(sections: Mapping[str, str], machine: str | Unknown, pythons: tuple[BoardPython, ...]) -> str | Unknown:
    """What programs there are built for: the shell's own file says it, then the package manager, then Python."""
    words = sections.get("elf", "").split()
    header = [int(word, 16) for word in words if re.fullmatch("[0-9a-f]{2}", word)]
    known: str | None = None
    if len(header) >= 20 and header[:4] == [0x7F, 0x45, 0x4C, 0x46]:
        known = ELF_MACHINES.get(header[18] | header[19] << 8)
    known = known or DPKG_MACHINES.get(sections.get("dpkg", "")) or (pythons[0].machine if pythons else None)
    if known is None and isinstance(machine, str) and sections.get("bits") in {"32", "64"}:
        narrow = sections["bits"] == "32"
        known = {"aarch64": "armv7l", "x86_64": "i686"}.get(machine, machine) if narrow else machine
    if known is None:
        return Unknown("neither the ELF header of /bin/sh, dpkg, Python nor getconf says it")
    return "armv6l" if known == "armv7l" and machine == "armv6l" else known


def _libc(sections: Mapping[str, str]) -> Libc | Unknown:
    spoken = re.search(r'"libc": "([^"]*)"', sections.get("pythons", ""))
    text = sections.get("libc", "") + (f"\n{spoken[1]}" if spoken else "")
    version = re.search(r"(?:^glibc |^ldd .*\) |^Version )(\d+)\.(\d+)", text, re.MULTILINE)
    musl = "musl" in text or bool(sections.get("musl"))
    glibc = "glibc" in text.lower() or "gnu libc" in text.lower()
    if version and (musl or glibc):
        return Libc("glibc" if glibc else "musl", (int(version[1]), int(version[2])))
    if musl and not glibc:
        return Libc("musl", (1, 0))
    return Unknown("neither getconf, ldd nor Python says it")


def _cpu(text: str) -> str:
    lines = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())]
    names = [value for key, value in lines if key == "model name" and not value.startswith("ARMv")]
    makers = [int(value, 16) for key, value in lines if key == "CPU implementer"]
    parts = [int(value, 16) for key, value in lines if key == "CPU part"]
    if not names and makers:
        names = [ARM_CORES.get((makers[0], part), f"Arm core {makers[0]:#x}/{part:#x}") for part in sorted(parts)]
    names = names or [value for key, value in lines if key in {"Hardware", "model name"}]
    if not names:
        raise _NotSaid("/proc/cpuinfo names no processor")
    return " + ".join(dict.fromkeys(names))


def _features(text: str) -> tuple[str, ...]:
    """Those that every core has."""
    lines = [line.partition(":")[2].split() for line in text.splitlines() if line.startswith(("Features", "flags"))]
    if not lines:
        raise _NotSaid("/proc/cpuinfo lists no features")
    return tuple(sorted(set.intersection(*map(set, lines))))


def _mhz(text: str) -> float:
    return int(text) / 1000


def _range(low: float | Unknown, high: float | Unknown) -> tuple[float, float] | Unknown:
    if isinstance(low, Unknown):
        return low
    return high if isinstance(high, Unknown) else (low, high)


def _temperature(text: str) -> float:
    """The hottest of the CPU's sensors, or of all where none is named after it."""
    zones = [line.split(maxsplit=1) for line in text.splitlines()]
    readings = [
        (int(zone[0]) / 1000, zone[1] if len(zone) > 1 else "") for zone in zones if re.match(r"-?\d+", zone[0])
    ]
    own = [value for value, kind in readings if re.search("cpu|soc|pkg|core", kind, re.IGNORECASE)]
    if not readings:
        raise _NotSaid("the sensors of /sys/class/thermal cannot be read")
    return max(own or [value for value, _ in readings])


def _throttle(text: str) -> Throttle:
    """`throttled=0x50005` of vcgencmd, or the bare hexadecimal number of the firmware's file."""
    said = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", text)
    if said is None:
        raise _NotSaid(f"vcgencmd says {' '.join(text.split())[:80]!r}; is the user in the group video?")
    return Throttle(int(said[1], 16))


def _memory(sections: Mapping[str, str]) -> dict[str, int | Unknown]:
    def size_of(name: str) -> int | Unknown:
        return _fact(sections, "meminfo", lambda text: 1024 * int(lines(text)[name].split()[0]))

    def lines(text: str) -> dict[str, str]:
        return {key: value for key, _, value in (line.partition(":") for line in text.splitlines())}

    return {name: size_of(name) for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")}


def _difference(total: int | Unknown, rest: int | Unknown) -> int | Unknown:
    if isinstance(total, Unknown):
        return total
    return rest if isinstance(rest, Unknown) else total - rest


def _disk_free(text: str) -> int:
    """Line of `df -Pk`: device, 1024-blocks, used, available, capacity, mounted on; a device may have spaces."""
    figures = re.search(r"\s(\d+)\s+(\d+)\s+(-?\d+)\s+\d+%\s", text)
    if figures is None:
        raise _NotSaid(f"df says {' '.join(text.split())[:80]!r}")
    return 1024 * int(figures[3])


def _index(sections: Mapping[str, str]) -> str | Unknown:
    def reached(text: str) -> str:
        if not text.startswith("ok "):
            raise _NotSaid(f"{text}")
        return text[3:]

    return _fact(sections, "index", reached)


def _pythons(text: str) -> tuple[BoardPython, ...]:
    """One for each place where packages are; of several names of one interpreter the first counts."""
    found: dict[str, BoardPython] = {}
    for line in text.splitlines():
        try:
            said = json.loads(line)
            python = BoardPython(
                path=str(said["path"] or ""),
                version=(int(said["version"][0]), int(said["version"][1]), int(said["version"][2])),
                machine=str(said["machine"]),
                packages={str(name): str(version) for name, version in said["packages"].items()},
                has_venv=bool(said["has_venv"]),
                has_ensurepip=bool(said["has_ensurepip"]),
                has_pip=bool(said["has_pip"]),
                is_ours=bool(said["is_ours"]),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError):
            continue  # a wrapper script that prints something of its own
        if python.path:
            found.setdefault(f"{said.get('prefix')} {python.version}", python)
    return tuple(found.values())
