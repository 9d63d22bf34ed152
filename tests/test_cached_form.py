"""--form cached: the same numbers with LiteRT's weight cache as without, and one packed copy of each shared kernel."""

import functools

import numpy as np
import pytest
import torch
from networks import SharedConvs, inputs_of, small_checkpoint
from one_capture import one_capture
from plain_tflite import PlainTflite, require_exactly_once
from test_tflite_artefacts import groups_of
from tflite_graph import compiled, interpreted
from torch import Tensor, nn

from edgeks.exporter import export
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.quant.options import Int8Options
from edgeks.target import load_target
from edgeks.tflite_file import read_tflite
from edgeks.tflite_weight_cache import weight_cache_fault

TARGET = load_target("tflite")
KINDS = {
    "fp32": {},
    "fp16": {"float16": True},
    **{mode: {"int8": True, "options": Int8Options(activations=mode)} for mode in ("dynamic", "float", "static")},
}


class SharedLinear(nn.Module):
    """Tokens through one matrix three times, each time with a bias of its own, and added to what went in."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        for layer in self.layers[1:]:
            layer.weight = self.layers[0].weight
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W → N×width."""
        x = self.norms[0](torch.relu(self.stem(x)))
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = tokens + torch.relu(layer(tokens))
        return tokens.mean(1)


NETWORKS = {
    "strides": lambda: SharedConvs(16, (1, 2, 1), dilations=(1, 1, 2)),
    "biases": lambda: SharedConvs(16, bias=True),
    "depthwise": lambda: SharedConvs(16, (1, 2, 1, 1), dilations=(1, 1, 2, 1), groups=16, bias=True),
    "linear": SharedLinear,
    "ConvMixer": lambda: ConvMixer(16, 4, 3, 2, 2),
    "ConvMixer, 9×9": lambda: ConvMixer(16, 3, 9, 1, 2),
    "SE-ResNet": lambda: SEResNet(2, (1, 2), widths=(8, 16), stem_width=8, reduction=4),
}


@pytest.fixture(scope="module", autouse=True)
def captured_once():
    with one_capture():
        yield


@functools.cache
def network_named(name):
    torch.manual_seed(0)
    return small_checkpoint(NETWORKS[name]())


def feeds(checkpoint, count=4):
    return np.ascontiguousarray(inputs_of(checkpoint)[:count].transpose(0, 2, 3, 1))


def run(path, images, cache=None):
    outputs = [(compiled(path, [x[None]], cache) if cache else interpreted(path, [x[None]]))[0] for x in images]
    return np.concatenate(outputs)


def require_same_with_a_cache(path, checkpoint, folder):
    """The file in CompiledModel, its cache cold and then warm, gives the interpreter's numbers."""
    assert weight_cache_fault(read_tflite(path)) is None
    images = feeds(checkpoint)
    expected = run(path, images)
    for _ in range(2):
        found = run(path, images, folder / "cache")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_in_every_kind(network, kind, tmp_path):
    checkpoint = network_named(network)
    path, plain = tmp_path / "net.tflite", tmp_path / "plain.tflite"
    cached = export(checkpoint, path, TARGET, layers="cached", min_sqnr_db=10, **KINDS[kind])
    require_exactly_once(PlainTflite(path), groups_of(path))
    require_same_with_a_cache(path, checkpoint, tmp_path)
    unrolled = export(checkpoint, plain, TARGET, layers="unrolled", min_sqnr_db=10, **KINDS[kind])
    assert cached.parity_here.sqnr_db > min(unrolled.parity_here.sqnr_db - 6, 90)
