import numpy as np
import pytest
from PIL import Image

from edgeks.figures.blending_picture import blending_picture, marked, marks, picture
from edgeks.figures.style import write_figure


@pytest.mark.parametrize(("inputs", "each"), [(512, 32), (128, 32), (64, 16), (8, 2), (3, 1), (2, 1), (1, 0)])
def test_32_of_each_end_and_at_most_a_quarter_of_a_row(inputs, each):
    found = marks(np.random.default_rng(0).standard_normal((5, inputs)))
    assert marked(inputs) == each
    assert ((found == -1).sum(axis=1) == each).all() and ((found == 1).sum(axis=1) == each).all()


def test_the_marked_weights_are_the_lowest_and_highest_of_their_row():
    matrix = np.random.default_rng(0).standard_normal((7, 200))
    for row, marking in zip(matrix, marks(matrix), strict=True):
        assert set(row[marking == -1]) == set(np.sort(row)[:32])
        assert set(row[marking == 1]) == set(np.sort(row)[-32:])


def test_ties_are_broken_by_column_and_pruned_weights_are_never_marked():
    assert marks(np.ones((2, 8))).tolist() == [[-1, -1, 0, 0, 0, 0, 1, 1]] * 2
    assert not marks(np.zeros((3, 16))).any()
    sparse = np.zeros((1, 16))
    sparse[0, 5], sparse[0, 9] = -2, 3
    assert marks(sparse)[0].nonzero()[0].tolist() == [5, 9]


def test_a_pruned_weight_is_lighter_than_every_other_one():
    matrix = np.random.default_rng(0).standard_normal((4, 40)) + 5
    matrix[:, 20] = 0
    image = picture(matrix)
    assert (image[:, 20].min(axis=1) > np.delete(image, 20, axis=1).min(axis=2).max()).all()


@pytest.mark.parametrize(("size", "panels"), [(8, 1), (512, 2), (70, 7)])
def test_every_weight_is_drawn_as_a_square_of_whole_pixels(tmp_path, size, panels):
    """The colours of a sheet's first panel are those of the picture, weight by weight."""
    rng = np.random.default_rng(0)
    kernels = [(f"stages.{index}.blend", rng.standard_normal((size, size))) for index in range(panels)]
    path = tmp_path / "sheet.png"
    write_figure(blending_picture(kernels, title="blending weights"), path)
    drawn = np.asarray(Image.open(path).convert("RGB"), np.int16)
    wanted = np.round(picture(kernels[0][1]) * 255).astype(np.int16)
    blue = np.argwhere((abs(drawn - wanted[tuple(np.argwhere(marks(kernels[0][1]) == -1)[0])]) <= 2).all(axis=2))
    assert len(blue)
    scale = max(2 if panels <= 4 else 1, 380 // size)
    left, top = 34, 62 + 26
    cells = drawn[top + scale // 2 : top + size * scale : scale, left + scale // 2 : left + size * scale : scale]
    assert (abs(cells - wanted) <= 2).mean() > 0.97  # the frame covers the outermost pixels
