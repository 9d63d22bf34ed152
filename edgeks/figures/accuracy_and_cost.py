"""Accuracy against parameters (or depth), dot size = FLOPs: what a study has found, in one picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeks.figures.style import GRID, INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALLEST, LARGEST = 25.0, 420.0  # areas of dots, in points²
SMALL_TEXT = 7.5
LEGEND_LETTERS = 22  # of a line of a plan's name
DARKER = 0.65  # text in a plan's colour
_LEGEND: Any = {"frameon": False, "alignment": "left", "fontsize": 9, "title_fontsize": 9}
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Dot:
    """One network, with all its seeds. `accuracy` is the mean, a share 0…1; `deviation` is the seeds' standard one."""

    plan: str
    width: int
    depth: int | None
    parameters: int
    flops: int
    accuracy: float
    deviation: float
    seeds: int


def accuracy_and_cost(dots: Sequence[Dot], against_depth: bool, title: str, note: str) -> Figure:
    """Dots → figure: accuracy in per cent against parameters (logarithmic) or depth, a colour and a line for each plan.

    The area of a dot is in proportion to FLOPs; the smallest are drawn larger than that, so that they can be seen. Each
    dot is labelled with its width, or depth and width. Bars are ± one standard deviation over the seeds.

    Raises:
        ValueError: there are no dots.
    """
    if not dots:
        raise ValueError("a figure without dots")
    figure, (axes,) = new_figure(7.2, 4.6)
    most = max(dot.flops for dot in dots)
    plans = list(dict.fromkeys(dot.plan for dot in dots))
    for line in _lines(dots, against_depth):
        _draw(axes, line, SERIES[plans.index(line[0].plan) % len(SERIES)], most, against_depth)
    _label(axes, dots, against_depth)
    _axes(axes, dots, against_depth)
    _legends(figure, axes, dots, against_depth)
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, pad=22)
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=SMALL_TEXT + 0.5, color=MUTED, va="bottom")
    return figure


def short(number: float) -> str:
    """112138 → `112 k`: three figures at most."""
    scale, unit = next(((scale, unit) for scale, unit in UNITS if number >= 0.9995 * scale), (1.0, ""))
    return f"{number / scale:.3g} {unit}".strip()


def _lines(dots: Sequence[Dot], against_depth: bool) -> list[list[Dot]]:
    """The dots that a line joins: a plan's from depth to depth or, where depths have several widths, of one depth."""
    several = len({(dot.plan, dot.depth) for dot in dots}) < len(dots)
    lines: dict[tuple[str, int | None], list[Dot]] = {}
    for dot in dots:
        lines.setdefault((dot.plan, dot.depth if several and not against_depth else None), []).append(dot)
    return [sorted(line, key=lambda dot: _x(dot, against_depth)) for line in lines.values()]


def _draw(axes: Axes, line: Sequence[Dot], colour: str, most: int, against_depth: bool) -> None:
    x = [_x(dot, against_depth) for dot in line]
    y = [100 * dot.accuracy for dot in line]
    axes.plot(x, y, color=colour, linewidth=1, alpha=0.55, zorder=2)
    if any(dot.seeds > 1 for dot in line):
        bars = [100 * dot.deviation for dot in line]
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=colour, elinewidth=1, capsize=2.5, zorder=3)
    for dot, across, up in zip(line, x, y, strict=True):
        area = _area(dot.flops, most)  # small dots lie on large ones
        axes.scatter(across, up, s=area, color=colour, alpha=0.85, linewidths=0, zorder=5 - area / LARGEST)


def _x(dot: Dot, against_depth: bool) -> float:
    return float(dot.depth or 0) if against_depth else float(dot.parameters)


def _area(flops: int, most: int) -> float:
    return max(SMALLEST, LARGEST * flops / most)


def _label(axes: Axes, dots: Sequence[Dot], against_depth: bool) -> None:
    """The width beside each dot, or width/depth: above the upper one of several, below the lowest, else to the left."""
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke

    plans = list(dict.fromkeys(dot.plan for dot in dots))
    colours = [tuple(DARKER * part for part in to_rgb(SERIES[index % len(SERIES)])) for index in range(len(plans))]
    most = max(dot.flops for dot in dots)
    for dot in dots:
        near = [other for other in dots if other is not dot and _near(dot, other, against_depth)]
        below = any(other.accuracy > dot.accuracy for other in near)
        between = below and any(other.accuracy < dot.accuracy for other in near)
        reach = math.sqrt(_area(dot.flops, most) / math.pi) + 2
        axes.annotate(
            f"{dot.width}" if against_depth or dot.depth is None else f"{dot.width}/{dot.depth}",
            (_x(dot, against_depth), 100 * dot.accuracy),
            xytext=(-reach if between else 0.75 * reach, 0 if between else -reach if below else 0.75 * reach),
            textcoords="offset points",
            fontsize=SMALL_TEXT,
            color=colours[plans.index(dot.plan)],
            ha="right" if between else "left",
            va="center" if between else "top" if below else "bottom",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=6,
        )


def _near(dot: Dot, other: Dot, against_depth: bool) -> bool:
    if against_depth:
        return dot.depth == other.depth
    return abs(math.log(dot.parameters / other.parameters)) < 0.15


def _axes(axes: Axes, dots: Sequence[Dot], against_depth: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_ylabel("test accuracy, %")
    axes.margins(x=0.09, y=0.14)
    if against_depth:
        axes.set_xlabel(f"depth, each network with about {short(dots[0].parameters)} parameters")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    axes.set_xscale("log")
    axes.set_xlabel("parameters, a shared one counted once (logarithmic)")
    low, high = min(dot.parameters for dot in dots), max(dot.parameters for dot in dots)
    narrow = high / low < 12
    axes.set_xlim(low / (high / low * 1.5) ** 0.1, high * (high / low * 1.5) ** 0.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if narrow else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legends(figure: Figure, axes: Axes, dots: Sequence[Dot], against_depth: bool) -> None:
    """Colours and sizes, to the right of the axes."""
    from matplotlib.lines import Line2D

    plans, most = list(dict.fromkeys(dot.plan for dot in dots)), max(dot.flops for dot in dots)

    def dot(area: float, colour: str, label: str) -> Line2D:
        size = math.sqrt(area)  # of a marker, its diameter in points; a scatter's s is its square
        return Line2D(
            [], [], linestyle="none", marker="o", markersize=size, markeredgewidth=0, color=colour, label=label
        )

    colours = [
        dot(70, SERIES[index % len(SERIES)], textwrap.fill(plan, LEGEND_LETTERS)) for index, plan in enumerate(plans)
    ]
    first = axes.legend(handles=colours, **_LEGEND, title="sharing", loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.add_artist(first)
    first.set_clip_on(False)  # so that the layout leaves it room
    least = max(min(dot.flops for dot in dots), most * SMALLEST / LARGEST)
    steps = sorted({least, math.sqrt(least * most), float(most)}) if most > 1.3 * least else [float(most)]
    sizes = [dot(_area(int(step), most), "#9aa3ad", short(step)) for step in steps]
    axes.legend(
        handles=sizes,
        **_LEGEND,
        title="FLOPs, one image",
        loc="lower left",
        bbox_to_anchor=(1.01, 0.15),
        labelspacing=1.1,
        handletextpad=1.0,
    )
    seeds = sorted({dot.seeds for dot in dots})
    several = f"mean of {seeds[0] if len(seeds) == 1 else f'{seeds[0]} to {seeds[-1]}'} seeds,\nbars: ± 1 std. dev."
    only_width = against_depth or all(dot.depth is None for dot in dots)
    label = "beside a dot: width" if only_width else "beside a dot:\nwidth/depth"
    axes.text(
        1.03,
        0,
        f"{several if seeds != [1] else 'one seed'}\n{label}",
        transform=axes.transAxes,
        fontsize=SMALL_TEXT,
        color=MUTED,
        va="bottom",
    )
    figure.set_facecolor("white")
    axes.grid(which="minor", color=GRID, linewidth=0.4)
