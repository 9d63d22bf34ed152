"""Every node of a captured network knows the line of the user's Python that it comes from."""

from pathlib import Path

import pytest
import torch
from onnx_text import normal
from torch import nn

from edgeks.graph.float_graph import float_graph
from edgeks.graph.from_torch import capture
from edgeks.graph.source_lines import CAPTURED

X = normal(1, 4, 6, 6)
SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()


class Net(nn.Module):
    """Ops of the user's own file, directly and in torch's modules."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.Sequential(nn.BatchNorm2d(4), nn.GELU())

    def forward(self, x):
        x = self.conv(x)  # Conv
        x = self.norm(x)  # BatchNormalization, Gelu
        x = torch.sort(
            x,  # TopK
            1,
        ).values
        return x.mean((2, 3))  # ReduceMean, GlobalAveragePool, Flatten


def line_of(op):
    return next(number for number, line in enumerate(SOURCE, 1) if line.partition("  # ")[2].count(op))


def sources(model):
    return {node.op_type: node.meta["source"] for node in model.graph if node.op_type != "Constant"}


@pytest.mark.parametrize("below", [True, False], ids=["below the working directory", "elsewhere"])
def test_sources_are_the_user_s_lines(below, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parent if below else tmp_path)
    file = Path(__file__).name if below else __file__
    model = capture(Net(), X, 20)
    found = sources(model)
    assert found["Conv"] == f"{file}:{line_of('Conv')}"
    assert found["BatchNormalization"] == found["Gelu"] == f"{file}:{line_of('Gelu')}"
    assert found["TopK"] == f"{file}:{line_of('TopK') - 1}"  # where the call begins
    assert model.meta[CAPTURED] == "torch"


def test_passes_keep_them():
    model, _ = float_graph(Net(), X, 20)
    found = sources(model)
    assert model.meta[CAPTURED] == "torch"
    assert found["GlobalAveragePool"].endswith(f":{line_of('ReduceMean')}")  # replaced node by node
    assert {"Conv", "BatchNormalization", "Gelu", "TopK"} <= set(found)


def test_a_network_of_torch_s_own_modules_has_none():
    model = capture(nn.Sequential(nn.Conv2d(4, 4, 3), nn.GELU()), X, 20)
    assert not any("source" in node.meta for node in model.graph)
    assert model.meta[CAPTURED] == "torch"
