"""Which rows are within the budgets and right enough, which of them no other beats, and which is the one to use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeks.advice.rows import Row

Objective = Literal["latency", "ram", "flash"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "ram", "flash")

LEAST_TIE, MOST_TIE = 0.05, 0.25
RAM_TIE_BYTES = 100_000  # what a measurement repeats to
TOP1_LOSS = 0.01
FAR, NEAR = 1.5, 1.15  # after the first round, and after later ones


@dataclass(frozen=True, slots=True)
class Rules:
    """What a row is held against. `elsewhere`: the target is a board of another processor than this machine's.

    Then latency here says nothing of it, and the target's own session and form go first.
    """

    objective: Objective
    flash_budget: int | None
    ram_budget: int | None
    elsewhere: bool

    def ram_bytes(self, row: Row) -> int | None:
        """RAM that counts."""
        return row.ram_bytes(elsewhere=self.elsewhere)

    def fits(self, row: Row) -> bool:
        """Whether it is within both budgets; RAM that is not known is not."""
        return self.excess(row) <= 1

    def excess(self, row: Row) -> float:
        """The larger of need over budget, of flash and RAM: at most 1 where it fits."""
        ram = self.ram_bytes(row)
        flash_share = 0.0 if self.flash_budget is None else row.flash_bytes / max(self.flash_budget, 1)
        if self.ram_budget is None:
            return flash_share
        return max(flash_share, float("inf") if ram is None else ram / max(self.ram_budget, 1))


def best_agreement(rows: Sequence[Row]) -> float | None:
    """The highest top-1 agreement of all rows; None where there are no classes."""
    found = [row.parity.top1_agreement for row in rows if row.parity and row.parity.top1_agreement is not None]
    return max(found, default=None)


def keeps_parity(row: Row, best: float | None) -> bool:
    """Top-1 agreement within 1 % of the `best`, or the SQNR that the target asks; true where neither can be told."""
    if row.parity is None:
        return True
    form, target = row.candidate.artefact.form, row.candidate.artefact.target
    if row.parity.sqnr_db >= target.min_sqnr_db(form.precision if form else "int8"):
        return True
    agreement = row.parity.top1_agreement
    return best is not None and agreement is not None and agreement >= best - TOP1_LOSS


def tie_share(rows: Sequence[Row]) -> float:
    """Rows this much slower than the fastest count as equally fast: the fastest row's own spread, 5 to 25 %."""
    timed = [(row.p50_ms, row) for row in rows if row.p50_ms is not None]
    if not timed:
        return LEAST_TIE
    fastest = min(timed, key=lambda pair: pair[0])[1]
    return min(max(LEAST_TIE, fastest.spread or 0.0), MOST_TIE)


def ranked(rows: Sequence[Row], rules: Rules) -> list[Row]:
    """Rows that may be recommended (measured, fitting, right enough), the best first."""
    best = best_agreement(rows)
    eligible = [row for row in rows if row.status == "measured" and rules.fits(row) and keeps_parity(row, best)]
    eligible = [row for row in eligible if row.p50_ms is not None]
    return sorted(eligible, key=_order(eligible, rules))


def _order(rows: Sequence[Row], rules: Rules) -> Callable[[Row], tuple[float, ...]]:
    tie = tie_share(rows)
    fastest = min((row.p50_ms for row in rows if row.p50_ms is not None), default=0.0)

    def key(row: Row) -> tuple[float, ...]:
        p50, flash = row.p50_ms or 0.0, row.flash_bytes
        ram = (rules.ram_bytes(row) or 0) // RAM_TIE_BYTES
        artefact = row.candidate.artefact
        precision = artefact.form.precision if artefact.form else "int8"
        own = (not row.candidate.is_own, not artefact.is_own_form, precision != "int8")
        if rules.objective == "ram":
            return (ram, *own, flash) if rules.elsewhere else (ram, p50, flash)
        if rules.objective == "flash":
            return (flash, *own, ram) if rules.elsewhere else (flash, p50, ram)
        if rules.elsewhere:
            return (*own, ram, flash)
        return (0.0, ram, flash, p50) if p50 <= fastest * (1 + tie) else (p50, ram, flash, p50)

    return key


def front(rows: Sequence[Row], rules: Rules) -> list[Row]:
    """Of `ranked` rows those that none kept before equals in flash, RAM and latency at once, ties counted as equal."""
    tie = tie_share(rows)
    kept: list[Row] = []
    for row in rows:
        if not any(_covers(better, row, rules, tie) for better in kept):
            kept.append(row)
    return kept


def _covers(better: Row, row: Row, rules: Rules, tie: float) -> bool:
    ram, other_ram = rules.ram_bytes(better) or 0, rules.ram_bytes(row) or 0
    as_fast = rules.elsewhere or (better.p50_ms or 0.0) <= (row.p50_ms or 0.0) * (1 + tie)
    return better.flash_bytes <= row.flash_bytes and ram <= other_ram + RAM_TIE_BYTES and as_fast


def beaten_by(row: Row, others: Sequence[Row], rules: Rules, factor: float) -> Row | None:
    """Another row that takes no more flash and RAM, is as right, and is `factor` times as fast; None: row stays in."""
    if row.p50_ms is None:
        return None
    ram = rules.ram_bytes(row) or 0
    best = best_agreement([row, *others])
    for other in others:
        if other is row or other.p50_ms is None or not keeps_parity(other, best) or not rules.fits(other):
            continue
        no_more = other.flash_bytes <= row.flash_bytes and (rules.ram_bytes(other) or 0) <= ram + RAM_TIE_BYTES
        if no_more and other.p50_ms * factor < row.p50_ms:
            return other
    return None
