"""--form cached: the same numbers with LiteRT's weight cache as without, and one packed copy of each shared kernel."""

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_of_one_kernel import Layers
from networks import SharedConvs, inputs_of, small_checkpoint
from one_capture import one_capture
from plain_tflite import PlainTflite, require_exactly_once
from test_tflite_artefacts import groups_of
from tflite_graph import compiled, interpreted
from torch import Tensor, nn

from edgeks.errors import ConfigError, ParityFailed
from edgeks.export_checks import require_computed_as_written
from edgeks.exporter import export
from edgeks.model_files.tflite_file import read_tflite
from edgeks.model_files.tflite_kernels import kernel_operators
from edgeks.model_files.tflite_weight_cache import cached_copies, weight_cache_fault
from edgeks.models.convmixer import ConvMixer
from edgeks.models.se_resnet import SEResNet
from edgeks.quant.options import Int8Options
from edgeks.quant.qat import prepare_qat
from edgeks.target import load_target

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


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2)), min_size=2, max_size=4),
    st.booleans(),
    st.sampled_from(["fp32", "dynamic", "static"]),
    st.integers(0, 2),
)
def test_any_small_network(tmp_path_factory, steps, bias, kind, seed):
    strides, dilations = zip(*steps, strict=True)
    checkpoint = small_checkpoint(SharedConvs(8, strides, dilations=dilations, bias=bias, seed=seed), negative=0.3)
    folder = tmp_path_factory.mktemp("any")
    path = folder / "net.tflite"
    with one_capture():  # of its own: what it remembers tells networks apart by names alone
        export(checkpoint, path, TARGET, layers="cached", min_sqnr_db=5, **KINDS[kind])
    require_exactly_once(PlainTflite(path), groups_of(path))
    require_same_with_a_cache(path, checkpoint, folder)
    assert cached_copies(read_tflite(path))[shared_buffer(path)] == 1


def shared_buffer(path):
    """The buffer that most layers read."""
    return Counter(operator.buffer for operator in kernel_operators(read_tflite(path))).most_common(1)[0][0]


def test_int8_is_dynamic_unless_said_otherwise_and_a_layer_alone_keeps_its_form(tmp_path):
    report = export(network_named("strides"), tmp_path / "net.tflite", TARGET, int8=True, layers="cached")
    assert report.form == "cached dynamic"
    steps = {row.step: row.note for row in report.ledger.rows}
    assert steps["separate_affine"].startswith("3 BN as Mul and Add")
    assert steps["fold_batch_norm"].startswith("1 BN folded into kernels of one layer, 0 behind shared")


def test_where_there_is_no_such_form(tmp_path):
    checkpoint, path = network_named("strides"), tmp_path / "net.tflite"
    for target in (load_target("rpi-4-tflite"), replace(TARGET, runtime="tflite-runtime")):
        with pytest.raises(ConfigError, match="the weight cache is XNNPACK's, in LiteRT"):
            export(checkpoint, path, target, layers="cached")
    trained = replace(checkpoint, model=prepare_qat(checkpoint.model, torch.from_numpy(inputs_of(checkpoint)[:1])))
    with pytest.raises(ConfigError, match="trained with fake quantisation"):
        export(trained, path, TARGET, int8=True, layers="cached")
    assert not list(tmp_path.iterdir())


def test_a_file_that_a_runtime_would_compute_otherwise_is_refused(tmp_path):
    path = tmp_path / "net.tflite"
    export(
        network_named("strides"), path, TARGET, int8=True, layers="unrolled", options=Int8Options(activations="dynamic")
    )
    require_computed_as_written(path, path, "unrolled")
    with pytest.raises(ParityFailed, match=r"share the buffers of their kernel .* Try --form unrolled"):
        require_computed_as_written(path, path, "cached")
    shared = Layers(kernel_scale=(1, 2, 4)).write(tmp_path / "shared_bias.tflite")
    with pytest.raises(ParityFailed, match="share the buffers of their kernel"):
        require_computed_as_written(shared, shared, "unrolled")
    hybrid = Layers("hybrid", "FULLY_CONNECTED").write(tmp_path / "hybrid.tflite")
    with pytest.raises(ParityFailed, match=r"tflite-runtime 2\.14 would compute zeros"):
        require_computed_as_written(hybrid, hybrid, "unrolled")


def test_a_network_that_shares_nothing_is_told_so(tmp_path):
    report = export(small_checkpoint(SharedConvs(4, shared=False)), tmp_path / "net.tflite", TARGET, layers="cached")
    assert any(warning.startswith("no two layers share a kernel: --form cached saves") for warning in report.warnings)
