"""Kernels, and biases that are shared, take the name of their group."""

import numpy as np
from onnx_text import graph_of, normal

from edgeks.graph.passes.name_kernels import name_kernels
from edgeks.sharing.plan import SharingGroup, SharingPlan


def test_group_kernels_are_renamed_and_a_name_that_is_taken_is_left():
    model = graph_of(
        """(float[1,4,2,2] x) => (float[1,4,2,2] y) {
            [a] p = Conv(x, last, bias)
            [b] q = Conv(p, last, bias)
            [c] r = Conv(q, W)
            [d] s = Conv(r, W)
            [e] y = Conv(s, own)
        }""",
        last=normal(4, 4, 1, 1),
        bias=normal(4),
        W=normal(4, 4, 1, 1, seed=1),
        own=normal(4, 4, 1, 1, seed=2),
    )
    model.graph.initializers["own"].name = "c-d.weight"
    plan = SharingPlan(
        (
            SharingGroup("a-b", ("a", "b"), (4, 4, 1, 1), "shared"),
            SharingGroup("c-d", ("c", "d"), (4, 4, 1, 1)),
        ),
        (SharingGroup("e", ("e",), (4, 4, 1, 1)),),
    )
    assert name_kernels(model, plan) == "2 constants named after their group"
    assert set(model.graph.initializers) == {"a-b.weight", "a-b.bias", "W", "c-d.weight"}
    np.testing.assert_array_equal(model.graph.initializers["a-b.weight"].const_value.numpy(), normal(4, 4, 1, 1))
