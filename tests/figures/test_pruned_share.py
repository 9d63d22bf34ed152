"""The figure of pruning: every point lies within the axes."""

import pytest

from edgeks.figures.pruned_share import pruned_share


@pytest.mark.parametrize("accuracies", [(0.9, 0.95, 0.97), (0.9, 0.5, 0.1), (0.9, 0.9, 0.9), (0.0, 0.0, 0.0)])
def test_no_point_lies_outside_the_axes(accuracies):
    lines = {"layer by layer": [(0.1 * index, accuracy) for index, accuracy in enumerate(accuracies)]}
    (axes,) = pruned_share(lines, accuracies[0], title="title", chance=0.1).axes
    low, high = axes.get_ylim()
    assert all(low <= 100 * accuracy <= high for accuracy in accuracies)
