"""Zeros around a feature map are the convolution's own padding; any other Pad stays."""

import numpy as np
import pytest
from onnx_text import graph_of, node_of, normal, ops, run_graph

from edgeks.graph.passes.merge_padding import merge_padding


def padded(amounts, attributes="", value=None, conv="group=1", reader="y = Conv<{}>(p, W)"):
    constants = {"W": normal(4, 4, 3, 3), "amounts": np.array(amounts)}
    if value is not None:
        constants["value"] = np.float32(value)
    return graph_of(
        f"""(float[1,4,6,6] x) => (float[1,4,"h","w"] y) {{
            [pad] p = Pad{attributes}(x, amounts{", value" if value is not None else ""})
            [reader] {reader.format(conv)}
        }}""",
        **constants,
    )


@pytest.mark.parametrize("value", [None, 0.0])
@pytest.mark.parametrize("conv", ["group=1", "pads=[1,0,2,1]", "strides=[2,2]", "dilations=[2,2], pads=[1,1,1,1]"])
def test_zeros_become_pads(conv, value):
    model = padded([0, 0, 0, 1, 0, 0, 1, 2], value=value, conv=conv)
    x = normal(1, 4, 6, 6)
    before = run_graph(model, x)[0]
    assert merge_padding(model) == "1 convolutions pad for themselves"
    assert ops(model) == ["Conv"] and set(model.graph.initializers) == {"W"}
    np.testing.assert_array_equal(run_graph(model, x)[0], before)


@pytest.mark.parametrize(
    "kept",
    [
        {"amounts": [0, 0, 1, 1, 0, 0, 1, 1], "value": 0.5},
        {"amounts": [0, 0, 1, 1, 0, 0, 1, 1], "attributes": '<mode="reflect">'},
        {"amounts": [0, 0, -1, 1, 0, 0, 1, 1]},
        {"amounts": [0, 0, 1, 1, 0, 0, 1, 1], "conv": 'auto_pad="SAME_UPPER"'},
        {"amounts": [0, 0, 1, 1, 0, 0, 1, 1], "reader": "y = MaxPool<kernel_shape=[2,2]>(p)"},
    ],
    ids=["another value", "another mode", "a crop", "auto_pad", "another reader"],
)
def test_what_is_no_padding_of_a_convolution_stays(kept):
    model = padded(**kept)
    assert merge_padding(model).startswith("nothing to do")
    assert ops(model)[0] == "Pad"


def test_a_second_reader_keeps_the_pad_and_a_graph_output_too():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,8,8] p) {
            [pad] p = Pad(x, amounts)
            [conv] y = Conv(p, W)
        }""",
        W=normal(4, 4, 3, 3),
        amounts=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    )
    x = normal(1, 4, 6, 6)
    before = run_graph(model, x)
    merge_padding(model)
    assert node_of(model, "conv").inputs[0].name == "x" and ops(model) == ["Pad", "Conv"]
    for found, expected in zip(run_graph(model, x), before, strict=True):
        np.testing.assert_array_equal(found, expected)
