"""The plainest float form of a graph: the steps that a graph from torch and one from a file have in common."""

from __future__ import annotations

import onnx_ir as ir

from edgeks.graph.ledger import Ledger
from edgeks.graph.passes.global_average_pool import global_average_pool
from edgeks.graph.passes.merge_padding import merge_padding
from edgeks.graph.passes.name_kernels import name_kernels
from edgeks.graph.passes.normalise_batch_norm import normalise_batch_norm
from edgeks.graph.passes.pad_average_pool import pad_average_pool
from edgeks.graph.passes.tidy import tidy


def to_plain_form(graph: ir.Model, ledger: Ledger) -> None:
    """Tidy a float graph of tied kernels in place, with one verified row per step.

    Raises:
        SharingBroken: a step broke a tie.
    """
    ledger.run("name_kernels", graph, lambda: name_kernels(graph, ledger.plan))
    ledger.run("tidy", graph, lambda: tidy(graph))
    ledger.run("normalise_batch_norm", graph, lambda: normalise_batch_norm(graph))
    ledger.run("merge_padding", graph, lambda: merge_padding(graph))
    ledger.run("pad_average_pool", graph, lambda: pad_average_pool(graph))
    ledger.run("global_average_pool", graph, lambda: global_average_pool(graph))
