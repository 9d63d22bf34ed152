"""Figure: the kernels of the blending layers as images, the strongest weights of every row marked (ShardNet's kind).

A layer is a panel: a row per output channel, a column per input channel. Grey is the weight's size over the layer's
largest; of every row the lowest and the highest weights are in colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeks.figures.style import DOTS_PER_INCH, INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKED = 32  # lowest and highest weights of a row
LOWEST, HIGHEST = SERIES[0], SERIES[4]  # blue and vermilion: told apart without red and green
FEW = 4  # panels up to which a weight has two pixels at least
CELL_UP_TO = 24  # channels up to which cells are drawn with an edge
ZERO, LIGHTEST, DARKEST = 1.0, 0.88, 0.42  # grey of a weight of 0, of the smallest others, and of the largest
# Pixels: of a panel at least, of the sheet at most and at least, between panels, and for words.
PANEL, MAX_WIDTH, MIN_WIDTH = 380, 2600, 620
GAP, BETWEEN, HEAD, TOP, LEGEND = 34, 84, 26, 62, 66


def marked(inputs: int, count: int = MARKED) -> int:
    """How many weights at each end of a row of `inputs` are marked: `count`, but at most a quarter of the row each."""
    return min(count, max(1, inputs // 4)) if inputs > 1 else 0


def marks(matrix: NDArray[Any], count: int = MARKED) -> NDArray[np.int8]:
    """O×I weights → −1 for the `marked` lowest of each row, 1 for the highest, 0 else.

    Of equal weights the one at the lower column is the lower. A weight of 0 is never marked: a pruned one is neither.
    """
    each = marked(matrix.shape[1], count)
    order = np.argsort(matrix, axis=1, kind="stable")
    found = np.zeros(matrix.shape, np.int8)
    np.put_along_axis(found, order[:, :each], -1, axis=1)
    np.put_along_axis(found, order[:, matrix.shape[1] - each :], 1, axis=1)
    found[matrix == 0] = 0
    return found


def picture(matrix: NDArray[Any], count: int = MARKED) -> NDArray[np.float32]:
    """O×I weights → O×I×3 colours 0…1: grey by size, blue where a row's lowest, vermilion where its highest."""
    from matplotlib.colors import to_rgb

    sizes = np.abs(matrix) / (np.abs(matrix).max() or 1.0)
    grey = np.where(matrix == 0, ZERO, LIGHTEST - (LIGHTEST - DARKEST) * np.sqrt(sizes))
    image = np.repeat(grey[:, :, None], 3, axis=2)
    marking = marks(matrix, count)
    for mark, colour in ((-1, LOWEST), (1, HIGHEST)):
        image[marking == mark] = to_rgb(colour)
    return np.asarray(image, np.float32)


def blending_picture(kernels: Sequence[tuple[str, NDArray[Any]]], *, title: str, count: int = MARKED) -> Figure:
    """(name, O×I weights) of each layer → one sheet of panels, with a legend. A weight is a whole number of pixels."""
    largest = max(max(matrix.shape) for _, matrix in kernels)
    scale = max(1, PANEL // largest)
    side = largest * (2 if scale == 1 and len(kernels) <= FEW else scale)
    columns = max(1, min(math.ceil(math.sqrt(len(kernels))), MAX_WIDTH // (side + GAP)))
    rows = math.ceil(len(kernels) / columns)
    width = max(columns * (side + GAP) + GAP, MIN_WIDTH)
    height = TOP + rows * (side + BETWEEN) + LEGEND
    figure, panels = new_figure(width / DOTS_PER_INCH, height / DOTS_PER_INCH, rows, columns)
    figure.set_layout_engine("none")
    for index, axes in enumerate(panels):
        if index >= len(kernels):
            axes.set_axis_off()
            continue
        name, matrix = kernels[index]
        scale = max(1, side // max(matrix.shape))
        high, wide = (scale * length for length in matrix.shape)
        left = GAP + index % columns * (side + GAP)
        bottom = height - TOP - index // columns * (side + BETWEEN) - HEAD - high
        axes.set_position((left / width, bottom / height, wide / width, high / height))
        _draw(axes, name, matrix, count)
    figure.text(GAP / width, 1 - 22 / height, title, fontsize=10.5, color=INK, va="top")
    _legend(figure, sorted({marked(matrix.shape[1], count) for _, matrix in kernels}), GAP / width)
    return figure


def _draw(axes: Axes, name: str, matrix: NDArray[Any], count: int) -> None:
    outputs, inputs = matrix.shape
    axes.imshow(picture(matrix, count), interpolation="nearest", aspect="auto")
    axes.set_title(_shortened(name), fontsize=8, color=INK, pad=4, loc="left")
    axes.set_xlabel(f"{outputs} × {inputs}{_zeros(matrix)}", fontsize=7.5, color=MUTED, labelpad=3, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=MUTED, linewidth=0.5)
    if max(outputs, inputs) <= CELL_UP_TO:
        axes.set_xticks(np.arange(1, inputs) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, outputs) - 0.5, minor=True)
        axes.grid(visible=True, which="minor", color="white", linewidth=0.8)
        axes.tick_params(which="minor", length=0)


def _legend(figure: Figure, each: Sequence[int], left: float) -> None:
    from matplotlib.patches import Patch

    number = f"{each[0]}–{each[-1]}" if len(each) > 1 else str(each[0])
    middle = (0.4 * LIGHTEST + 0.6 * DARKEST,) * 3
    entries = [
        Patch(facecolor=LOWEST, label=f"{number} lowest of a row"),
        Patch(facecolor=HIGHEST, label=f"{number} highest of a row"),
        Patch(facecolor=middle, label="between; darker: larger"),
        Patch(facecolor=(ZERO,) * 3, edgecolor=MUTED, linewidth=0.5, label="0"),
    ]
    columns = 4 if figure.get_figwidth() * DOTS_PER_INCH >= 4 * 230 else 2
    figure.legend(
        handles=entries, loc="lower left", bbox_to_anchor=(left, 0), borderaxespad=0.6, borderpad=0, ncols=columns,
        fontsize=8, handlelength=1, handleheight=1, frameon=False,
    )  # fmt: skip


def _shortened(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _zeros(matrix: NDArray[Any]) -> str:
    zeros = 1 - np.count_nonzero(matrix) / matrix.size
    return f", {100 * zeros:.0f} % zeros" if zeros >= 0.005 else ""
