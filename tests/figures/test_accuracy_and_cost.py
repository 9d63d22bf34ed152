"""The figure of a study: what it shows, and where."""

import pytest
from matplotlib.collections import PathCollection

from edgeks.figures.accuracy_and_cost import LARGEST, SMALLEST, Dot, accuracy_and_cost, short
from edgeks.figures.style import write_figure

DOTS = [
    Dot("unshared", 64, 4, 100_000, 2_000_000, 0.90, 0.01, 3),
    Dot("unshared", 128, 4, 400_000, 8_000_000, 0.93, 0.0, 3),
    Dot("shared", 64, 4, 25_000, 2_000_000, 0.88, 0.02, 3),
    Dot("shared", 128, 4, 100_000, 8_000_000, 0.92, 0.01, 3),
]


def scattered(axes):
    return [c for c in axes.collections if isinstance(c, PathCollection)]


def test_dots_lie_at_parameters_and_accuracy_with_an_area_in_proportion_to_flops():
    figure = accuracy_and_cost(DOTS, False, "title", "note")
    (axes,) = figure.axes
    found = {tuple(round(float(v), 6) for v in dot.get_offsets()[0]): dot.get_sizes()[0] for dot in scattered(axes)}
    assert found == {
        (100_000, 90): LARGEST / 4,
        (400_000, 93): LARGEST,
        (25_000, 88): LARGEST / 4,
        (100_000, 92): LARGEST,
    }
    assert axes.get_xscale() == "log" and "parameters" in axes.get_xlabel()
    low, high = axes.get_xlim()
    assert low < 25_000 and high > 400_000
    assert {text.get_text() for text in axes.texts} >= {"64/4", "128/4", "note"}


def test_depth_on_a_linear_axis():
    dots = [Dot("unshared", 64 - 8 * i, 2**i, 100_000, 10_000 * 4**i, 0.9, 0.0, 1) for i in range(4)]
    (axes,) = accuracy_and_cost(dots, True, "title", "note").axes
    assert [dot.get_offsets()[0][0] for dot in scattered(axes)] == [1, 2, 4, 8]
    assert axes.get_xscale() == "linear" and axes.get_xlabel() == "depth, each network with about 100 k parameters"
    assert min(dot.get_sizes()[0] for dot in scattered(axes)) == SMALLEST
    assert "one seed" in axes.texts[-2].get_text() + axes.texts[-1].get_text()


def test_the_same_dots_are_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg", "c.png"):
        write_figure(accuracy_and_cost(DOTS, False, "title", "note"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999"), (1000, "1 k"), (112_138, "112 k"), (1_499_000, "1.5 M"), (999_999, "1 M")]
)
def test_short_numbers(number, text):
    assert short(number) == text


def test_no_dots():
    with pytest.raises(ValueError, match="without dots"):
        accuracy_and_cost([], False, "title", "note")


def test_long_plan_names_are_whole():
    dots = [Dot("one kernel, and blending in each of the layers", 64, 4, 25_000, 2_000_000, 0.88, 0.0, 1), *DOTS]
    figure = accuracy_and_cost(dots, False, "title", "note")
    figure.draw_without_rendering()
    (legend,) = figure.axes[0].artists
    assert legend.get_window_extent().x1 <= figure.bbox.x1
