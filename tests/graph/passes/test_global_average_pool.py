"""The mean over H and W becomes GlobalAveragePool; other means stay."""

import numpy as np
import pytest
from onnx_text import graph_of, normal, ops, run_graph

from edgeks.graph.passes.global_average_pool import global_average_pool


def mean(axes, keepdims, output):
    return graph_of(
        f"(float[2,4,3,3] x) => (float{output} y) {{ [mean] y = ReduceMean<keepdims={keepdims}>(x, axes) }}",
        axes=np.array(axes),
    )


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, -2]])
@pytest.mark.parametrize(("keepdims", "output"), [(1, "[2,4,1,1]"), (0, "[2,4]")])
def test_the_mean_over_the_map(axes, keepdims, output):
    model = mean(axes, keepdims, output)
    x = normal(2, 4, 3, 3)
    before = run_graph(model, x)[0]
    assert global_average_pool(model) == "1 mean over the feature map"
    assert ops(model) == ["GlobalAveragePool"] + ["Flatten"] * (1 - keepdims)
    assert model.graph.outputs[0].name == "y" and not model.graph.initializers
    np.testing.assert_allclose(run_graph(model, x)[0], before, atol=1e-6)


@pytest.mark.parametrize(("axes", "output"), [([1], "[2,1,3,3]"), ([1, 2, 3], "[2,1,1,1]"), ([2], "[2,4,1,3]")])
def test_another_mean_stays(axes, output):
    model = mean(axes, 1, output)
    assert global_average_pool(model).startswith("0 ")
    assert ops(model) == ["ReduceMean"]


def test_the_mean_over_a_line():
    model = graph_of(
        "(float[2,4,9] x) => (float[2,4] y) { [mean] y = ReduceMean<keepdims=0>(x, axes) }", axes=np.array([2])
    )
    x = normal(2, 4, 9)
    assert global_average_pool(model) == "1 mean over the feature map"
    np.testing.assert_allclose(run_graph(model, x)[0], x.mean(2), atol=1e-6)
