"""The command line. A command parses, makes one call, prints; what is heavy is imported inside the command."""

from __future__ import annotations

from edgeks.cli.entry import main

__all__ = ["main"]
