"""`python -m edgeks.emulator`: build the emulated board; `--install-needs` installs the programs for it first."""

from __future__ import annotations

import sys

from edgeks.emulator.image import build
from edgeks.emulator.needs import install_needs
from edgeks.errors import EdgeksError


def main(arguments: list[str]) -> int:
    """Exit code 0 when the board is there."""
    if arguments not in ([], ["--install-needs"]):
        sys.stderr.write("usage: python -m edgeks.emulator [--install-needs]\n")
        return 2
    try:
        if arguments:
            install_needs()
        image = build(on_line=lambda line: print(line, flush=True))  # noqa: T201
    except EdgeksError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    print(f"emulated board: {image.folder}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
