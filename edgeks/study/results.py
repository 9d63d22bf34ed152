"""What a study has given: one row for each point, as CSV, as JSON and for the figure."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgeks.figures.accuracy_and_cost import Dot

SCHEMA = "edgeks.study/1"


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One point. Accuracies are shares 0…1 on the test images; None: not made, or the point failed (then `error`).

    `accuracy` is the trained network's own in torch (fp32), the artefacts' are measured in the target's runtime.
    `conv_weights` are those of all convolutions; what is shared counts once, there and in `parameters`.
    `train_seconds` is wall time on the machine that trained the point, with whatever else ran there.
    """

    plan: str
    width: int
    depth: int | None
    seed: int
    data: str
    parameters: int
    conv_weights: int
    macs: int
    flops: int
    test_images: int
    epochs: int | None
    accuracy: float | None
    fp32_accuracy: float | None
    fp32_bytes: int | None
    int8_accuracy: float | None
    int8_bytes: int | None
    train_seconds: float | None
    folder: str
    error: str | None


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A study's rows, the finished ones and those that failed, and what it was about."""

    study: str
    description: str
    kind: str
    data: str
    rows: tuple[StudyRow, ...]

    @property
    def failed(self) -> tuple[StudyRow, ...]:
        """Rows of points that failed."""
        return tuple(row for row in self.rows if row.error is not None)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": SCHEMA, **asdict(self)}

    def to_csv(self) -> str:
        """One line for each row, after one with the names of the columns; what there is not is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(StudyRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        return text.getvalue()


def dots(rows: Sequence[StudyRow]) -> list[Dot]:
    """Finished rows → one dot for each plan, width and depth, with mean and standard deviation over its seeds."""
    together: dict[tuple[str, int, int | None], list[tuple[StudyRow, float]]] = {}
    for row in rows:
        if row.accuracy is not None:
            together.setdefault((row.plan, row.width, row.depth), []).append((row, row.accuracy))
    found = []
    for (plan, width, depth), group in together.items():
        first, accuracies = group[0][0], [accuracy for _, accuracy in group]
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        mean = statistics.fmean(accuracies)
        found.append(Dot(plan, width, depth, first.parameters, first.flops, mean, deviation, len(accuracies)))
    return found
