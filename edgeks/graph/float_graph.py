"""nn.Module → float graph in its plainest form: what every export and every quantisation starts from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from edgeks.graph.from_torch import capture, graph_plan, without_parametrizations
from edgeks.graph.ledger import Ledger
from edgeks.graph.marks import take_marks
from edgeks.graph.passes.global_average_pool import global_average_pool
from edgeks.graph.passes.merge_padding import merge_padding
from edgeks.graph.passes.name_kernels import name_kernels
from edgeks.graph.passes.normalise_batch_norm import normalise_batch_norm
from edgeks.graph.passes.pad_average_pool import pad_average_pool
from edgeks.graph.passes.tidy import tidy
from edgeks.graph.passes.tie_initializers import tie_initializers
from edgeks.graph.passes.transpose_kernels import transpose_kernels
from edgeks.sharing.torch import discover


def float_graph(
    model: nn.Module, example: NDArray[np.float32], opset: int, *, marked: bool = False
) -> tuple[ir.Model, Ledger]:
    """Module → float graph for exactly the shape of `example`, tidied, and its ledger with one verified row per step.

    `marked`: the module puts marks on tensors (graph/marks.py); they are on the graph's Values then.

    Raises:
        GraphError: the network cannot be captured.
        SharingBroken: a step broke a tie.
    """
    model = without_parametrizations(model)
    graph = capture(model, example, opset)
    captured = f"{len(graph.graph)} nodes from torch.onnx.export"
    if marked:
        captured += f", {take_marks(graph)}"
    transposed = transpose_kernels(graph)
    tied = tie_initializers(graph, discover(model))
    ledger = Ledger(graph_plan(graph, model))  # only now does every layer read its kernel
    ledger.record("capture", graph, captured)
    ledger.run("transpose_kernels", graph, lambda: transposed)
    ledger.run("tie_initializers", graph, lambda: tied)
    ledger.run("name_kernels", graph, lambda: name_kernels(graph, ledger.plan))
    ledger.run("tidy", graph, lambda: tidy(graph))
    ledger.run("normalise_batch_norm", graph, lambda: normalise_batch_norm(graph))
    ledger.run("merge_padding", graph, lambda: merge_padding(graph))
    ledger.run("pad_average_pool", graph, lambda: pad_average_pool(graph))
    ledger.run("global_average_pool", graph, lambda: global_average_pool(graph))
    return graph, ledger
