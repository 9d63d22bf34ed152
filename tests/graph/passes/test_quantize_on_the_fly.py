"""Layers that LiteRT computes in integers between float tensors: a kernel in all its layers, or in none."""

import numpy as np
from onnx_text import constant, graph_of, normal, ops, run_graph, two_convs_with_norms

from edgeks.graph.kernels import readers
from edgeks.graph.passes.quantize_on_the_fly import quantize_on_the_fly


def test_a_shared_kernel_is_integer_also_in_the_layer_that_reads_the_input():
    model = two_convs_with_norms(np.ones(4, np.float32), np.ones(4, np.float32))
    x = normal(1, 4, 6, 6, seed=1)
    before = run_graph(model, x)[0]
    assert quantize_on_the_fly(model) == "2 layers in integers on 2 activations quantised on the fly"
    assert ops(model).count("DynamicQuantizeLinear") == 2
    ((kernel, layers),) = readers(model).items()
    assert layers == ["conv1", "conv2"] and constant(kernel).dtype == np.int8
    assert np.linalg.norm(run_graph(model, x)[0] - before) < 0.03 * np.linalg.norm(before)


def test_a_kernel_of_layers_that_all_read_the_input_stays_in_float():
    model = graph_of(
        """(float[1,4,6,6] x) => (float[1,4,4,4] y) {
            [a] s = Conv(x, A)
            [b] t = Conv(x, A)
            [add] y = Add(s, t)
        }""",
        A=normal(4, 4, 3, 3),
    )
    assert quantize_on_the_fly(model) == "nothing to do: no layer is computed in integers"
    assert "DynamicQuantizeLinear" not in ops(model)
