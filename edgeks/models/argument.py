"""Checking the arguments of an architecture: a config comes from a file, and must not cost the machine."""

from __future__ import annotations

from collections.abc import Sequence

from edgeks.errors import CheckpointError

MAX_PARAMETERS = 250_000_000
MAX_CLASSES = 100_000
MAX_CHANNELS = 256


def whole_number(architecture: str, key: str, value: object, minimum: int, maximum: int) -> int:
    """`value`, when it is a whole number within the bounds.

    Raises:
        CheckpointError: naming architecture, key, value found and legal values.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise CheckpointError(f"{architecture}: {key} is {value!r}; legal: a whole number, {minimum} to {maximum}")
    return value


def whole_numbers(
    architecture: str, key: str, values: object, counts: tuple[int, int], *, minimum: int, maximum: int
) -> tuple[int, ...]:
    """`values` as a tuple, when it is a list of `counts[0]` to `counts[1]` whole numbers within the bounds."""
    if isinstance(values, str) or not isinstance(values, Sequence) or not counts[0] <= len(values) <= counts[1]:
        raise CheckpointError(
            f"{architecture}: {key} is {values!r}; legal: a list of {counts[0]} to {counts[1]} whole numbers"
        )
    return tuple(whole_number(architecture, f"{key}[{i}]", v, minimum, maximum) for i, v in enumerate(values))


def affordable(architecture: str, parameters: int) -> None:
    """Refuse a config before anything is allocated for it.

    Raises:
        CheckpointError: the network would have more than `MAX_PARAMETERS` parameters (1 GB in fp32).
    """
    if parameters > MAX_PARAMETERS:
        raise CheckpointError(
            f"{architecture}: this config makes {parameters:,} parameters; legal: up to {MAX_PARAMETERS:,}; "
            "choose a smaller width or depth"
        )
