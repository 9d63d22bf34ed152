"""What every figure has in common: its face, its colours, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeks.atomic_write import atomic_write
from edgeks.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2430", "#5b6470", "#e3e7ec"
# Okabe and Ito's colours, told apart by every kind of eye; in this order.
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f7f7f")
ENDINGS = (".svg", ".png", ".pdf")
DOTS_PER_INCH = 160


_STYLE: Any = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "svg.hashsalt": "edgeks",  # the same figure has the same bytes
}


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `width` × `height` inches in edgeks' style and its axes, row by row; needs no window system."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def write_figure(figure: Figure, path: Path) -> None:
    """Figure → .svg, .png or .pdf by `path`'s ending, whole or not at all.

    Raises:
        OutputError: another ending, or `path` cannot be written.
    """
    if path.suffix not in ENDINGS:
        raise OutputError(f"{path}: a figure cannot be written as {path.suffix or 'that'}; legal: {', '.join(ENDINGS)}")
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    from matplotlib import rc_context

    with atomic_write(path) as temporary, rc_context(_STYLE):
        figure.savefig(temporary, format=path.suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)
