"""A board as the user names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """One board.

    `name` is what tables, errors and records call it; `destination` what ssh takes: an alias of ~/.ssh/config,
    user@host or ssh://user@host:port. `options` are further words for ssh (`-o`, `Port=2222`, `-F`, `config`, …).
    `folder` is where edgeks keeps what it puts on the board (default: ${XDG_CACHE_HOME:-~/.cache}/edgeks/board there:
    a machine may be its own board, and ~/.cache/edgeks keeps what the host fetched), `python` an interpreter
    there that has numpy and the runtime (default: edgeks' own environment, then what the board has). `is_emulated`:
    wall time means nothing on it.
    """

    name: str
    destination: str
    options: tuple[str, ...] = ()
    folder: str | None = None
    python: str | None = None
    is_emulated: bool = False
