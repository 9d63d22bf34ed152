"""Between Q/DQ pairs of one scale an op that moves values moves codes; zeros that it adds are the zero point."""

import numpy as np
import pytest
from onnx_text import graph_of, normal, ops, run_graph

from edgeks.graph.passes.move_codes import move_codes

MOVES = {
    "zeros": "Pad(d, amounts)",
    "zeros, spelt out": "Pad(d, amounts, zero)",
    "reflection": 'Pad<mode="reflect">(d, amounts)',
    "edge": 'Pad<mode="edge">(d, amounts)',
    "depth to space": "DepthToSpace<blocksize=2>(d)",
    "tile": "Tile(d, repeats)",
}


def between_pairs(op, second_scale="s"):
    return graph_of(
        f"""(float[1,4,4,4] x) => (float["n","c","h","w"] y) {{
            [q] q = QuantizeLinear(x, s, z)
            [dq] d = DequantizeLinear(q, s, z)
            [move] m = {op}
            [q2] q2 = QuantizeLinear(m, {second_scale}, z)
            [dq2] y = DequantizeLinear(q2, {second_scale}, z)
        }}""",
        s=np.float32(0.02),
        t=np.float32(0.03),
        z=np.array(40, np.uint8),
        zero=np.float32(0),
        amounts=np.array([0, 0, 1, 1, 0, 0, 1, 2]),
        repeats=np.array([1, 2, 1, 1]),
    )


@pytest.mark.parametrize("name", MOVES)
def test_the_codes_are_moved_and_the_function_stays(name):
    model = between_pairs(MOVES[name])
    x = normal(1, 4, 4, 4)
    before = run_graph(model, x)[0]
    assert move_codes(model) == "1 nodes move codes"
    assert ops(model) == ["QuantizeLinear", MOVES[name].partition("(")[0].partition("<")[0], "DequantizeLinear"]
    np.testing.assert_array_equal(run_graph(model, x)[0], before)


def test_another_scale_behind_keeps_the_float_op():
    model = between_pairs("Pad(d, amounts)", second_scale="t")
    assert move_codes(model) == "0 nodes move codes"
    assert len(ops(model)) == 5


def test_an_op_that_the_runtime_sees_through_stays():
    model = between_pairs("MaxPool<kernel_shape=[2,2]>(d)")
    assert move_codes(model) == "0 nodes move codes"
