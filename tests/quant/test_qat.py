"""Quantisation-aware training: the network that trains is the network that is exported."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from graph_forms import FORMS, form_checkpoint
from networks import SharedConvs, checkpoint_of, inputs_of, randomise_batch_norm
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from edgeks.checkpoint import load_checkpoint, save_checkpoint
from edgeks.errors import CheckpointError, ConfigError, DataError, GraphError
from edgeks.exporter import export
from edgeks.formats.onnx import REFERENCE, open_session, run
from edgeks.models import zoo
from edgeks.quant import freeze_batch_norm, is_prepared, observe_ranges, prepare_qat, without_quantisers
from edgeks.quant.fake_quant import ActivationFakeQuantize, KernelFakeQuantize
from edgeks.quant.options import Int8Options
from edgeks.quant.qat import layout_of
from edgeks.sharing.torch import untied
from edgeks.target import load_target

TARGET = load_target("onnx")
SHAPE = (3, 12, 12)


class CalledOften(nn.Module):
    """One conv module, called three times; functional add, cat and relu."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        y = functional.relu(self.norms[0](self.conv(x)))
        z = functional.relu(self.norms[1](self.conv(y))) + x
        z = torch.cat([self.norms[2](self.conv(z)), y], 1)
        return self.head(z.mean((2, 3)))


class Functional(nn.Module):
    """F.conv2d and F.linear on Parameters, one of them read twice."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(0.2 * torch.randn(3, 3, 3, 3))
        self.norm = nn.BatchNorm2d(3)
        self.matrix = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        x = functional.relu(self.norm(functional.conv2d(x, self.kernel, padding=1)))
        x = functional.conv2d(x, self.kernel, stride=2)
        return functional.linear(x.mean((2, 3)), self.matrix)


CONVMIXER = {"dim": 16, "depth": 3, "kernel_size": 3, "patch_size": 2, "kernels": 2}
NETWORKS = {
    "ConvMixer": lambda: zoo.build("convmixer", CONVMIXER, 0),
    "SE-ResNet": lambda: zoo.build(
        "se_resnet",
        {"blocks_per_stage": 2, "shared_stages": [1, 2], "widths": [8, 16], "stem_width": 8, "reduction": 4},
        0,
    ),
    "S-VGGNet": lambda: zoo.build("shard_vgg", {"channels": 8, "convolutions": [2, 1]}, 0),
    "strides": lambda: SharedConvs(8, (1, 2, 1)),
    "one module called often": CalledOften,
    "functional": Functional,
}


def trained_a_little(name):
    """A network of realistic BN, prepared, and five steps of Adam further; with its inputs."""
    torch.manual_seed(0)
    model = randomise_batch_norm(NETWORKS[name](), torch.randn(32, *SHAPE))
    checkpoint = checkpoint_of(model, SHAPE)
    x = torch.from_numpy(inputs_of(checkpoint))
    prepared = prepare_qat(model, x[:1])
    observe_ranges(prepared, x)
    optimizer = torch.optim.Adam(prepared.parameters(), lr=1e-3)
    prepared.train()
    for _ in range(5):
        optimizer.zero_grad()
        prepared(x).square().mean().backward()
        optimizer.step()
    prepared.eval()
    return replace(checkpoint, model=prepared), x


@pytest.fixture(scope="module", params=list(NETWORKS))
def trained(request):
    return trained_a_little(request.param)


def quantisers(model, kind):
    return {name for name, module in model.named_modules() if isinstance(module, kind)}


def test_the_trained_network_and_the_file_agree_to_a_step(trained, tmp_path):
    checkpoint, x = trained
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, min_sqnr_db=-200, parity_report=True)
    with torch.no_grad():
        expected = checkpoint.model(x).numpy()
    found = run(open_session(tmp_path / "m.onnx", REFERENCE), x.numpy())[0]
    step = (expected.max() - expected.min()) / 255
    assert np.mean(np.abs(found - expected) <= step) >= 0.999
    assert report.layers.outputs_within_one_step >= 0.999
    assert report.layers.first_over_one is None
    assert len(report.layers.tensors) == len(quantisers(checkpoint.model, ActivationFakeQuantize))


def changed(prepared):
    """Ranges and steps other than calibration would choose: what is lost on the way to the file shows."""
    with torch.no_grad():
        for module in prepared.modules():
            if isinstance(module, ActivationFakeQuantize | KernelFakeQuantize):
                module.log_scale.add_(0.25)
    return prepared.eval()


@pytest.mark.parametrize(
    "name",
    [
        "BN, ReLU, conv",
        "depthwise",
        "different strides",
        "one layer with BN, one without",
        "Linear, BatchNorm1d",
        "concat of convolutions",
        "average pool, ceil, padded",
        "SiLU",
        "SE gate with HardSigmoid, HardSwish",
        "channel shuffle",
        "Conv1d",
        "γ zero",
        "zero pad",
        "shared first layers, GELU, BN",
    ],
)
def test_forms_agree_nearly_to_the_bit(name, tmp_path):
    checkpoint = form_checkpoint(FORMS[name], seed=0)
    x = torch.from_numpy(inputs_of(checkpoint))
    prepared = prepare_qat(checkpoint.model, x[:1])
    observe_ranges(prepared, x)
    checkpoint.model = changed(prepared)
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, parity_report=True)
    assert report.layers.first_over_one is None
    assert report.layers.outputs_within_one_step >= 0.999
    assert report.parity.sqnr_db > 60
    assert not any("not trained" in warning for warning in report.warnings)


class PaddedStem(nn.Sequential):
    def __init__(self):
        super().__init__(nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())


class ModuleAndFunction(nn.Module):
    """One kernel, read by its module and by a function."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        x = functional.relu(self.conv(x))
        return functional.conv2d(input=x, weight=self.conv.weight, bias=self.conv.bias).flatten(1)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.conv2(functional.dropout(torch.relu(self.conv(x)), 0.5, self.training)).flatten(1)


@pytest.mark.parametrize("io", ["float", "uint8"])
@pytest.mark.parametrize("network", [PaddedStem, ModuleAndFunction, Dropping])
def test_what_was_trained_arrives(network, io, tmp_path):
    torch.manual_seed(0)
    checkpoint = checkpoint_of(network(), SHAPE)
    x = torch.from_numpy(inputs_of(checkpoint))
    prepared = prepare_qat(network(), x[:1])  # in training mode, as a network is when it is made
    observe_ranges(prepared, x)
    checkpoint.model = changed(prepared)
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, io=io)
    assert report.parity.sqnr_db > (60 if io == "float" else 30)  # uint8: the logits are codes as well
    assert not any("not trained" in warning for warning in report.warnings)


def test_what_torch_fx_hides_is_said(tmp_path):
    checkpoint = form_checkpoint(FORMS["Linear on tokens"], seed=0)
    x = torch.from_numpy(inputs_of(checkpoint))
    prepared = prepare_qat(checkpoint.model, x[:1])
    observe_ranges(prepared, x)
    checkpoint.model = prepared.eval()
    kernels = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True).proof.kernels_stored
    assert len(quantisers(prepared, KernelFakeQuantize)) == kernels
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True)
    assert any("int8 in the file, but not trained" in warning for warning in report.warnings)


def test_functional_dropout_follows_the_mode():
    x = torch.randn(4, *SHAPE)
    for mode in (True, False):
        prepared = prepare_qat(Dropping().train(mode), x[:1])
        observe_ranges(prepared, x)
        with torch.no_grad():
            assert torch.equal(prepared.eval()(x), prepared.eval()(x))
            assert not torch.equal(prepared.train()(x), prepared.train()(x))


def test_one_quantiser_per_kernel_ahead_of_all_its_uses_and_activations_where_the_file_quantises(trained, tmp_path):
    checkpoint, _ = trained
    model = checkpoint.model
    report = export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, min_sqnr_db=-200)
    assert len(quantisers(model, KernelFakeQuantize)) == report.proof.kernels_stored
    for name in quantisers(model, KernelFakeQuantize):
        assert sum(node.target == name for node in model.graph.nodes) == 1
    layers = sum(len(kernel.layers) for kernel in (*report.proof.groups, *report.proof.unshared))
    read = sum(len(node.users) for node in model.graph.nodes if node.target in quantisers(model, KernelFakeQuantize))
    assert read == layers
    proto = onnx.load(tmp_path / "m.onnx")
    scales = {node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    assert len(quantisers(model, ActivationFakeQuantize)) == len(scales)


def test_a_checkpoint_keeps_what_was_learned(tmp_path):
    checkpoint, x = trained_a_little("ConvMixer")
    named = replace(checkpoint, architecture="convmixer", config=CONVMIXER)
    save_checkpoint(tmp_path / "q.pt", named)
    loaded = load_checkpoint(tmp_path / "q.pt")
    with torch.no_grad():
        assert torch.equal(loaded.model(x), checkpoint.model(x))


def test_gradients_of_a_shared_kernel_are_the_sum_over_its_layers():
    torch.manual_seed(0)
    model = randomise_batch_norm(SharedConvs(8, (1, 2, 1)), torch.randn(32, *SHAPE))
    x = torch.randn(8, *SHAPE)
    gradients = []
    for network in (model, untied(model)):
        prepared = prepare_qat(network, x[:1])
        observe_ranges(prepared, x)
        prepared(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in prepared.named_parameters() if name.startswith("convs")})
    shared, own = gradients
    assert list(shared) == ["convs.0.weight"] and len(own) == 3
    torch.testing.assert_close(shared["convs.0.weight"], sum(own.values()), rtol=1e-4, atol=1e-4)


def test_names_and_interface_are_the_models_own():
    model = NETWORKS["ConvMixer"]()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_qat(model, torch.zeros(1, *SHAPE))
    assert set(before) <= set(prepared.state_dict())
    assert is_prepared(prepared) and not is_prepared(model)
    observe_ranges(prepared, torch.randn(4, *SHAPE))
    plain = without_quantisers(prepared).eval()
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model.eval()(x))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_ranges_by_moving_average_train_and_export(tmp_path):
    torch.manual_seed(0)
    model = randomise_batch_norm(NETWORKS["SE-ResNet"](), torch.randn(32, *SHAPE))
    checkpoint = checkpoint_of(model, SHAPE)
    x = torch.from_numpy(inputs_of(checkpoint))
    prepared = prepare_qat(model, x[:1], ranges="moving_average").train()
    assert [name for name, _ in prepared.named_parameters()] == [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(x).square().mean().backward()
        optimizer.step()
    report = export(replace(checkpoint, model=prepared), tmp_path / "m.onnx", TARGET, int8=True)
    assert report.parity.sqnr_db > 35


def test_the_fp32_export_of_a_prepared_network_has_its_float_weights(trained, tmp_path):
    checkpoint, _ = trained
    report = export(checkpoint, tmp_path / "m.onnx", TARGET)
    assert report.parity.sqnr_db > 90
    assert not any(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / "m.onnx").graph.node)


@pytest.mark.parametrize("target", ["onnx-x64", "rpi-4"])
def test_every_scheme_takes_what_was_trained_for_another(target, tmp_path):
    checkpoint, x = trained_a_little("SE-ResNet")
    export(checkpoint, tmp_path / "m.onnx", load_target(target), int8=True, min_sqnr_db=-200)
    with torch.no_grad():
        expected = checkpoint.model(x).numpy()
    found = run(open_session(tmp_path / "m.onnx", REFERENCE), x.numpy())[0]
    assert np.mean(np.abs(found - expected) <= (expected.max() - expected.min()) / 255) >= 0.999


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale():
    prepared = prepare_qat(NETWORKS["strides"](), torch.zeros(1, *SHAPE)).train()
    x = torch.randn(8, *SHAPE)
    prepared(x)
    freeze_batch_norm(prepared)
    norm = prepared.get_submodule("norms.0")
    before = norm.running_mean.clone()
    prepared.train()(x + 1).sum().backward()
    assert torch.equal(norm.running_mean, before) and norm.weight.grad is not None


def test_a_computed_kernel_becomes_plain():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.Conv2d(4, 4, 1))
    prepared = prepare_qat(model, torch.zeros(1, *SHAPE))
    assert {"0.weight", "2.weight"} <= {name for name, p in prepared.named_parameters() if p.requires_grad}


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_prepared_says_why(tmp_path):
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(GraphError, match=r"torch\.fx can trace.*control flow.*edgeks export --int8"):
        prepare_qat(Branches(), x)
    with pytest.raises(GraphError, match="no layer whose kernel can be quantised"):
        prepare_qat(nn.Sequential(nn.ReLU(), nn.Flatten()), x)
    with pytest.raises(GraphError, match=r"does not take inputs of \(1, 3, 12, 12\)"):
        prepare_qat(nn.Conv2d(4, 4, 3), x)
    with pytest.raises(ConfigError, match="ranges is 'lsq'; legal: learned, moving_average"):
        prepare_qat(nn.Conv2d(3, 4, 3), x, ranges="lsq")
    prepared = prepare_qat(nn.Conv2d(3, 4, 3), x)
    with pytest.raises(ConfigError, match="prepared for quantisation-aware training already"):
        prepare_qat(prepared, x)
    with pytest.raises(ConfigError, match="not itself what prepare_qat returned"):
        is_prepared(nn.Sequential(prepared))
    checkpoint = replace(checkpoint_of(prepared, SHAPE), model=prepared.eval())
    with pytest.raises(DataError, match="no range yet"):
        export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True)
    observe_ranges(prepared, torch.randn(4, *SHAPE))
    for options in (Int8Options(rounding="adaround"), Int8Options(activations="dynamic")):
        with pytest.raises(ConfigError, match="trained with fake quantisation"):
            export(checkpoint, tmp_path / "m.onnx", TARGET, int8=True, options=options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value"),
    [("kernels", ["gone"]), ("ranges", "x"), ("integer_type", 3), ("activations", [{"name": "a"}]), ("kernels", None)],
)
def test_a_layout_from_a_hostile_file_is_one_clear_error(key, value, tmp_path):
    config = {**CONVMIXER, "dim": 8, "depth": 1}
    model = prepare_qat(zoo.build("convmixer", config), torch.zeros(1, *SHAPE)).eval()
    save_checkpoint(tmp_path / "q.pt", replace(checkpoint_of(model, SHAPE), architecture="convmixer", config=config))
    content = torch.load(tmp_path / "q.pt", weights_only=True)
    assert content["qat"] == {**layout_of(model).to_dict()}
    content["qat"][key] = value
    torch.save(content, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=r"q\.pt: .*fake-quantisers"):
        load_checkpoint(tmp_path / "q.pt")
