"""Soft sharing through `edgeks.export`, in both formats and precisions: each stored kernel once, the choice told."""

import io
import json
import math

import pytest
import torch
from networks import checkpoint_of, randomise_batch_norm, smooth_samples
from rich.console import Console
from torch import nn

import edgeks
from edgeks.errors import ConfigError
from edgeks.export_report import render
from edgeks.quant.options import Int8Options


class Net(nn.Module):
    """A user's own: conv – BN – ReLU, four times; the convolutions read one bank of two templates."""

    def __init__(self, templates=2, layers=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(layers))
        self.head = nn.Linear(16, 2)
        if templates:
            edgeks.soft_share(self, edgeks.plan_sharing(self, 1), templates)

    def forward(self, x):
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


def network(templates=2):
    torch.manual_seed(0)
    return checkpoint_of(randomise_batch_norm(Net(templates), smooth_samples((16, 3, 8, 8))), (3, 8, 8))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_two_templates_are_two_kernels_each_stored_once(tmp_path, file_format, int8):
    out = tmp_path / f"soft.{file_format}"
    report = edgeks.export(network(), out, edgeks.load_target(file_format), int8=int8, min_sqnr_db=-math.inf)
    assert report.parity.sqnr_db > (20 if int8 else 100)
    assert report.proof.kernels_stored == 4  # stem, two kernels, head
    assert [len(group.layers) for group in report.ledger.plan.groups] == [3, 3]  # two layers of one term, two of two
    told = json.loads(report.ledger_path.read_text())["template_banks"]
    assert told == [{"name": "convs.0-3", "templates": 2, "layers": 4, "kernels": 2, "convolutions": 6}]
    assert "merge_batch_norm" in [row.step for row in report.ledger.rows]
    shown = Console(file=io.StringIO(), width=200)
    render(report, shown)
    assert "convs.0-3: 2 templates for 4 layers → 2 kernels, 6 convolutions" in shown.file.getvalue()


def test_fastest_stores_a_kernel_per_layer(tmp_path):
    small = edgeks.export(network(), tmp_path / "s.onnx", edgeks.load_target("onnx"), int8=True, min_sqnr_db=-math.inf)
    fast = edgeks.export(
        network(), tmp_path / "f.onnx", edgeks.load_target("onnx"), int8=True, banks="fastest", min_sqnr_db=-math.inf
    )
    assert str(fast.banks[0]) == "convs.0-3: 2 templates for 4 layers → 4 kernels, 4 convolutions"
    assert fast.file_bytes > small.file_bytes + 16 * 16 * 9


def test_one_template_is_one_kernel_that_rolls(tmp_path):
    report = edgeks.export(
        network(1), tmp_path / "r.tflite", edgeks.load_target("tflite"), int8=True, layers="rolled",
        options=Int8Options(activations="dynamic"), min_sqnr_db=-math.inf,
    )  # fmt: skip
    assert report.banks[0].kernels == 1
    assert [len(layers) for layers in report.ledger.rolled.values()] == [4]
    assert report.parity.sqnr_db > 20


def test_banks_of_a_network_without_any(tmp_path):
    with pytest.raises(ConfigError, match="banks fastest: this checkpoint has no template banks"):
        edgeks.export(network(0), tmp_path / "x.onnx", edgeks.load_target("onnx"), banks="fastest")
