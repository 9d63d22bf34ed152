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

from edgeks.figures.style import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKED = 32  # lowest and highest weights of a row
LOWEST, HIGHEST = SERIES[0], SERIES[4]  # blue and vermilion: told apart without red and green
MAX_COLUMNS = 6
CELL_FROM = 24  # channels up to which a weight is drawn as a cell with an edge
ZERO = 0.97  # grey of a weight of 0


def marks(matrix: NDArray[Any], count: int = MARKED) -> NDArray[np.int8]:
    """O×I weights → −1 for the `count` lowest of each row, 1 for the `count` highest, 0 else.

    A row of fewer than 2 · `count` weights has I // 2 of each. Of equal weights the one at the lower column is the
    lower. A weight of 0 is never marked: a pruned one is neither low nor high.
    """
    rows, columns = matrix.shape
    each = min(count, columns // 2)
    order = np.argsort(matrix, axis=1, kind="stable")
    found = np.zeros((rows, columns), np.int8)
    np.put_along_axis(found, order[:, :each], -1, axis=1)
    np.put_along_axis(found, order[:, columns - each :], 1, axis=1)
    found[matrix == 0] = 0
    return found


def picture(matrix: NDArray[Any], count: int = MARKED) -> NDArray[np.float32]:
    """O×I weights → O×I×3 colours 0…1: grey by size, blue where a row's lowest, vermilion where its highest."""
    from matplotlib.colors import to_rgb

    sizes = np.abs(matrix) / (np.abs(matrix).max() or 1.0)
    grey = ZERO - 0.55 * np.sqrt(sizes)
    image = np.repeat(grey[:, :, None], 3, axis=2)
    marked = marks(matrix, count)
    for mark, colour in ((-1, LOWEST), (1, HIGHEST)):
        image[marked == mark] = to_rgb(colour)
    return np.asarray(image, np.float32)


def blending_picture(kernels: Sequence[tuple[str, NDArray[Any]]], *, title: str, count: int = MARKED) -> Figure:
    """(name, O×I weights) of each layer → one sheet of panels, with a legend."""
    columns = min(MAX_COLUMNS, math.ceil(math.sqrt(len(kernels))))
    rows = math.ceil(len(kernels) / columns)
    side = min(max(1.9, max(max(matrix.shape) for _, matrix in kernels) / 160), 3.4)
    figure, panels = new_figure(columns * side + 0.3, rows * (side + 0.35) + 0.8, rows, columns)
    for axes, (name, matrix) in zip(panels, kernels, strict=False):
        outputs, inputs = matrix.shape
        axes.imshow(picture(matrix, count), interpolation="nearest", aspect="equal" if outputs == inputs else "auto")
        axes.set_title(_shortened(name), fontsize=8, color=INK, pad=3)
        axes.set_xlabel(f"{outputs} × {inputs}{_zeros(matrix)}", fontsize=7.5, color=MUTED, labelpad=3)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set(visible=True, color=MUTED, linewidth=0.5)
        if max(outputs, inputs) <= CELL_FROM:
            axes.set_xticks(np.arange(1, inputs) - 0.5, minor=True)
            axes.set_yticks(np.arange(1, outputs) - 0.5, minor=True)
            axes.grid(visible=True, which="minor", color="white", linewidth=0.8)
            axes.tick_params(which="minor", length=0)
    for axes in panels[len(kernels) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=10.5, color=INK, x=0.01, ha="left")
    _legend(figure, min(count, min(matrix.shape[1] for _, matrix in kernels) // 2), len(kernels))
    return figure


def _legend(figure: Figure, each: int, layers: int) -> None:
    from matplotlib.patches import Patch

    grey = (ZERO - 0.55 * 0.7,) * 3
    words = f"{each} lowest of the row" if each < MARKED else f"lowest {each} of the row"
    entries = [
        Patch(facecolor=LOWEST, label=words),
        Patch(facecolor=HIGHEST, label=words.replace("lowest", "highest")),
        Patch(facecolor=grey, label="between; darker: larger"),
        Patch(facecolor=(ZERO,) * 3, edgecolor=MUTED, linewidth=0.5, label="0"),
    ]
    figure.legend(
        handles=entries, loc="outside lower left", ncols=4 if layers > 2 else 2, fontsize=8, frameon=False,
        handlelength=1, handleheight=1,
    )  # fmt: skip


def _shortened(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _zeros(matrix: NDArray[Any]) -> str:
    zeros = 1 - np.count_nonzero(matrix) / matrix.size
    return f", {100 * zeros:.0f} % zeros" if zeros >= 0.005 else ""
