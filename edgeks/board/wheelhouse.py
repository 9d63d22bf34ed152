"""Wheels for a board, fetched by this machine: for boards without internet."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from edgeks.board.facts import BoardPython, Libc
from edgeks.errors import BoardError

SECONDS = 900
RETRIES = 2  # without any, pip does not say that there is no network, but that there is no such version
NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "ConnectTimeout",
    "connection broken",
    "CERTIFICATE_VERIFY_FAILED",
    "Read timed out",
    "Network is unreachable",
    "ProxyError",
    "Max retries exceeded",
)


def default_wheelhouse() -> Path:
    """Where fetched wheels are kept: ${XDG_CACHE_HOME:-~/.cache}/edgeks/wheels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeks" / "wheels"


def fetch_wheels(
    pins: Sequence[tuple[str, str]], python: BoardPython, libc: Libc, wheelhouse: Path
) -> tuple[Path, ...]:
    """The wheel of every (distribution, version) for the board's Python, from `wheelhouse` or else into it.

    The package index is asked only where `wheelhouse` lacks one. Nothing else is put there.

    Raises:
        BoardError: there is no such wheel, no network, or no pip on this machine.
    """
    try:
        wheelhouse.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgeks_", dir=wheelhouse) as folder:
            command = [sys.executable, "-m", "pip", *_pip_words(pins, python, libc, folder, wheelhouse)]
            if _pip([*command, "--no-index"]) is not None:
                fault = _pip(command)
                if fault is not None:
                    raise BoardError(_explain(fault, pins, python, wheelhouse))
            found = []
            for path in sorted(Path(folder).iterdir()):
                kept = wheelhouse / path.name
                path.replace(kept)
                found.append(kept)
    except OSError as error:
        raise BoardError(
            f"{wheelhouse}: wheels cannot be kept there ({error.strerror}); name a folder: --wheels DIR"
        ) from error
    return tuple(found)


def pip_archive(folder: Path) -> Path:
    """This machine's pip as one file that Python can run (`python pip.zip/pip …`), written into `folder`.

    A board that has no pip (Debian without python3-pip and python3-venv) needs no other.

    Raises:
        BoardError: this machine has no pip.
    """
    found = find_spec("pip")
    if found is None or found.origin is None:
        raise BoardError(_NO_PIP)
    source = Path(found.origin).parent
    archive = folder / "pip.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.suffix not in {".pyc", ".exe"}:
                made.write(path, Path("pip") / path.relative_to(source))
    return archive


_NO_PIP = f"this Python ({sys.executable}) has no pip to fetch packages with; install it: python -m ensurepip"


def platform_tags(machine: str, libc: Libc) -> tuple[str, ...]:
    """The wheel platforms that a board takes, newest first: manylinux_2_36_aarch64, …, and their older names."""
    lowest = 5 if machine in {"x86_64", "i686"} else 17
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(libc.version[1], lowest - 1, -1)]
    return (*tags, f"manylinux2014_{machine}", f"linux_{machine}")


def _pip_words(
    pins: Sequence[tuple[str, str]], python: BoardPython, libc: Libc, folder: str, wheelhouse: Path
) -> list[str]:
    words = ["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    words += ["--retries", str(RETRIES)]
    words += ["--dest", folder, "--find-links", str(wheelhouse), "--implementation", "cp"]
    words += ["--python-version", ".".join(map(str, python.version[:2]))]
    for tag in platform_tags(python.machine, libc):
        words += ["--platform", tag]
    return [*words, *(f"{name}=={version}" for name, version in pins)]


def _pip(command: list[str]) -> str | None:
    """Run it: None, or what it complained of."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"ERROR: no answer within {SECONDS} s"
    return None if done.returncode == 0 else done.stderr or done.stdout or f"ERROR: pip ended with {done.returncode}"


def _explain(fault: str, pins: Sequence[tuple[str, str]], python: BoardPython, wheelhouse: Path) -> str:
    wheels = ", ".join(f"{name} {version}" for name, version in pins)
    what = f"wheels of {wheels} for {python.name} on {python.machine}"
    if "No module named pip" in fault:
        return _NO_PIP
    if any(word in fault for word in NO_NETWORK):
        return (
            f"{what}: this machine has no way to its package index; fetch them elsewhere (pip download --no-deps "
            f"--platform …) and put them into {wheelhouse}"
        )
    if "No space left" in fault:
        return f"{wheelhouse}: no space left for {what}"
    hint = " (its NumPy is at piwheels.org: put the wheel there)" if python.machine == "armv7l" else ""
    return f"{what}: {last_words(fault)}; nor is it in {wheelhouse}{hint}"


def last_words(complaint: str) -> str:
    """Of what pip says, the line that tells: the last that begins with ERROR, else the last."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1][:300]
