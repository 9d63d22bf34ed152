"""An AveragePool that counts padding in ceil mode is padded by a Pad; every other stays as it is."""

import numpy as np
import pytest
import torch
from onnx_text import graph_of, normal, ops, run_graph

from edgeks.graph.passes.pad_average_pool import pad_average_pool


def pool(attributes, size=7):
    return graph_of(
        f"""(float[1,4,{size},{size}] x) => (float[1,4,"h","w"] y) {{
            [pool] y = AveragePool<kernel_shape=[3,3], strides=[2,2], {attributes}>(x)
        }}"""
    )


@pytest.mark.parametrize("size", [6, 7])
def test_the_padded_form_is_what_torch_computes(size):
    model = pool("ceil_mode=1, count_include_pad=1, pads=[1,1,1,1]", size)
    assert pad_average_pool(model) == "1 AveragePool padded by a node of their own"
    assert ops(model) == ["Pad", "AveragePool"]
    x = normal(1, 4, size, size)
    expected = torch.nn.functional.avg_pool2d(torch.from_numpy(x), 3, 2, 1, ceil_mode=True).numpy()
    np.testing.assert_allclose(run_graph(model, x)[0], expected, atol=1e-6)
    assert list(model.graph.node(0).outputs[0].shape) == [1, 4, size + 2, size + 2]


@pytest.mark.parametrize(
    "attributes",
    ["pads=[1,1,1,1]", "ceil_mode=1", "ceil_mode=1, pads=[1,1,1,1]", "count_include_pad=1, pads=[1,1,1,1]"],
)
def test_others_stay(attributes):
    model = pool(attributes)
    assert pad_average_pool(model) == "nothing to do"
    assert ops(model) == ["AveragePool"]
