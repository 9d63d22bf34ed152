"""Rows of an advice: one way to export and run a model, and what is known of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeks.advice.forms import Form
from edgeks.interface import Interface
from edgeks.parity import Parity
from edgeks.runtime_profile import MeasuredRam, Profile
from edgeks.target import Format, Target
from edgeks.wording import counted

Status = Literal["measured", "over budget", "dropped", "cannot run"]


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file to try. `form` is None for a finished file; `flash_bytes` counts its external data too.

    By name of the profile, for the target's board where it is one: `predicted_ram`, and `cache_bytes` of what the
    runtime writes beside the file; `unusable` says why the profile is not for the file or the board.
    """

    path: Path
    sha256: str
    format: Format
    target: Target
    form: Form | None
    is_own_form: bool
    flash_bytes: int
    predicted_ram: dict[str, int | None]
    cache_bytes: dict[str, int]
    unusable: dict[str, str]
    interface: Interface | None = None
    command: str | None = None

    @property
    def name(self) -> str:
        """For people: the form, or the file's name."""
        return self.form.name if self.form else self.path.name


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file under a profile, with a number of threads. `is_own`: as the target itself opens files."""

    artefact: Artefact
    profile: Profile
    is_own: bool

    @property
    def name(self) -> str:
        """Unique within an advice."""
        threads = self.profile.session.threads
        return f"{self.artefact.path.name}, {self.profile.name}, {counted(threads, 'thread')}"


@dataclass(frozen=True, slots=True)
class Round:
    """One fresh process: median of its inferences, their number, and seconds that it took in all."""

    p50_ms: float
    runs: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate with all that is known. `predicted_ram_bytes` is for the target's board, where it is one.

    `parity` is None where it cannot be told. `status` "dropped": after a first round, dominated by far; `reason` says
    by what, or why it was not measured.
    """

    candidate: Candidate
    predicted_ram_bytes: int | None
    ram: MeasuredRam | None = None
    parity: Parity | None = None
    rounds: tuple[Round, ...] = ()
    status: Status = "measured"
    reason: str = ""

    @property
    def flash_bytes(self) -> int:
        """The file, with its external data and what the runtime writes beside it."""
        artefact = self.candidate.artefact
        return artefact.flash_bytes + artefact.cache_bytes.get(self.candidate.profile.name, 0)

    @property
    def measured_ram_bytes(self) -> int | None:
        """What has to be free for the model to be opened and to run, measured here."""
        return None if self.ram is None else max(self.ram.load_peak_bytes, self.ram.run_peak_bytes)

    def ram_bytes(self, *, elsewhere: bool) -> int | None:
        """What counts: measured; for a board of another processor the larger of measured here and predicted there."""
        measured, predicted = self.measured_ram_bytes, self.predicted_ram_bytes
        if measured is None or (elsewhere and predicted is not None):
            return predicted if measured is None or predicted is None else max(measured, predicted)
        return measured

    @property
    def p50_ms(self) -> float | None:
        """Median over the rounds of their medians."""
        return statistics.median(r.p50_ms for r in self.rounds) if self.rounds else None

    @property
    def spread(self) -> float | None:
        """How far the rounds lie apart: half of (largest − smallest), over the median; None with one round."""
        if len(self.rounds) < 2 or self.p50_ms is None:
            return None
        medians = [r.p50_ms for r in self.rounds]
        return (max(medians) - min(medians)) / 2 / self.p50_ms
