"""Model → advice: every form and profile that fits is tried, measured in turns, and one is recommended."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeks.advice.choose import FAR, NEAR, OBJECTIVES, Objective, Rules, beaten_by, front, ranked, tie_share
from edgeks.advice.forms import forms_for, targets_for
from edgeks.advice.make import SAME_FILE, NotPossible, finished, make
from edgeks.advice.measure import Meter
from edgeks.advice.measurements import Measurements
from edgeks.advice.profiles import not_worth_trying, tried_profiles
from edgeks.advice.rows import Artefact, Candidate, Row
from edgeks.advice.snippet import snippet
from edgeks.advice.sources import SourceOptions, digest, read_network, source_key
from edgeks.audit.budgets import Budgets
from edgeks.audit.footprint import this_machine
from edgeks.bench.local import MAX_THREADS
from edgeks.bench.place import Here, Place
from edgeks.errors import BudgetExceeded, CheckFailed, ConfigError
from edgeks.parity import Parity
from edgeks.run_folder import RunFolder
from edgeks.runtime_profile import MeasuredRam, Profile
from edgeks.target import Format, Target, load_target

SECONDS = 45.0
MAX_SECONDS = 1e6
LEAST_ROUNDS, MOST_ROUNDS = 3, 9
CLEARLY, CLEARLY_BYTES = 1.25, 2_000_000  # predicted above the RAM budget by both: not worth measuring
OWN_ARITHMETIC = "the file's own arithmetic"

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Advice:
    """All rows, what cannot be had, and which row to use.

    `ranked`: rows that may be used, the best first; `front`: those of them that no better one equals in flash, RAM
    and latency at once. `elsewhere`: the target is a board of another processor than this machine's, so latencies are
    not the board's. `rows` that are not `ranked` are over a budget, not right enough, beaten or cannot be run.
    """

    model: Path
    sha256: str
    target: str | None
    rules: Rules
    limits: Budgets | None
    rows: tuple[Row, ...]
    ranked: tuple[Row, ...]
    front: tuple[Row, ...]
    not_possible: tuple[NotPossible, ...]
    left_out: dict[str, str]
    machine: dict[str, Any]
    board: str | None
    reference: str
    samples: str
    real_samples: bool
    work: Path
    tie_share: float
    spent_seconds: float
    measured_now: int

    @property
    def recommended(self) -> Row | None:
        """The row to use; None where nothing fits."""
        return self.ranked[0] if self.ranked else None

    @property
    def snippet(self) -> str | None:
        """Python that runs the recommended file as it was measured."""
        row = self.recommended
        return None if row is None else snippet(row.candidate.artefact, row.candidate.profile)

    def require_fit(self) -> None:
        """Nothing where a row may be used.

        Raises:
            BudgetExceeded: nothing is within the budgets; names the nearest.
            CheckFailed: what is within them cannot be run here, or is not right enough.
        """
        if self.ranked:
            return
        over = [row for row in self.rows if not self.rules.fits(row)]
        if not over:
            reasons = "; ".join(dict.fromkeys(f"{row.candidate.name}: {row.reason}" for row in self.rows if row.reason))
            raise CheckFailed(f"{self.model}: no way to run it can be recommended: {reasons or 'none is right enough'}")
        nearest = min(over, key=self.rules.excess)
        ram = self.rules.ram_bytes(nearest)
        parts = [
            f"{what} {'unknown' if need is None else f'{need:,} bytes'} of {budget:,}"
            for what, need, budget in (
                ("flash", nearest.flash_bytes, self.rules.flash_budget),
                ("RAM", ram, self.rules.ram_budget),
            )
            if budget is not None
        ]
        name = self.limits.name if self.limits else "the budget"
        raise BudgetExceeded(
            f"{self.model}: nothing fits {name}; the nearest is {nearest.candidate.name}: {' and '.join(parts)}; "
            "share more kernels, feed smaller inputs, or raise --flash or --ram"
        )


def advise(
    model: Path,
    target: str | None = None,
    *,
    formats: Sequence[Format] | None = None,
    objective: Objective = "latency",
    threads: Sequence[int] | None = None,
    seconds: float = SECONDS,
    flash_budget: int | None = None,
    ram_budget: int | None = None,
    source: SourceOptions = SourceOptions(),
    work: Path | None = None,
    place: Place | None = None,
    on_step: OnStep = lambda what, done, total: None,
) -> Advice:
    """Checkpoint, float ONNX file or finished model file → what to export, and how to run it.

    `target`: a name or the path of a TOML file; without one a network is tried in both formats. `formats` instead
    of the target's own (the like of it for the same board). `objective` "latency": the fastest, of equally fast
    ones the least RAM, then flash; "ram", "flash": the least. `threads`: the numbers to try; else 1, 2, 4 … up to
    the cores. `seconds` bound the measuring once every candidate was measured once. `flash_budget` and `ram_budget`
    (bytes) go before the target's. `place`: where to measure, a board or this machine. `work` keeps exports and
    measurements, which the same call goes on from. `on_step` is told what is done, how much of it, and of how much.

    Raises:
        InputError: the model, target, samples, sizes or folder cannot be used, or no form is possible.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"--for {objective}: legal: {', '.join(OBJECTIVES)}")
    if not 0 < seconds <= MAX_SECONDS:
        raise ConfigError(f"--seconds {seconds:g}: legal: above 0, up to {MAX_SECONDS:,.0f}")
    for count in threads or ():
        if not 1 <= count <= MAX_THREADS:
            raise ConfigError(f"--threads {count}: legal: 1 to {MAX_THREADS}")
    named = load_target(target) if target else None
    on_step(f"reading {model.name}", 0, 1)
    network = read_network(model, source)
    key = source_key(model, network, source)
    folder = RunFolder(work or Path("runs", "advise", f"{model.stem}-{key['model'][:8]}"))
    with folder.locked():
        measurements = Measurements(folder.path / "measured.jsonl")
        if network is not None:
            chosen = targets_for(target, formats)
            forms = [form for name, each in chosen for form in forms_for(each, name)]
            artefacts, refused = make(
                model, network, forms, source, key, folder, measurements,
                lambda done, what: on_step(what, done, len(forms)),
            )  # fmt: skip
            if not artefacts:
                raise next(found for found in refused if found.error != SAME_FILE).as_error()
        else:
            artefacts, refused = [_finished(model, target, formats, source)], []
        budgets = Budgets.of(named, flash_budget, ram_budget)
        rules = Rules(
            objective,
            budgets.flash_bytes if budgets else None,
            budgets.ram_bytes if budgets else None,
            elsewhere=place is None and named is not None and named.board is not None and this_machine() != "arm64",
        )
        meter = Meter(measurements, network, source.calib, place or Here())
        trial = _Trial(
            rules, meter, _threads(named, threads, meter.cores, elsewhere=rules.elsewhere), seconds, on_step,
            on_board=place is not None,
        )  # fmt: skip
        rows = trial.run(artefacts)
    order = ranked(rows, rules)
    return Advice(
        model=model,
        sha256=key["model"],
        target=target,
        rules=rules,
        limits=budgets,
        rows=tuple(rows),
        ranked=tuple(order),
        front=tuple(front(order, rules)),
        not_possible=tuple(refused),
        left_out=trial.left_out,
        machine=meter.machine,
        board=named.board.name if named and named.board else None,
        reference=network.reference_name if network else OWN_ARITHMETIC,
        samples=network.samples.origin if network else str(source.calib or "random inputs"),
        real_samples=network.samples.real if network else source.calib is not None,
        work=folder.path,
        tie_share=tie_share(order),
        spent_seconds=meter.spent_seconds,
        measured_now=meter.measured,
    )


def _finished(model: Path, target: str | None, formats: Sequence[Format] | None, source: SourceOptions) -> Artefact:
    own: Format = "tflite" if model.suffix.lower() == ".tflite" else "onnx"
    if formats and own not in formats:
        raise ConfigError(f"--format {formats[0]}: {model.name} is a finished {own} file, which is run as it is")
    if source.input_shape:
        raise ConfigError(f"--input: {model.name} is a finished file, whose input size is its own")
    if source.calib and source.calib.is_dir():
        raise ConfigError(f"--calib {source.calib}: of a finished file an .npz with one array that is fed as it is")
    if source.calib:
        digest([source.calib])
    return finished(model, load_target(target or own))


def _threads(target: Target | None, asked: Sequence[int] | None, cores: int, *, elsewhere: bool) -> tuple[int, ...]:
    """Numbers of threads to try, ascending. For another processor, of which times here say nothing, the target's."""
    if asked:
        return tuple(sorted(set(asked)))
    if elsewhere and target is not None:
        return (target.session.threads,)
    most = target.board.cores if target and target.board else cores
    return tuple(sorted({*(1 << power for power in range(most.bit_length()) if 1 << power <= most), most}))


class _Trial:
    """The measuring: everything once with the fewest threads; then rounds in turns, without what is beaten by far."""

    def __init__(
        self, rules: Rules, meter: Meter, threads: tuple[int, ...], seconds: float, on_step: OnStep, *, on_board: bool
    ) -> None:
        self._rules, self._meter, self._threads, self._on_board = rules, meter, threads, on_board
        self._seconds, self._on_step = seconds, on_step
        self.left_out: dict[str, str] = {}

    def run(self, artefacts: Sequence[Artefact]) -> list[Row]:
        """Files → one row per candidate."""
        first = list(self._candidates(artefacts))
        rows = [self._once(c, index, len(first)) for index, c in enumerate(first)]
        rows = self._round(rows, 0)
        rows = self._without_beaten(rows, FAR)
        more = [
            replace(row.candidate, profile=_with_threads(row.candidate.profile, count))
            for row in rows
            if row.status == "measured"
            for count in self._threads[1:]
        ]
        rows += [self._once(c, index, len(more)) for index, c in enumerate(more)]
        done = 1
        while done < MOST_ROUNDS and not (self._rules.elsewhere and done == 1):
            cost = sum(row.rounds[-1].seconds if row.rounds else 0.5 for row in rows if row.status == "measured")
            alone = sum(row.status == "measured" for row in rows) < 2
            if (done >= LEAST_ROUNDS and alone) or (done > 1 and self._meter.spent_seconds + cost > self._seconds):
                break
            rows = self._without_beaten(self._round(rows, done), NEAR if done + 1 >= LEAST_ROUNDS else FAR)
            done += 1
        return rows

    def _candidates(self, artefacts: Sequence[Artefact]) -> Iterator[Candidate]:
        for artefact in artefacts:
            tried, left_out = tried_profiles(artefact.format, artefact.target, on_board=self._on_board)
            self.left_out |= left_out
            for each in tried:
                reason = not_worth_trying(artefact, each)
                if reason:
                    self.left_out[f"{artefact.path.name} with {each.profile.name}"] = reason
                    continue
                yield Candidate(artefact, _with_threads(each.profile, self._threads[0]), each.is_own)

    def _once(self, candidate: Candidate, done: int, total: int) -> Row:
        """RAM and parity, unless it is known not to fit."""
        self._on_step(f"RAM and outputs: {candidate.name}", done, total)
        artefact = candidate.artefact
        own = artefact.target.name if candidate.is_own else candidate.profile.name
        predicted = artefact.predicted_ram.get(own, artefact.predicted_ram.get(candidate.profile.name))
        row = Row(candidate, predicted)
        flash, ram = self._rules.flash_budget, self._rules.ram_budget
        if flash is not None and row.flash_bytes > flash:
            return replace(row, status="over budget", reason=f"{row.flash_bytes:,} bytes of flash, of {flash:,}")
        if ram is not None and predicted is not None and predicted > max(CLEARLY * ram, ram + CLEARLY_BYTES):
            reason = f"predicted to take {predicted:,} bytes of RAM, of {ram:,}: not measured"
            return replace(row, status="over budget", reason=reason)
        measured = self._meter.ram(candidate)
        if not isinstance(measured, MeasuredRam):
            return replace(row, status="cannot run", reason=measured)
        row = replace(row, ram=measured)
        if not self._rules.fits(row):
            return replace(row, status="over budget", reason=f"{self._rules.ram_bytes(row):,} bytes of RAM, of {ram:,}")
        parity = self._meter.parity(candidate)
        if not isinstance(parity, Parity):
            return replace(row, status="cannot run", reason=parity)
        return replace(row, parity=parity)

    def _round(self, rows: Sequence[Row], number: int) -> list[Row]:
        """Every row that is in, once, in random order, a fresh process each."""
        order = [index for index, row in enumerate(rows) if row.status == "measured"]
        random.Random(number).shuffle(order)  # noqa: S311  # an order, no secret
        timed = list(rows)
        for done, index in enumerate(order):
            row = rows[index]
            self._on_step(f"round {number + 1}: {row.candidate.name}", done, len(order))
            # Elsewhere's cores are not here: more threads than cores would wait for each other.
            threads = 1 if self._rules.elsewhere else row.candidate.profile.session.threads
            found = self._meter.latency(row.candidate, number, threads)
            if isinstance(found, str):
                timed[index] = replace(row, status="cannot run", reason=found)
            else:
                timed[index] = replace(row, rounds=(*row.rounds, found))
        return timed

    def _without_beaten(self, rows: Sequence[Row], factor: float) -> list[Row]:
        """Rows that another beats in all that counts, and by `factor` in time, are measured no more."""
        if self._rules.elsewhere:
            return list(rows)
        left = [row for row in rows if row.status == "measured"]
        found = []
        for row in rows:
            better = beaten_by(row, left, self._rules, factor) if row.status == "measured" else None
            if better is not None and better.p50_ms and row.p50_ms:
                reason = f"{row.p50_ms / better.p50_ms:.1f} × as slow as {better.candidate.name}, and no smaller"
                row = replace(row, status="dropped", reason=reason)
            found.append(row)
        return found


def _with_threads(profile: Profile, count: int) -> Profile:
    return replace(profile, session=replace(profile.session, threads=count))
