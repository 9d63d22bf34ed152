"""Dataclasses ↔ what JSON can hold: fields are keys, tuples are lists, paths are text, numbers are finite.

What is read back is checked: a key that is missing and a value of a wrong type are named.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
SHOWN = 60
MOST = 1 << 63  # whole numbers of other programs have 64 bits


class PlainDataError(ValueError):
    """Data that is not of the type it should be: where, what was found, what is legal."""


def load_json(text: str | bytes) -> Any:
    """JSON text → plain data.

    Raises:
        ValueError: it is no JSON, is nested too deep, or holds a number that is not finite.
    """
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no finite number")
    return number


def to_plain(value: object) -> Any:
    """A dataclass, or anything that is made of dataclasses, tuples, mappings, paths, text and numbers → plain data."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(kind: type[T], data: Any, where: str = "", **given: Any) -> T:
    """Plain data → the dataclass `kind`. `given` are fields that are not read; keys that are no fields are left alone.

    Raises:
        PlainDataError: a key is missing, or a value has not the type of its field.
    """
    if not isinstance(data, dict):
        raise _wrong(where, data, "an object")
    read: dict[str, Any] = dict(given)
    for name, hint in _fields(kind).items():  # type: ignore[arg-type]
        if name in given:
            continue
        key = f"{where}.{name}" if where else name
        if name not in data:
            raise PlainDataError(f"{key} is missing")
        read[name] = read_value(hint, data[name], key)
    return kind(**read)


@cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def read_value(hint: Any, data: Any, where: str) -> Any:
    """Plain data → what a field of the type `hint` holds. Raises as `from_plain`."""
    origin = get_origin(hint)
    if hint is Any:
        return data
    if is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, data, where)
    if hint is Path and isinstance(data, str):
        return Path(data)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(hint), data, where)
    if origin is Literal:
        if isinstance(data, str) and data in get_args(hint):
            return data
        raise _wrong(where, data, ", ".join(map(str, get_args(hint))))
    if origin is tuple:
        return _tuple(get_args(hint), data, where)
    if origin in (dict, Mapping) and isinstance(data, dict):
        inner = get_args(hint)[1]
        return {key: read_value(inner, value, f"{where}.{key[:SHOWN]}") for key, value in data.items()}
    if hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        try:
            number = float(data)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    elif hint is int:
        if type(data) is int and -MOST <= data < MOST:
            return data
    elif isinstance(hint, type) and type(data) is hint:
        return data
    raise _wrong(where, data, NAMES.get(origin or hint, "a value of another type"))


NAMES: dict[Any, str] = {
    **{bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "text"},
    **{type(None): "null", dict: "an object", Mapping: "an object"},
}


def _one_of(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    """The first of the kinds that takes the data; what the last one of them says where none does."""
    if data is None and type(None) in kinds:
        return None
    found: PlainDataError | None = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return read_value(kind, data, where)
            except PlainDataError as error:
                found = error
    raise found or _wrong(where, data, "null")


def _tuple(kinds: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _wrong(where, data, "a list")
    if kinds[-1] is Ellipsis:
        return tuple(read_value(kinds[0], value, f"{where}[{index}]") for index, value in enumerate(data))
    if len(data) != len(kinds):
        raise _wrong(where, data, f"a list of {len(kinds)}")
    pairs = enumerate(zip(kinds, data, strict=True))
    return tuple(read_value(kind, value, f"{where}[{index}]") for index, (kind, value) in pairs)


def _wrong(where: str, found: Any, legal: str) -> PlainDataError:
    text = "an object" if isinstance(found, dict) else "a list" if isinstance(found, list) else repr(found)
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return PlainDataError(f"{where or 'it'} is {shown}; legal: {legal}")
