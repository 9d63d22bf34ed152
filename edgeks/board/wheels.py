"""Which wheels of the runtimes exist: for which machine, C library and Python, and in which versions.

The table is what the package index has, and a test holds it against it. What is installed on a board has this machine's
versions wherever a wheel of them exists there, so that a difference in the outputs is not one between versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from edgeks.board.facts import BoardFacts, BoardPython, Libc, Unknown
from edgeks.runtime_profile import COMPILED

OLDEST_PYTHON = 9  # the runner's
ARM_X86 = ("aarch64", "x86_64")

# Runtime → its distribution, the module that must be importable, and what else the module imports.
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime", ("numpy",)),
    "litert": ("ai-edge-litert", "ai_edge_litert.interpreter", ("numpy", "ml-dtypes")),
    COMPILED: ("ai-edge-litert", "ai_edge_litert.compiled_model", ("numpy", "ml-dtypes")),
    "tflite-runtime": ("tflite-runtime", "tflite_runtime.interpreter", ("numpy",)),
}
# tflite-runtime's last release, and the last NumPy that it was built for.
LAST_TFLITE_RUNTIME = "2.14.0"
LAST_NUMPY_1 = "1.26.4"


@dataclass(frozen=True, slots=True)
class Wheels:
    """Versions `first` to `last` (None: still made) have wheels for CPython 3.`pythons` with at least this glibc."""

    distribution: str
    machines: tuple[str, ...]
    pythons: tuple[int, int]
    first: str
    last: str | None
    glibc: tuple[int, int]


# None of them has wheels for musl. NumPy's for armv7l are at piwheels.org, which Raspberry Pi OS asks by itself.
WHEELS = (
    Wheels("onnxruntime", ARM_X86, (9, 9), "1.17.0", "1.19.2", (2, 27)),
    Wheels("onnxruntime", ARM_X86, (10, 10), "1.17.0", "1.23.2", (2, 27)),
    Wheels("onnxruntime", ARM_X86, (11, 13), "1.20.0", "1.28.0", (2, 27)),
    Wheels("onnxruntime", ARM_X86, (14, 14), "1.24.1", "1.28.0", (2, 27)),
    Wheels("onnxruntime", ARM_X86, (11, 14), "1.29.0", None, (2, 28)),
    Wheels("ai-edge-litert", ARM_X86, (9, 9), "2.0.2", "2.1.0", (2, 27)),
    Wheels("ai-edge-litert", ARM_X86, (10, 12), "2.0.2", None, (2, 27)),
    Wheels("ai-edge-litert", ARM_X86, (13, 13), "2.1.0", None, (2, 27)),
    Wheels("ai-edge-litert", ARM_X86, (14, 14), "2.1.5", None, (2, 27)),
    Wheels("tflite-runtime", ("x86_64",), (9, 11), "2.14.0", "2.14.0", (2, 17)),
    Wheels("tflite-runtime", ("aarch64", "armv7l"), (9, 11), "2.14.0", "2.14.0", (2, 34)),
    Wheels("tflite-runtime", ("aarch64", "armv7l"), (9, 10), "2.13.0", "2.13.0", (2, 17)),
    Wheels("numpy", ARM_X86, (9, 9), "1.26.0", "2.0.2", (2, 17)),
    Wheels("numpy", ARM_X86, (10, 12), "1.26.0", "2.2.6", (2, 17)),
    Wheels("numpy", ARM_X86, (13, 13), "2.1.0", "2.2.6", (2, 17)),
    Wheels("numpy", ARM_X86, (11, 11), "2.3.2", "2.4.6", (2, 27)),
    Wheels("numpy", ARM_X86, (12, 14), "2.3.2", None, (2, 27)),
    Wheels("numpy", ("armv7l",), (9, 11), "1.26.4", "1.26.4", (2, 17)),
    Wheels("ml-dtypes", ARM_X86, (9, 9), "0.5.3", "0.5.4", (2, 27)),
    Wheels("ml-dtypes", ARM_X86, (10, 14), "0.5.3", None, (2, 27)),
)


@dataclass(frozen=True, slots=True)
class Installable:
    """What to install into an environment of `python`: (distribution, version), the runtime first.

    `differs`: the host's versions that no wheel exists of there, as text; outputs may differ.
    """

    python: BoardPython
    libc: Libc
    pins: tuple[tuple[str, str], ...]
    differs: tuple[str, ...]

    @property
    def version(self) -> str:
        """The runtime's."""
        return self.pins[0][1]


@dataclass(frozen=True, slots=True)
class NotInstallable:
    """Why there is no wheel for the board, and what would help; `short` is for a table that says the rest elsewhere."""

    reason: str
    short: str


def installable(facts: BoardFacts, runtime: str) -> Installable | NotInstallable:
    """What to install on the board for `runtime`, for the Python that comes nearest to this machine's versions."""
    libc = facts.libc
    usable = [python for python in facts.pythons if not python.is_ours]
    if not usable:
        return NotInstallable("there is no python3; on Debian: sudo apt install python3", "no Python")
    recent = [python for python in usable if python.version[:2] >= (3, OLDEST_PYTHON)]
    if not recent:
        return NotInstallable(
            f"{usable[0].path} is {usable[0].name}; the runner needs 3.{OLDEST_PYTHON} or later: a newer system, or an "
            "interpreter of your own on the PATH",
            "Python is too old",
        )
    if isinstance(libc, Unknown):
        return NotInstallable(f"its C library is not known: {libc.reason}", "its C library is not known")
    tried = [_for_python(runtime, python, libc) for python in recent]
    found = [one for one in tried if isinstance(one, Installable)]
    if found:
        return min(found, key=lambda one: len(one.differs))
    return next(one for one in tried if isinstance(one, NotInstallable))


def _for_python(runtime: str, python: BoardPython, libc: Libc) -> Installable | NotInstallable:
    distribution, _, others = DISTRIBUTIONS[runtime]
    pins, differs = [], []
    for name in (distribution, *others):
        wanted = _wanted(name, runtime)
        found = _version(name, wanted, python, libc)
        if isinstance(found, NotInstallable):
            return found
        if found != wanted and wanted is not None:
            differs.append(f"{name} {found} (here {wanted})")
        pins.append((name, found))
    return Installable(python, libc, tuple(pins), tuple(differs))


def _wanted(distribution: str, runtime: str) -> str | None:
    """The version that this machine has; tflite-runtime needs none here."""
    if runtime == "tflite-runtime":
        return LAST_NUMPY_1 if distribution == "numpy" else LAST_TFLITE_RUNTIME
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _version(distribution: str, wanted: str | None, python: BoardPython, libc: Libc) -> str | NotInstallable:
    """`wanted` where there is a wheel of it, or the one nearest to it."""
    rows = [row for row in WHEELS if row.distribution == distribution]
    for_machine = [row for row in rows if python.machine in row.machines]
    if not for_machine:
        return NotInstallable(_wrong_machine(distribution, rows, python.machine), f"no wheels for {python.machine}")
    if libc.name != "glibc":
        reason = f"this system has {libc}, and the wheels of {distribution} are for glibc: a Debian or Ubuntu system"
        return NotInstallable(reason, f"no wheels for {libc.name}")
    for_python = [row for row in for_machine if row.pythons[0] <= python.version[1] <= row.pythons[1]]
    if not for_python:
        low, high = min(row.pythons[0] for row in for_machine), max(row.pythons[1] for row in for_machine)
        instead = "; runtime litert runs the same files" if distribution == "tflite-runtime" else ""
        return NotInstallable(
            f"{distribution} has wheels for Python 3.{low} to 3.{high} on {python.machine}, and {python.path} is "
            f"{python.name}{instead if python.machine in ARM_X86 else ''}",
            f"wheels are for Python 3.{low} to 3.{high}",
        )
    fitting = [row for row in for_python if row.glibc <= libc.version]
    if not fitting:
        needed = min(row.glibc for row in for_python)
        need = f"needs glibc {needed[0]}.{needed[1]}"
        return NotInstallable(f"{distribution} {need}, and this system has {libc}", need)
    newest = max(fitting, key=lambda row: _number(row.first))
    if wanted is None:
        return newest.last or newest.first
    number = _number(wanted)
    if any(_number(row.first) <= number and (row.last is None or number <= _number(row.last)) for row in fitting):
        return wanted
    below = [row for row in fitting if row.last is not None and _number(row.last) < number]
    if below:
        return max((row.last for row in below if row.last is not None), key=_number)
    return min((row.first for row in fitting), key=_number)


def _wrong_machine(distribution: str, rows: list[Wheels], machine: str) -> str:
    there = ", ".join(sorted({name for row in rows for name in row.machines}))
    advice = {
        "armv7l": "; a 64-bit system on the same board has all runtimes, a 32-bit one tflite-runtime only",
        "armv6l": "; no runtime has wheels for ARMv6 (Raspberry Pi 1 and Zero)",
        "i686": "; a 64-bit system has all runtimes",
    }.get(machine, "")
    return f"{distribution} has wheels for {there}, and this system is {machine}{advice}"


def _number(text: str) -> tuple[int, ...]:
    """1.31.1 → (1, 31, 1); what is not a number ends it."""
    numbers: list[int] = []
    for word in text.split("."):
        if not word.isdigit():
            break
        numbers.append(int(word))
    return tuple(numbers)
