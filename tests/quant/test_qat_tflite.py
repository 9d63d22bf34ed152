"""Quantisation-aware training for TFLite: the file holds what training decided, in integers LiteRT computes with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import SharedConvs, inputs_of, small_checkpoint
from plain_tflite import PlainTflite

from edgeks.errors import ConfigError
from edgeks.exporter import export
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.models.shard_resnet import ShardResNet
from edgeks.quant.fake_quant import ActivationFakeQuantize, KernelFakeQuantize
from edgeks.quant.options import Int8Options
from edgeks.quant.qat import prepare_qat
from edgeks.target import load_target

TARGET = load_target("tflite")
STATIC = Int8Options(activations="static")
# By XNNPACK against torch with fake quantisation: no code differs, but where a gate's sigmoid is a table.
NETWORKS = {
    "convolutions": (lambda: SharedConvs(8, (1, 2, 1), bias=True), 200),
    "ConvMixer": (lambda: ConvMixer(8, 4, 3, 2, 2), 200),
    "SE-ResNet": (lambda: SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4), 35),
    "SL-ResNet, image padded to n channels": (lambda: ShardResNet(8, (1,)), 200),
    "ConvMixer, split kernels": (lambda: ConvMixer(8, 2, 9, 1, 2), 200),
}


def trained(network):
    """A few steps towards nothing in particular: step sizes and weights are no longer where they started."""
    checkpoint = small_checkpoint(network)
    x = torch.from_numpy(inputs_of(checkpoint))
    prepared = prepare_qat(checkpoint.model, x[:1], replace(TARGET.int8, mode="static")).train()
    optimiser = torch.optim.SGD(prepared.parameters(), 1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        (prepared(x) ** 2).mean().backward()
        optimiser.step()
    return replace(checkpoint, model=prepared.eval())


def codes_of(network):
    """Codes of every kernel as training rounds it: O×…"""
    found = []
    for call in network.graph.nodes:
        module = network.get_submodule(call.target) if call.op == "call_module" else None
        if isinstance(module, KernelFakeQuantize):
            weight = network.get_parameter(call.args[0].target).detach()
            scale = module.scale.detach().view([-1] + [1] * (weight.ndim - 1))
            found.append((weight / scale).round().clamp(-127, 127).numpy())
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_trained_is_in_the_file(name, tmp_path):
    make, floor_db = NETWORKS[name]
    checkpoint = trained(make())
    report = export(checkpoint, tmp_path / "m.tflite", TARGET, int8=True)
    assert report.form == "static" and not any("not trained" in warning for warning in report.warnings)
    assert report.parity_here.sqnr_db >= floor_db and report.parity.sqnr_db > 30
    file, codes = PlainTflite(tmp_path / "m.tflite"), codes_of(checkpoint.model)
    scales = {t.scales[0] for t in file.tensors if len(t.scales) == 1}
    points = [m for m in checkpoint.model.modules() if isinstance(m, ActivationFakeQuantize)]
    if "split" in name:
        (kernel,) = (k for k in codes if k.shape == (8, 1, 9, 9))
        tiles = [operator_kernel for layer, operator_kernel in kernels(file).items() if "#tile" in layer]
        assert sum(tile.size for tile in tiles) == 2 * kernel.size
        assert {row.tobytes() for tile in tiles for row in tile.reshape(-1, 8)} <= {
            row.tobytes() for row in kernel.transpose(1, 2, 3, 0).astype(np.int8).reshape(-1, 8)
        }
        return
    assert all(float(point.scale.detach()) in scales for point in points)
    for content in kernels(file).values():
        wanted = [k for k in codes if k.size == content.size and same(k, content)]
        assert len(wanted) == 1


def kernels(file):
    return {layer: file.tensors[index].content for layer, (_, index) in file.layers().items()}


def same(kernel, content):
    """O×I×H×W against OHWI, or 1HWO."""
    if kernel.ndim == 4:
        order = (1, 2, 3, 0) if kernel.shape[1] == 1 else (0, 2, 3, 1)
        kernel = kernel.transpose(order)
    return np.array_equal(kernel.reshape(content.shape), content)


@pytest.mark.parametrize("name", ["convolutions", "SE-ResNet"])
@pytest.mark.parametrize("when", ["in training", "after training"])
def test_the_parity_report(name, when, tmp_path):
    make, _ = NETWORKS[name]
    checkpoint = trained(make()) if when == "in training" else small_checkpoint(make())
    options = Int8Options() if when == "in training" else STATIC
    report = export(checkpoint, tmp_path / "m.tflite", TARGET, int8=True, options=options, parity_report=True)
    assert report.layers.first_over_one is None and len(report.layers.tensors) >= 7


@pytest.mark.parametrize("when", ["in training", "after training"])
def test_a_parity_report_does_not_follow_tiles(when, tmp_path):
    make, _ = NETWORKS["ConvMixer, split kernels"]
    checkpoint = trained(make()) if when == "in training" else small_checkpoint(make())
    options = Int8Options() if when == "in training" else STATIC
    with pytest.raises(ConfigError, match=r"'blocks\.0\.depthwise' is split into float tiles"):
        export(checkpoint, tmp_path / "m.tflite", TARGET, int8=True, options=options, parity_report=True)
    assert not list(tmp_path.iterdir())
