"""The parity report: silent on what is right, and naming the tensor where the arithmetic goes wrong."""

import pytest
import torch
from networks import checkpoint_of, inputs_of, randomise_batch_norm
from torch import nn

from edgeks.errors import ConfigError, ParityFailed
from edgeks.exporter import export
from edgeks.graph.float_graph import float_graph
from edgeks.layer_parity import layer_parity
from edgeks.quant.options import Int8Options
from edgeks.quant.qat import marked, prepare_qat
from edgeks.quant.quantise import quantise
from edgeks.samples import Samples
from edgeks.target import load_target

TARGET = load_target("onnx")
SHAPE = (3, 10, 10)


class Scaled(nn.Module):
    """conv → BN → ReLU → conv → pool → ×factor → conv: one kernel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, bias=False)
        self.third = nn.Conv2d(3, 3, 3, bias=False)
        self.second.weight = self.third.weight = self.first.weight
        self.pool = nn.AvgPool2d(2)
        self.register_buffer("factor", torch.tensor(1.0))

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = self.pool(self.second(x)) * self.factor
        return self.third(x).flatten(1)


def compared(factor, inputs):
    model = randomise_batch_norm(Scaled(), torch.randn(16, *SHAPE))
    prepared = prepare_qat(model, torch.from_numpy(inputs[:1]), ranges="moving_average")
    network, names = marked(prepared)
    graph, ledger = float_graph(network, inputs[:1], 20, marked=True)
    quantise(graph, ledger, Samples(inputs, "", real=True), TARGET.int8, Int8Options())
    prepared.get_buffer("factor").fill_(factor)  # as if the runtime computed another product
    return layer_parity(prepared, names, graph, inputs, None)


def test_it_names_the_tensor_where_it_goes_wrong_and_not_those_behind():
    inputs = inputs_of(checkpoint_of(Scaled(), SHAPE, samples=8))
    right, wrong = compared(1.0, inputs), compared(1.1, inputs)
    assert right.first_over_one is None and right.outputs_within_one_step == 1
    assert [row.tensor for row in wrong.tensors if row.largest > 1] == ["mul"]
    assert wrong.first_over_one == "mul"


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("target", ["onnx", "rpi-4"])
def test_a_report_on_any_network_after_training(form, target, tmp_path):
    checkpoint = checkpoint_of(randomise_batch_norm(Scaled(), torch.randn(16, *SHAPE), negative=0.3), SHAPE)
    options = Int8Options(form=form, bias_correction=True, rounding="adaround")
    report = export(
        checkpoint, tmp_path / "m.onnx", load_target(target), int8=True, options=options, parity_report=True
    )
    assert report.layers.first_over_one is None and len(report.layers.tensors) >= 3
    assert '"first_over_one": null' in report.ledger_path.read_text()


@pytest.mark.parametrize("layers", ["unrolled", "rolled"])
@pytest.mark.parametrize("target", ["onnx", "onnx-x64", "rpi-4"])
def test_a_report_on_operators_whose_shared_kernel_has_a_zero_point(target, layers, tmp_path):
    torch.manual_seed(0)
    first, *others = [nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(4)]
    for conv in others:
        conv.weight = first.weight
    steps = [step for conv in (first, *others) for step in (conv, nn.BatchNorm2d(8), nn.ReLU())]
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), *steps, nn.Conv2d(8, 4, 1), nn.Flatten())
    checkpoint = checkpoint_of(randomise_batch_norm(network, torch.randn(16, *SHAPE)), SHAPE)
    report = export(
        checkpoint, tmp_path / "m.onnx", load_target(target), int8=True, options=Int8Options(form="qoperator"),
        layers=layers, parity_report=True,
    )  # fmt: skip
    assert report.layers.first_over_one is None and len(report.layers.tensors) >= 5


def test_a_failed_export_says_where_it_went_wrong_and_leaves_nothing(tmp_path):
    checkpoint = checkpoint_of(randomise_batch_norm(Scaled(), torch.randn(16, *SHAPE)), SHAPE)
    with pytest.raises(ParityFailed, match="no tensor is off by over a step"):
        export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, parity_report=True, min_sqnr_db=190)
    with pytest.raises(ConfigError, match="it needs --int8 with static activations"):
        export(checkpoint, tmp_path / "m.onnx", TARGET, parity_report=True)
    assert not list(tmp_path.iterdir())
