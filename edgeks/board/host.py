"""A board as the user names it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeks.errors import BoardError

# As OpenSSH itself refuses them since 9.6: a shell of the user's ProxyCommand may see them.
UNSAFE = re.compile(r"[\s\x00-\x1f\x7f'\"`$\\;&|<>(){}]")


@dataclass(frozen=True, slots=True)
class Host:
    """One board.

    `name` is what tables, errors and records call it; `destination` what ssh takes: an alias of ~/.ssh/config,
    user@host or ssh://user@host:port. `options` are further words for ssh (`-o`, `Port=2222`, `-F`, `config`, …).
    `folder` is where edgeks keeps what it puts on the board (default: ${XDG_CACHE_HOME:-~/.cache}/edgeks/board there:
    a machine may be its own board, and ~/.cache/edgeks keeps what the host fetched), `python` an interpreter there that
    has numpy and the runtime (default: edgeks' own environment, then what the board has). `is_emulated`: wall time
    means nothing on it.

    Raises:
        BoardError: `destination` or `options` is not what ssh takes for one.
    """

    name: str
    destination: str
    options: tuple[str, ...] = ()
    folder: str | None = None
    python: str | None = None
    is_emulated: bool = False

    def __post_init__(self) -> None:
        if not self.destination or self.destination.startswith("-") or UNSAFE.search(self.destination):
            raise BoardError(
                f"{self.destination!r} is no SSH destination; legal: an alias of ~/.ssh/config, user@host, "
                "ssh://user@host:port"
            )
        if self.options and not self.options[0].startswith("-"):
            raise BoardError(
                f"{self.options[0]!r} is no option of ssh; legal: words as on its command line, '-p', '2222'"
            )
