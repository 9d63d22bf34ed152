"""One program run to its end, its failure in one line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from edgeks.emulator.needs import SEARCHED
from edgeks.errors import BoardError

LAST_LINES = 2


def run_tool(command: Sequence[str], what: str, *, environment: Mapping[str, str] | None = None) -> None:
    """Run `command`, which makes `what`; it dies with this process.

    Raises:
        BoardError: it cannot be started, or ends with a code other than 0.
    """
    variables = {**os.environ, "PATH": SEARCHED, **(environment or {})}
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=variables, check=False,
        )  # fmt: skip
    except OSError as error:
        raise BoardError(f"{what}: {command[0]} cannot be started ({error.strerror})") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-LAST_LINES:]
        raise BoardError(f"{what}: {command[0]} ended with code {done.returncode}; {' '.join(words) or 'no message'}")
