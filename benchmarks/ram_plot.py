"""What RAM is spent on, per form, as a drawing: python benchmarks/ram_plot.py forms.json > where_did_my_ram_go.svg

`forms.json` is what `forms.py --json` writes. Bars are the predicted parts of the run peak, marks the measured peak.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

PARTS = {
    "packed": ("#e69f00", "packed: kernels laid out anew"),
    "heap": ("#0072b2", "heap: weights copied or folded"),
    "arena": ("#009e73", "arena: activations and scratch"),
    "mapped": ("#7cc3ec", "mapped: pages of the file"),
    "library": ("#b4bac1", "library: the runtime's own"),
}
INK, MUTED, GRID, MARK = "#1c2430", "#5b6470", "#e3e7ec", "#b3261e"
WIDTH, LEFT, RIGHT, TOP = 960, 268, 66, 122
PITCH, BAR, HEAD = 25, 15, 34
STEP_MB = 20
LEGEND = (24, 290, 560)


def drawing(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of the SVG."""
    blocks = [(name, list(group)) for name, group in groupby(rows, key=lambda row: row["block"])]
    height = TOP + sum(HEAD + PITCH * len(group) for _, group in blocks) + 34
    most = max(max(row["run_peak_bytes"], sum(row["predicted"].values())) for row in rows) / 1e6
    per_mb = (WIDTH - LEFT - RIGHT) / most

    def at(megabytes: float) -> float:
        return LEFT + megabytes * float(per_mb)

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-size="13"'
    yield '  font-family="Helvetica, Arial, Liberation Sans, sans-serif">'
    yield f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    yield text(24, 34, "Where the RAM goes: twelve layers that read one 3×3 kernel of 512 channels", 18, INK, bold=True)
    for number, (colour, label) in enumerate(PARTS.values()):
        x, y = LEGEND[number % 3], 60 + 23 * (number // 3)
        yield f'<rect x="{x}" y="{y - 11}" width="13" height="13" fill="{colour}"/>'
        yield text(x + 20, y, label, 12, MUTED)
    yield mark(LEGEND[2] + 7, 70, 15)
    yield text(LEGEND[2] + 20, 83, "measured", 12, MUTED)
    yield text(LEGEND[0], 106, "MB above a process that has imported the runtime, at the peak of inferences", 12, MUTED)
    bottom = height - 30
    for megabytes in range(0, int(most) + 1, STEP_MB):
        yield f'<path d="M{at(megabytes):.1f} {TOP}V{bottom}" stroke="{GRID}"/>'
        yield text(at(megabytes), bottom + 17, f"{megabytes}" + (" MB" if megabytes == 0 else ""), 12, MUTED, "middle")
    top = float(TOP)
    for name, group in blocks:
        yield text(24, top + 22, name, 14, INK, bold=True)
        top += HEAD
        for row in group:
            yield from bar(row, top, at)
            top += PITCH
    yield "</svg>"


def bar(row: dict[str, Any], y: float, at: Any) -> Iterator[str]:
    """One form: its name and profile, its parts, the measured peak."""
    yield text(LEFT - 10, y + BAR - 3, f"{row['name']}", 13, INK, "end", small=row["profile"])
    start = 0.0
    for part, (colour, _) in PARTS.items():
        size = row["predicted"][f"{part}_bytes"] / 1e6
        if size > 0:
            width = at(start + size) - at(start)
            yield f'<rect x="{at(start):.1f}" y="{y:.0f}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
        start += size
    measured = row["run_peak_bytes"] / 1e6
    yield mark(at(measured), y - 3, BAR + 6)
    end = max(at(measured), at(start))
    yield text(end + 7, y + BAR - 3, f"{measured:.0f}" if measured >= 100 else f"{measured:.1f}", 13, INK, bold=True)


def mark(x: float, y: float, height: float) -> str:
    """A measured value."""
    return f'<path d="M{x:.1f} {y:.1f}v{height:.1f}" stroke="{MARK}" stroke-width="2.5"/>'


def text(
    x: float,
    y: float,
    words: str,
    size: int,
    colour: str,
    anchor: str = "start",
    *,
    bold: bool = False,
    small: str = "",
) -> str:
    """A line of text; `small` behind it, in a lighter hand."""
    weight = ' font-weight="bold"' if bold else ""
    behind = f'<tspan dx="8" font-size="11" fill="{MUTED}">{escape(small)}</tspan>' if small else ""
    style = f'text-anchor="{anchor}" font-size="{size}" fill="{colour}"{weight}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}{behind}</text>'


if __name__ == "__main__":
    print("\n".join(drawing([row for row in json.loads(Path(sys.argv[1]).read_text("utf-8")) if row["predicted"]])))
