"""BN behind BN, and BN behind a sum of BN: one per convolution, the same function."""

from functools import reduce

import numpy as np
import torch
from torch import nn

from edgeks.formats.onnx import REFERENCE, open_session, to_proto
from edgeks.graph.float_graph import float_graph
from edgeks.graph.passes.merge_batch_norm import merge_batch_norm

X = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)


def norm():
    layer = nn.BatchNorm2d(4)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean):
            tensor.copy_(torch.randn(4))
        layer.running_var.copy_(torch.rand(4) + 0.5)
    return layer


class Net(nn.Module):
    def __init__(self, terms, *, read_twice=False):
        super().__init__()
        torch.manual_seed(0)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(terms))
        self.gains = nn.ModuleList(norm() for _ in range(terms))
        self.norm, self.read_twice = norm(), read_twice

    def forward(self, x):
        y = reduce(torch.add, [gain(conv(x)) for conv, gain in zip(self.convs, self.gains, strict=True)])
        return self.norm(y) + y if self.read_twice else self.norm(y)


def merged(model):
    graph, _ = float_graph(model.eval(), X, 20)
    before = sum(node.op_type == "BatchNormalization" for node in graph.graph)
    note = merge_batch_norm(graph)
    after = [node.op_type for node in graph.graph].count("BatchNormalization")
    found = open_session(to_proto(graph).SerializeToString(), REFERENCE, "merged").run(None, {"input": X})[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)
    return before, after, note


def test_one_behind_the_other():
    assert merged(Net(1)) == (2, 1, "1 BN merged into the one before, 0 of them through a sum")


def test_through_a_sum_of_three():
    assert merged(Net(3)) == (4, 3, "1 BN merged into the one before, 1 of them through a sum")


def test_not_where_somebody_else_reads_the_sum():
    assert merged(Net(2, read_twice=True))[:2] == (3, 3)
