"""Reading a TOML file key by key, so that every mistake is reported with file, key, value found and legal values."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeks.errors import ConfigError

MAX_TOML_BYTES = 100_000
MAX_LINE = 1000  # tomllib keeps every beginning of a key a.b.c…, so a long one takes its length squared in memory


def read_toml(path: Path) -> dict[str, Any]:
    """File → its tables.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    try:
        if path.stat().st_size > MAX_TOML_BYTES:
            raise ConfigError(
                f"{path}: larger than {MAX_TOML_BYTES} bytes: not a TOML file of targets, recipes or boards"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text, so not a TOML file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if any(len(line) > MAX_LINE for line in text.splitlines()):
        raise ConfigError(f"{path}: has a line of more than {MAX_LINE} characters; break lists and texts into lines")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: malformed TOML: {error}") from error


def unknown_key(origin: str, key: str, legal: Sequence[str]) -> ConfigError:
    """The error that `key` (`train.epoch`) of `origin` is not `legal`; the name spelt most like it comes first."""
    near = difflib.get_close_matches(key.rpartition(".")[2], legal, n=1, cutoff=0.7)
    nearest = f"nearest: {near[0]}; " if near else ""
    return ConfigError(f"{origin}: unknown key {key!r}; {nearest}legal keys here: {', '.join(legal) or 'none'}")


class Table:
    """One TOML table. Take every key that is known, then call `finish`: what is left over is an error.

    `origins` says of a table that was merged which file each key (`train.epochs`) is from, where it is not `path`.
    """

    def __init__(
        self, data: dict[str, Any], path: Path, name: str = "", origins: Mapping[str, str] | None = None
    ) -> None:
        self._left = dict(data)
        self._known: list[str] = []
        self._path = path
        self._name = name
        self._origins = origins or {}

    @classmethod
    def read(cls, path: Path) -> Table:
        """File → its root table.

        Raises:
            ConfigError: the file cannot be read, or is not TOML.
        """
        return cls(read_toml(path), path)

    def origin(self, key: str) -> str:
        """The file, or the option, that `key` comes from."""
        return self._origins.get(self._full(key), str(self._path))

    def error(self, key: str, found: object, legal: str) -> ConfigError:
        """The error for a wrong value of `key`."""
        return ConfigError(f"{self.origin(key)}: key {self._full(key)!r}: found {found!r}; legal: {legal}")

    def text(self, key: str, default: str | None = None, choices: Sequence[str] = ()) -> str:
        """A string, one of `choices` where those are given."""
        value = self._take(key, default, ", ".join(choices) if choices else "text")
        if not isinstance(value, str) or (choices and value not in choices):
            raise self.error(key, value, ", ".join(choices) if choices else "text")
        return value

    def integer(self, key: str, default: int | None = None, minimum: int = 0, maximum: int = 2**62) -> int:
        """A whole number within bounds."""
        value = self._take(key, default, "a whole number")
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            top = f" to {maximum}" if maximum < 2**62 else " or more"
            raise self.error(key, value, f"a whole number, {minimum}{top}")
        return value

    def number(self, key: str, default: float | None = None, minimum: float = 0.0, maximum: float = 1e12) -> float:
        """A number within bounds."""
        value = self._take(key, default, "a number")
        if not isinstance(value, int | float) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise self.error(key, value, f"a number from {minimum:g} to {maximum:g}")
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._take(key, default, "true or false")
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def texts(self, key: str, default: Sequence[str] = (), choices: Sequence[str] = ()) -> tuple[str, ...]:
        """A list of strings, each one of `choices` where those are given."""
        value = self._take(key, list(default), "a list of text")
        legal = f"a list of text{', each one of ' + ', '.join(choices) if choices else ''}"
        if not isinstance(value, list) or not all(isinstance(v, str) and (not choices or v in choices) for v in value):
            raise self.error(key, value, legal)
        return tuple(value)

    def integers(
        self, key: str, default: Sequence[int] | None = None, minimum: int = 0, maximum: int = 2**62
    ) -> tuple[int, ...]:
        """A list of whole numbers within bounds."""
        legal = f"a list of whole numbers, each {minimum} to {maximum}"
        value = self._take(key, None if default is None else list(default), legal)
        whole = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        if not isinstance(value, list) or not whole or not all(minimum <= v <= maximum for v in value):
            raise self.error(key, value, legal)
        return tuple(value)

    def tables(self, key: str) -> list[Table]:
        """A list of tables (`[[key]]`); an absent one reads as empty."""
        value = self._take(key, [], "a list of tables")
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.error(key, value, f"tables, each after [[{self._full(key)}]]")
        origins = {f"{self._full(key)}[{i}]": self.origin(key) for i in range(len(value))}
        return [Table(v, Path(o), name) for v, (name, o) in zip(value, origins.items(), strict=True)]

    def table(self, key: str) -> Table:
        """A sub-table; an absent one reads as empty."""
        value = self._take(key, {}, "a table")
        if not isinstance(value, dict):
            raise self.error(key, value, "a table")
        return Table(value, self._path, self._full(key), self._origins)

    def scalars(self) -> dict[str, str | int | float | bool]:
        """All keys that are left, each of which must hold one plain value."""
        for key, value in self._left.items():
            if not isinstance(value, str | int | float | bool):
                raise self.error(key, value, "text, a number, true or false")
        found, self._left = self._left, {}
        return found

    def values(self) -> dict[str, Any]:
        """All keys that are left as they are, for a reader that checks them itself."""
        found, self._left = self._left, {}
        return found

    def has(self, key: str) -> bool:
        """Whether `key` is present and not yet taken; it is a legal key either way."""
        self._know(key)
        return key in self._left

    def finish(self) -> None:
        """Reject every key that was not taken.

        Raises:
            ConfigError: naming the first unknown key, and the keys that are legal there.
        """
        if self._left:
            key = next(iter(self._left))
            raise unknown_key(self.origin(key), self._full(key), self._known)

    def _full(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _know(self, key: str) -> None:
        if key not in self._known:
            self._known.append(key)

    def _take(self, key: str, default: object, legal: str) -> object:
        self._know(key)
        value = self._left.pop(key, default)
        if value is None:
            raise ConfigError(f"{self._path}: key {self._full(key)!r} is missing; legal: {legal}")
        return value
