"""A TOML file laid over its bases: tables merged key by key, and for every key the file that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeks.errors import ConfigError
from edgeks.toml_table import Table, read_toml

BASE = "base"
MAX_BASES = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """Nested tables, and where they come from: a file, or an option of the command line.

    With `adds` False its tables count only where a layer below has them too.
    """

    values: Mapping[str, Any]
    origin: str
    adds: bool = True


def read_layers(path: Path, find: Callable[[str, Path], Path | None]) -> list[Layer]:
    """TOML file → its layers, the outermost base first. `find(base, path)` gives the file that `path` calls `base`.

    Raises:
        ConfigError: a file that cannot be read, a base that is not there, bases in a circle, or too many of them.
    """
    layers: list[Layer] = []
    seen: list[Path] = []
    here: Path | None = path
    while here is not None:
        if here.resolve() in seen:
            raise ConfigError(f"{layers[-1].origin}: key 'base': {here} is this file, or has it as its base")
        if len(seen) > MAX_BASES:
            raise ConfigError(f"{path}: has more than {MAX_BASES} bases, one on another; legal: up to {MAX_BASES}")
        seen.append(here.resolve())
        values = read_toml(here)
        base = values.pop(BASE, None)
        layers.append(Layer(values, str(here)))
        found = None
        if base is not None:
            found = find(base, here) if isinstance(base, str) and base else None
            if found is None:
                raise ConfigError(
                    f"{here}: key 'base': found {base!r}; legal: the path of a .toml file from this one's folder, or "
                    "one of edgeks' own, such as 'quickstart.toml' (`edgeks recipes` lists them)"
                )
        here = found
    return layers[::-1]


def merged(layers: Sequence[Layer], path: Path) -> Table:
    """Layers, each over the ones before it → one table, whose errors name the file that the wrong key is in.

    Tables are merged key by key; everything else, a list too, is replaced. What no layer holds is missing in `path`.

    Raises:
        ConfigError: tables nested too deep to be meant.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        try:
            over = {key: value for key, value in layer.values.items() if layer.adds or key in values}
            _lay(values, over, "", layer.origin, origins)
        except RecursionError as error:
            raise ConfigError(f"{layer.origin}: has tables within tables without end") from error
    return Table(values, path, origins=origins)


def assignment(key: str, value: object, origin: str) -> Layer:
    """`train.epochs`, 3 → the layer that sets it.

    Raises:
        ConfigError: a part of the key is empty.
    """
    parts = key.split(".")
    if not all(parts):
        raise ConfigError(f"{origin}: found the key {key!r}; legal: a key of a recipe, such as train.epochs")
    for part in reversed(parts):
        value = {part: value}
    return Layer(value, origin)  # type: ignore[arg-type]  # a dict: there is at least one part


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables → what is no table, by its whole key: `train.epochs`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _lay(values: dict[str, Any], over: Mapping[str, Any], prefix: str, origin: str, origins: dict[str, str]) -> None:
    for key, value in over.items():
        full = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if not isinstance(values.get(key), dict):
                values[key] = {}
                origins[full] = origin
            _lay(values[key], value, f"{full}.", origin, origins)
        else:
            values[key] = value
            origins[full] = origin
