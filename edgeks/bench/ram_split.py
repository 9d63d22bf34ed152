"""What a process took above its beginning, from the readings of its memory at each stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeks.bench.stream import Memory


@dataclass(frozen=True, slots=True)
class RamSplit:
    """Resident bytes above the process that has imported the runtime but not opened the file (`baseline_bytes`).

    `load_peak`: the most while the file is opened; `loaded`: once it is open; `run_peak`: the most of all inferences;
    `run`: after them. `…_anonymous`: the part that no file backs (heap); `…_mapped`: pages of the model's files. The
    arrays that the caller hands over are not in it.
    """

    baseline_bytes: int
    load_peak_bytes: int
    loaded_bytes: int
    loaded_anonymous_bytes: int
    loaded_mapped_bytes: int
    run_peak_bytes: int
    run_bytes: int
    run_anonymous_bytes: int
    run_mapped_bytes: int

    @property
    def peak_bytes(self) -> int:
        """What the process needs: the higher of the two peaks."""
        return max(self.load_peak_bytes, self.run_peak_bytes)


def ram_split(readings: Iterable[Memory]) -> RamSplit | None:
    """Readings at start, loaded, fed and run → RamSplit; None where one is missing or the system does not say."""
    stages = {reading.stage: reading for reading in readings}
    if not {"start", "loaded", "fed", "run"} <= set(stages):
        return None
    known = [_known(stages[name]) for name in ("start", "loaded", "fed", "run")]
    if None in known:
        return None
    start, loaded, fed, run = (one for one in known if one is not None)
    held_by_caller = fed.rss - loaded.rss
    anonymous_of_caller = fed.anonymous - loaded.anonymous
    return RamSplit(
        baseline_bytes=start.rss,
        load_peak_bytes=loaded.peak - start.rss,
        loaded_bytes=loaded.rss - start.rss,
        loaded_anonymous_bytes=loaded.anonymous - start.anonymous,
        loaded_mapped_bytes=loaded.mapped - start.mapped,
        run_peak_bytes=run.peak - start.rss - held_by_caller,
        run_bytes=run.rss - start.rss - held_by_caller,
        run_anonymous_bytes=run.anonymous - start.anonymous - anonymous_of_caller,
        run_mapped_bytes=run.mapped - start.mapped,
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    rss: int
    anonymous: int
    mapped: int
    peak: int


def _known(memory: Memory) -> _Reading | None:
    found = memory.rss_bytes, memory.anonymous_bytes, memory.mapped_bytes, memory.peak_bytes
    rss, anonymous, mapped, peak = found
    if rss is None or anonymous is None or mapped is None or peak is None:
        return None
    return _Reading(rss, anonymous, mapped, peak)
