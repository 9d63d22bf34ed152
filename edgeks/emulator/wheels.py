"""The runtimes for arm64 Linux, as their makers publish them."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from edgeks.emulator.debian import PYTHON
from edgeks.emulator.tool import run_tool
from edgeks.errors import BoardError

# What Debian 12's C library, 2.36, can run. pip takes each name as it stands, not what is older than it.
GLIBC_MINOR = 36
PLATFORMS = (
    *(f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC_MINOR, 16, -1)),
    "manylinux2014_aarch64",
    "any",
)
# One folder each: tflite-runtime's last release takes numpy 1.
CURRENT, OLD = "current", "tflite-runtime"


def requirements() -> dict[str, tuple[str, ...]]:
    """Folder → what is in it: the versions that this environment has, so that both sides compute with the same."""
    own = tuple(f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "ai-edge-litert"))
    return {CURRENT: (*own, "numpy"), OLD: ("tflite-runtime==2.14.0", "numpy<2")}


def folder_of(runtime: str) -> str:
    """Name of the folder that has a runtime of the runner's."""
    return OLD if runtime == "tflite-runtime" else CURRENT


def fetch_wheels(wanted: tuple[str, ...], folder: Path) -> None:
    """Download wheels for the board and unpack them into `folder`.

    Raises:
        BoardError: pip is missing, the index cannot be reached, or has none for arm64.
    """
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
        "--only-binary=:all:", *platforms, "--python-version", PYTHON, "--implementation", "cp",
        "--target", str(folder), *wanted,
    ]  # fmt: skip
    try:
        run_tool(command, f"wheels for arm64 ({', '.join(wanted)})")
    except BoardError as error:
        if "No module named pip" not in str(error):
            raise
        raise BoardError(f"{sys.executable}: pip is missing; python -m ensurepip") from error
