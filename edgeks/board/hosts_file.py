"""Boards by name: a TOML file of hosts, and what a user writes after `--host`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgeks.board.host import Host
from edgeks.errors import BoardError, ConfigError
from edgeks.toml_table import Table

# Records and plots are files named after it.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def parse_host(text: str) -> Host:
    """`pi@raspberrypi.local`, an alias of ~/.ssh/config, or `ssh://pi@host:port` → a board of that name.

    Raises:
        BoardError: it is not what ssh takes for a destination.
    """
    return Host(text.strip(), text.strip())


def load_hosts(path: Path) -> tuple[Host, ...]:
    """A TOML file with one table per board → the boards, in the file's order.

    A table's name is the board's. Keys: `destination`; and where wanted `options` (words for ssh), `folder`, `python`
    (paths on the board), `emulated`.

    Raises:
        ConfigError: the file cannot be read, names no board, or a key or value is wrong; two boards are the same one.
    """
    tables = Table.read(path).values()
    if not tables:
        raise ConfigError(f'{path}: names no board; write one as [name] with destination = "user@host"')
    hosts = tuple(_read_host(path, name, data) for name, data in tables.items())
    try:
        require_distinct(hosts)
    except BoardError as error:
        raise ConfigError(f"{path}: {error}") from error
    return hosts


def require_distinct(hosts: Sequence[Host]) -> None:
    """Two runs at once on one board would disturb each other.

    Raises:
        BoardError: two hosts have one name, or are reached in the same way.
    """
    names: set[str] = set()
    ways: dict[tuple[str, tuple[str, ...]], str] = {}
    for host in hosts:
        if host.name in names:
            raise BoardError(f"two boards are called {host.name!r}; name each board once")
        names.add(host.name)
        way = (host.destination, host.options)
        if way in ways:
            raise BoardError(
                f"{ways[way]!r} and {host.name!r} are the same board, {host.destination!r}; name each board once"
            )
        ways[way] = host.name


def _read_host(path: Path, name: str, data: object) -> Host:
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: key {name!r}: found {data!r}; legal: a table per board, [name]")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: table {name!r}: a board's name has letters, digits, '.', '_' and '-', at most 64 of them, and "
            "begins with a letter or digit"
        )
    table = Table(data, path, name)
    destination = table.text("destination")
    options = table.texts("options")
    folder = _remote_path(table, "folder")
    python = _remote_path(table, "python")
    is_emulated = table.boolean("emulated", default=False)
    table.finish()
    try:
        return Host(name, destination, options, folder, python, is_emulated)
    except BoardError as error:
        raise ConfigError(f"{path}: table {name!r}: {error}") from error


def _remote_path(table: Table, key: str) -> str | None:
    """A path on the board: absolute, or below the home folder there."""
    if not table.has(key):
        return None
    path = table.text(key)
    if not path.startswith(("/", "~/")) or "\0" in path:
        raise table.error(key, path, "a path on the board that begins with / or ~/")
    return path
