"""nn.Module → float graph in its plainest form: what every export and every quantisation starts from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from edgeks.graph.from_torch import capture, require_ties, without_parametrizations
from edgeks.graph.ledger import Ledger
from edgeks.graph.passes.take_marks import take_marks
from edgeks.graph.passes.tie_initializers import tie_initializers
from edgeks.graph.passes.transpose_kernels import transpose_kernels
from edgeks.graph.plain_form import to_plain_form
from edgeks.graph.plan import graph_plan
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
    require_ties(graph, model)
    ledger = Ledger(graph_plan(graph))  # only now does every layer read its kernel
    ledger.record("capture", graph, captured)
    ledger.run("transpose_kernels", graph, lambda: transposed)
    ledger.run("tie_initializers", graph, lambda: tied)
    to_plain_form(graph, ledger)
    return graph, ledger
