"""Copies of one group's kernel become one Value; equal kernels outside the groups stay apart."""

import numpy as np
from onnx_text import graph_of, normal, run_graph

from edgeks.graph.kernels import readers
from edgeks.graph.passes.tie_initializers import tie_initializers
from edgeks.sharing.plan import SharingGroup, SharingPlan

W = normal(4, 4, 1, 1)
THREE_COPIES = """(float[1,4,2,2] x) => (float[1,4,2,2] y) {
    [a] p = Conv(x, W0)
    [b] q = Conv(p, W1)
    [c] y = Conv(q, W2)
}"""


def plan(*layers):
    return SharingPlan((SharingGroup("group", layers, (4, 4, 1, 1)),))


def test_copies_of_a_group_become_one_value_and_an_equal_outsider_stays():
    model = graph_of(THREE_COPIES, W0=W, W1=W.copy(), W2=W.copy())
    before = run_graph(model, normal(1, 4, 2, 2))[0]
    note = tie_initializers(model, plan("a", "b"))
    assert note == "1 copy merged"
    assert sorted(readers(model).values()) == [["a", "b"], ["c"]]
    assert set(model.graph.initializers) == {"W0", "W2"}
    np.testing.assert_array_equal(run_graph(model, normal(1, 4, 2, 2))[0], before)


def test_kernels_that_differ_are_not_tied_though_planned():
    model = graph_of(THREE_COPIES, W0=W, W1=W + np.float32(1e-6), W2=W)
    assert tie_initializers(model, plan("a", "b")) == "nothing to do: every tie is intact"
    assert len(readers(model)) == 3
