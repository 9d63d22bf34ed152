"""Figure: test accuracy against the share of weights that was pruned, a line per criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeks.figures.style import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D")


def pruned_share(
    lines: Mapping[str, Sequence[tuple[float, float]]], baseline: float, *, title: str, chance: float | None = None
) -> Figure:
    """Label → (pruned share, accuracy) of its points, all 0…1, drawn in per cent; `baseline`: the whole network's.

    `chance`: the accuracy of guessing, drawn where the lines come near it.
    """
    figure, [axes] = new_figure(5.6, 3.9)
    axes.axhline(
        100 * baseline, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1,
        label=f"nothing pruned: {100 * baseline:.2f} %",
    )  # fmt: skip
    accuracies = [baseline, *(accuracy for points in lines.values() for _, accuracy in points)]
    lowest, highest = min(accuracies), max(accuracies)
    if chance is not None and lowest < 2 * chance:
        axes.axhline(100 * chance, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            f"guessing: {100 * chance:g} %", (0, 100 * chance), (2, 3), textcoords="offset points",
            color=MUTED, fontsize=8.5,
        )  # fmt: skip
    for index, (label, points) in enumerate(lines.items()):
        ordered = sorted(points)
        axes.plot(
            [100 * share for share, _ in ordered], [100 * accuracy for _, accuracy in ordered],
            color=SERIES[index % len(SERIES)], marker=MARKERS[index % len(MARKERS)], markersize=4.5, linewidth=1.6,
            markeredgecolor="white", markeredgewidth=0.6, label=label, zorder=3, clip_on=False,
        )  # fmt: skip
    span = max(100 * (highest - lowest), 1.0)
    axes.set_ylim(max(0.0, 100 * lowest - 0.06 * span), 100 * highest + 0.06 * span)
    axes.set_xlim(left=0)
    axes.set_xlabel("pruned weights, % of the chosen layers' kernels")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    figure.legend(
        loc="outside lower left", title="smallest magnitudes go first", title_fontsize=8.5, alignment="left",
        fontsize=8.5, frameon=False, ncols=2 if len(lines) == 1 else 3, columnspacing=1.2,
    )  # fmt: skip
    return figure
