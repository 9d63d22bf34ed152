"""A rolled file has the kernels, layers, savings and compute of the unrolled one, and says what a loop stands for."""

import io
import json
from dataclasses import replace

import networks
import pytest
import torch
from rich.console import Console
from torch import nn

from edgeks.audit.diff import diff
from edgeks.audit.footprint import footprint
from edgeks.audit.footprint_json import to_json
from edgeks.audit.html_report import html_page
from edgeks.audit.report import render
from edgeks.exporter import export
from edgeks.target import load_target

LAYERS, CHANNELS = 6, 96
ONNX = load_target("onnx")
PACKED_PER_LAYER = replace(ONNX, int8=replace(ONNX.int8, kernel_zero_point=0))


class Shared(nn.Module):
    """A stem, six convolutions of one kernel with a norm and a small depthwise convolution of their own, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 1)
        self.convs = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False) for _ in range(LAYERS))
        for conv in self.convs[1:]:
            conv.weight = self.convs[0].weight
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(LAYERS))
        for norm in self.norms:  # else all alike, and a loop need not stack what is
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
        self.own = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS) for _ in range(LAYERS))
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x):
        x = self.stem(x)
        for conv, norm, own in zip(self.convs, self.norms, self.own, strict=True):
            x = torch.relu(own(norm(conv(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module", params=["fp32", "int8"])
def files(request, tmp_path_factory):
    """The network, unrolled and rolled."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = networks.checkpoint_of(Shared(), (3, 8, 8))
    folder, int8 = tmp_path_factory.mktemp("rolled"), request.param == "int8"
    for form in ("unrolled", "rolled"):
        path = folder / f"{form}.onnx"
        export(checkpoint, path, PACKED_PER_LAYER, int8=int8, layers=form, min_sqnr_db=-200)
    return [footprint(folder / f"{form}.onnx") for form in ("unrolled", "rolled")]


def test_figures_are_those_of_the_unrolled_file(files):
    unrolled, rolled = files
    for figure in ("kernels", "layers", "saved_bytes"):
        assert getattr(rolled.flash, figure) == getattr(unrolled.flash, figure), figure
    for figure in ("macs", "parameters", "parameters_unshared"):
        assert getattr(rolled.compute, figure) == getattr(unrolled.compute, figure), figure


def test_a_node_stands_for_its_trips(files):
    _, rolled = files
    (kernel,) = rolled.flash.shared
    assert (kernel.layers, kernel.runs, kernel.reads) == (("convs.0",), (LAYERS,), LAYERS)
    held = {row.kernel: row for row in rolled.ram[0].predicted.kernels}[kernel.constant]
    assert (held.layers, held.copies) == (LAYERS, 1)


def test_neither_file_has_groups_that_the_other_lacks(files):
    for old, new in (files, files[::-1]):
        changed = diff(old, new)
        assert not changed.groups_lost and not changed.groups_gained


def test_the_reports_say_it(files):
    _, rolled = files
    console = Console(file=io.StringIO(), width=100)
    render(rolled, console)
    text = " ".join(console.file.getvalue().split())
    assert f"{LAYERS}: convs.0 ×{LAYERS}" in text
    assert f"copies of the shared kernel of {LAYERS} layers in RAM: 1 (" in text
    (group,) = to_json(rolled)["flash"]["sharing_groups"]
    assert (group["layers"], group["runs"], group["reads"]) == (["convs.0"], [LAYERS], LAYERS)
    assert json.dumps(group, separators=(",", ":")) in html_page(to_json(rolled))


def test_a_loop_is_suggested_where_codes_are_packed_per_layer(files):
    unrolled, rolled = ({each.kind: each for each in found.suggestions} for found in files)
    assert "roll" not in rolled
    if files[0].flash.shared[0].dtype == "float32":
        assert "roll" not in unrolled  # folding: another profile keeps it from that
        return
    assert unrolled["roll"].saved_bytes == (LAYERS - 1) * 9 * CHANNELS**2
    assert "--form rolled" in unrolled["roll"].text


def test_nor_of_tflite_files(tmp_path):
    torch.manual_seed(0)
    checkpoint = networks.checkpoint_of(Shared(), (3, 8, 8))
    for form in ("unrolled", "rolled"):
        export(checkpoint, tmp_path / f"{form}.tflite", load_target("tflite"), layers=form, min_sqnr_db=-200)
    files = [footprint(tmp_path / f"{form}.tflite") for form in ("unrolled", "rolled")]
    for old, new in (files, files[::-1]):
        changed = diff(old, new)
        assert not changed.groups_lost and not changed.groups_gained
