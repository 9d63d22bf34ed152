"""Budgets: what flash and RAM there is, and whether a model fits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgeks.errors import ConfigError
from edgeks.target import Target

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits in bytes, None: none. `name` says whose they are, such as a target's name."""

    name: str
    flash_bytes: int | None
    ram_bytes: int | None

    @classmethod
    def of(cls, target: Target | None, flash: int | None, ram: int | None) -> Budgets | None:
        """A target's budgets, with `flash` and `ram` in their place where given; None where nothing is limited."""
        if target is not None:
            flash = target.flash_budget_bytes if flash is None else flash
            ram = target.ram_budget_bytes if ram is None else ram
        return None if flash is None and ram is None else cls(target.name if target else "the budget", flash, ram)


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """One budget. `needed_bytes` is None where it could not be told, `budget_bytes` where there is none.

    `remark` says what the need is, where that is not plain.
    """

    resource: Literal["flash", "ram"]
    needed_bytes: int | None
    budget_bytes: int | None
    remark: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether the need is within the budget; None where one of them is not known."""
        if self.needed_bytes is None or self.budget_bytes is None:
            return None
        return self.needed_bytes <= self.budget_bytes

    @property
    def over_bytes(self) -> int:
        """How far the need is above the budget; 0 where it is not."""
        return max(0, (self.needed_bytes or 0) - self.budget_bytes) if self.budget_bytes is not None else 0


def parse_size(text: str, option: str) -> int:
    """ "2MB", "512 kB", "1.5MiB", "2000000" → bytes. kB, MB and GB are powers of ten.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([a-zA-Z]{0,3})\s*", text, re.ASCII)
    if not found or found[2].lower() not in UNITS:
        raise ConfigError(f"{option} {text}: legal: a number and a unit, such as 512kB, 2MB or 1.5MiB")
    return int(float(found[1]) * UNITS[found[2].lower()])
