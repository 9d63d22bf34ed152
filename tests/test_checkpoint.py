"""Checkpoints in and out: what comes back, what is refused and how it is said, and that no file runs code."""

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from networks import randomise_batch_norm, smooth_samples
from torch import nn

from edgeks.checkpoint import Checkpoint, build_architecture, load_checkpoint, save_checkpoint
from edgeks.errors import CheckpointError, OutputError, PlanError
from edgeks.models.zoo import architecture, build
from edgeks.preprocessing import Preprocessing
from edgeks.share import share
from edgeks.sharing.torch import discover, untied

SIZES = {
    "convmixer": {"dim": 8, "depth": 4, "kernel_size": 3, "patch_size": 1},
    "se_resnet": {"widths": [16, 16, 16], "blocks_per_stage": 2, "shared_stages": []},
}
SHARED = {"convmixer": {"kernels": 2}, "se_resnet": {"shared_stages": [1, 2, 3]}}
MIXER = {**SIZES["convmixer"], "kernels": 2, "in_channels": 1}


def checkpoint(name="convmixer", config=None):
    """A small network of the zoo with everything that a training would put beside it."""
    arch, full = architecture(name, MIXER if config is None else config)
    model = build(arch, full, seed=0)
    channels = full["in_channels"]
    randomise_batch_norm(model, smooth_samples((8, channels, 8, 8)))
    images = np.random.default_rng(0).integers(0, 256, (3, channels, 8, 8), np.uint8)
    preprocessing = Preprocessing(channels, 8, 8, (0.5,) * channels, (0.25,) * channels, tuple("0123456789"))
    return Checkpoint(model, arch, full, None, preprocessing, {"test_accuracy": 0.5}, images)


@pytest.fixture
def own(tmp_path):
    """Path of a good checkpoint, and its content to spoil."""
    path = tmp_path / "model.pt"
    save_checkpoint(path, checkpoint())
    return path, torch.load(path, weights_only=True)


def same_outputs(one, other, shape=(2, 1, 8, 8)):
    x = smooth_samples(shape, seed=5)
    with torch.inference_mode():
        return torch.equal(one(x), other(x))


def refused(path, message, arch=None, trust=False):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, arch, trust=trust)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    assert str(path) in text or "--arch" in text
    return text


# ── round trips ──


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize("shared", [False, True])
def test_round_trip_of_every_architecture(tmp_path, name, shared):
    saved = checkpoint(name, {**SIZES[name], **(SHARED[name] if shared else {})})
    save_checkpoint(tmp_path / "model.pt", saved)
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert not loaded.model.training
    assert same_outputs(loaded.model, saved.model, (2, saved.preprocessing.channels, 8, 8))
    assert discover(loaded.model) == discover(saved.model)
    assert bool(discover(loaded.model).groups) == shared
    for key in ("architecture", "config", "plan", "preprocessing", "metrics"):
        assert getattr(loaded, key) == getattr(saved, key)
    np.testing.assert_array_equal(loaded.calibration, saved.calibration)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_shared_kernel_is_stored_once(tmp_path):
    arch, full = architecture("convmixer", {**SIZES["convmixer"], "dim": 64, "depth": 8, "kernels": 2})
    model = build(arch, full, seed=0)
    save_checkpoint(tmp_path / "shared.pt", Checkpoint(model, arch, full))
    save_checkpoint(tmp_path / "twin.pt", Checkpoint(untied(model), arch, {**full, "kernels": 0}))
    saved = sum(group.saved_bytes for group in discover(model).groups)
    shared, twin = ((tmp_path / name).stat().st_size for name in ("shared.pt", "twin.pt"))
    assert saved <= twin - shared <= saved + 20_000  # the archive's overhead per entry
    assert shared < 4 * sum(p.numel() for p in model.parameters()) + 40_000


@pytest.mark.parametrize("groups", ["all", "stage", "2"])
def test_shared_by_writes_a_checkpoint_that_loads_shared(tmp_path, groups):
    unshared = checkpoint(config={**SIZES["convmixer"], "in_channels": 1})
    result = share(unshared, groups, init="mean", tie_bias=True, out=tmp_path / "shared.pt").checkpoint
    loaded = load_checkpoint(tmp_path / "shared.pt")
    plan = discover(loaded.model)
    assert plan == result.plan == loaded.plan
    assert len(plan.groups) == (4 if groups == "2" else 2)
    assert all(group.bias == "shared" for group in plan.groups)
    assert same_outputs(loaded.model, result.model)
    assert loaded.metrics == {}  # those of the unshared network are not true any more


def test_shared_by_a_plan_file_and_what_it_refuses(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(checkpoint_plan := discover(checkpoint().model).to_json())
    result = share(checkpoint(config={**SIZES["convmixer"], "in_channels": 1}), str(plan)).checkpoint
    assert result.plan.to_json() == checkpoint_plan
    plan.write_text("{")
    for groups, message in [
        (str(plan), f"{plan}: sharing plan is not JSON"),
        (str(tmp_path / "none.json"), "cannot be read as a sharing plan"),
        ("²", "unknown sharing scheme '²'"),
        ("1.5", "unknown sharing scheme"),
        ("0", "legal: 1 or more"),
    ]:
        with pytest.raises(PlanError, match=message):
            share(checkpoint(), groups)


def test_save_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "m.pt", tmp_path / "file" / "m.pt", tmp_path, Path("/proc/m.pt")):
        with pytest.raises(OutputError, match=str(path)):
            save_checkpoint(path, checkpoint())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ── state dicts and user architectures ──

USER_NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.again = nn.Conv2d(1, 4, 3)
        self.again.weight = self.conv.weight
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x) + self.again(x)).mean((2, 3))

def fails():
    raise RuntimeError("no config")

def exits():
    raise SystemExit(0)

def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3))

def not_a_module():
    return 5

number = 7
"""


@pytest.fixture
def user_net(tmp_path, monkeypatch):
    """`user_net_TEST:Net`, importable from the current folder only."""
    folder = tmp_path / "code"
    folder.mkdir()
    name = f"user_net_{tmp_path.name}"
    (folder / f"{name}.py").write_text(USER_NET)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")  # is taken off again after the test
    return name


def test_user_architecture_from_the_current_folder_and_back(user_net, tmp_path):
    arch = f"{user_net}:Net"
    model = build_architecture(arch)
    torch.save(model.state_dict(), tmp_path / "sd.pt")
    loaded = load_checkpoint(tmp_path / "sd.pt", arch)
    assert same_outputs(loaded.model, model.eval())
    assert len(discover(loaded.model).groups) == 1
    save_checkpoint(tmp_path / "again.pt", loaded)
    refused(tmp_path / "again.pt", f"was trained with --arch {arch}; pass that --arch again")
    assert same_outputs(load_checkpoint(tmp_path / "again.pt", arch).model, model)


def test_user_architecture_from_pythonpath(tmp_path, monkeypatch):
    (tmp_path / "net_on_path.py").write_text(USER_NET)
    monkeypatch.syspath_prepend(str(tmp_path))  # what PYTHONPATH does at start
    assert isinstance(build_architecture("net_on_path:Net"), nn.Module)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Nett", "has no 'Nett'"),
        ("fails", "calling 'fails' without arguments failed: RuntimeError"),
        ("exits", "calling 'exits' without arguments failed: SystemExit"),
        ("lazy", "has lazy layers"),
        ("not_a_module", "'not_a_module' returned a int, not an nn.Module"),
        ("number", "'number' is a int, not a callable"),
        ("", "has no ''"),
    ],
)
def test_user_architecture_that_cannot_be_built(user_net, attribute, message):
    with pytest.raises(CheckpointError, match=message):
        build_architecture(f"{user_net}:{attribute}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no module 'broken_"),
        ("import not_there_at_all", "no module 'not_there_at_all'"),
        ("1 / 0", "importing 'broken_.*' failed: ZeroDivisionError"),
        ("def f(:", "failed: SyntaxError"),
        ("import os; os.nothing", "failed: AttributeError"),
        ("import sys; sys.exit()", "failed: SystemExit"),
    ],
)
def test_user_module_that_cannot_be_imported(tmp_path, monkeypatch, text, message):
    name = f"broken_{tmp_path.name}"
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    with pytest.raises(CheckpointError, match=message):
        build_architecture(f"{name}:f")


@pytest.mark.parametrize("arch", [":f", ".x:f", "nope", "", "ConvMixer"])
def test_architecture_names_that_are_none(arch):
    with pytest.raises(CheckpointError):
        build_architecture(arch)


@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_as_others_save_them(tmp_path, nest, prefix):
    model = build("convmixer_48_6_2k", {}, seed=0)
    tensors = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({nest: tensors, "epoch": 3} if nest else tensors, tmp_path / "sd.pt")
    loaded = load_checkpoint(tmp_path / "sd.pt", "convmixer_48_6_2k")
    assert same_outputs(loaded.model, model.eval(), (1, 3, 8, 8))
    assert loaded.architecture == "convmixer"


@pytest.mark.parametrize("aliases", [True, False])
def test_safetensors_with_and_without_the_names_of_shared_tensors(tmp_path, aliases):
    model = build("convmixer_48_6_2k", {}, seed=0)
    if aliases:
        safetensors.torch.save_file({n: t.clone() for n, t in model.state_dict().items()}, tmp_path / "m.safetensors")
    else:
        safetensors.torch.save_model(model, str(tmp_path / "m.safetensors"))
    loaded = load_checkpoint(tmp_path / "m.safetensors", "convmixer_48_6_2k")
    assert same_outputs(loaded.model, model.eval(), (1, 3, 8, 8))
    assert len(discover(loaded.model).groups) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_become_float32(tmp_path, dtype):
    model = build("convmixer_48_6_2k", {}, seed=0).to(dtype)
    torch.save(model.state_dict(), tmp_path / "sd.pt")
    loaded = load_checkpoint(tmp_path / "sd.pt", "convmixer_48_6_2k").model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.head.weight, model.head.weight.float())


def test_the_old_file_format_and_counters_that_are_left_out(tmp_path):
    model = build("convmixer_48_6_2k", {}, seed=0)
    tensors = {name: t for name, t in model.state_dict().items() if "num_batches" not in name}
    torch.save(tensors, tmp_path / "sd.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "sd.pt", "convmixer_48_6_2k")
    refused(tmp_path / "sd.pt", "plain state dict of [0-9]+ tensors; pass --arch")


# ── files that are something else, or damaged ──


def test_files_that_are_no_checkpoint(tmp_path):
    refused(tmp_path / "none.pt", "no such file")
    refused(tmp_path, "is a folder, not a file")
    for name, content, message in [
        ("empty.pt", b"", "the file is empty"),
        ("text.pt", b"hello, world", "not a PyTorch file: begins with b'hell'"),
        ("model.onnx", b"\x08\x0a\x12\x07", "a .onnx file is already exported; `edgeks footprint` audits"),
        ("zip.pt", b"PK\x03\x04 and nothing more", "truncated or damaged"),
        ("pickle.pt", b"\x80\x02", "damaged or truncated"),
        ("m.safetensors", b"", "not a safetensors file, or truncated"),
        ("text.safetensors", b"hello, world" * 9, "not a safetensors file, or truncated"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        refused(path, message, arch="convmixer_48_6_2k")


def test_a_file_cut_off_anywhere(own):
    path, _ = own
    whole = path.read_bytes()
    size = len(whole)
    for length in (1, 3, 10, 100, size // 8, size // 2, 7 * size // 8, size - 300, size - 22, size - 1):
        path.write_bytes(whole[:length])
        refused(path, "truncated|not a PyTorch file")


def test_the_old_format_and_safetensors_cut_off(tmp_path):
    tensors = build("convmixer_48_6_2k", {}, seed=0).state_dict()
    for name, write in [
        ("old.pt", lambda p: torch.save(tensors, p, _use_new_zipfile_serialization=False)),
        ("m.safetensors", lambda p: safetensors.torch.save_file({n: t.clone() for n, t in tensors.items()}, p)),
    ]:
        path = tmp_path / name
        write(path)
        whole = path.read_bytes()
        for length in (5, 200, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            refused(path, "truncated|holds a pickled", arch="convmixer_48_6_2k")  # cut within a name


def test_a_flipped_bit_in_the_weights_is_noticed(own):
    path, content = own
    whole = bytearray(path.read_bytes())
    at = whole.find(content["state_dict"]["head.weight"].numpy().tobytes())
    assert at > 0
    whole[at + 5] ^= 1
    path.write_bytes(whole)
    refused(path, "damaged: entry '.*' does not match its checksum")


def test_other_archives(tmp_path):
    model = build("convmixer_48_6_2k", {}, seed=0).eval()
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 8, 8)), str(tmp_path / "script.pt"))
    refused(tmp_path / "script.pt", r"TorchScript archive; save model.state_dict\(\) and pass --arch")
    with zipfile.ZipFile(tmp_path / "exported.pt2", "w") as archive:
        archive.writestr("exported/models/model.json", "{}")
    refused(tmp_path / "exported.pt2", r"a .pt2 of torch.export")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, own):
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(own[0]) as good, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in good.infolist():
            archive.writestr(entry.filename, good.read(entry))
        archive.writestr("archive/data/999", bytes(50_000_000))
    assert bomb.stat().st_size < 1_000_000
    refused(bomb, "unpacks to far more than the file's size")


class Hostile:
    def __reduce__(self):
        return os.mkdir, (os.environ["EDGEKS_TEST_MARK"],)


def test_a_hostile_file_executes_nothing(tmp_path, monkeypatch):
    mark = tmp_path / "executed"
    monkeypatch.setenv("EDGEKS_TEST_MARK", str(mark))
    path = tmp_path / "hostile.pt"
    writers = [lambda p=p: path.write_bytes(pickle.dumps(Hostile(), p)) for p in range(2, 6)]
    writers.append(lambda: torch.save({"a.weight": torch.zeros(1), "b": Hostile()}, path))
    writers.append(lambda: torch.save({"format": "edgeks-checkpoint", "version": 1, "config": Hostile()}, path))
    writers.append(lambda: torch.save(Hostile(), path, _use_new_zipfile_serialization=False))
    for write in writers:
        write()
        refused(path, r"would execute code from the file: either save model.state_dict\(\).*--arch.*--trust")
        assert not mark.exists()
    for protocol in (0, 1):
        path.write_bytes(pickle.dumps(Hostile(), protocol))
        refused(path, "not a PyTorch file")
        assert not mark.exists()
    torch.save(Hostile(), path)
    with pytest.raises(CheckpointError):  # it is no module either
        load_checkpoint(path, trust=True)
    assert mark.exists()  # the file is hostile indeed: --trust runs it


def test_a_pickled_module_is_refused_and_loads_with_trust(tmp_path, user_net, monkeypatch):
    model = build("convmixer_48_6_2k", {}, seed=0)
    torch.save(model, tmp_path / "zoo.pt")
    refused(tmp_path / "zoo.pt", r"holds a pickled edgeks.models.convmixer.ConvMixer; .*--arch .*or pass --trust")
    assert same_outputs(load_checkpoint(tmp_path / "zoo.pt", trust=True).model, model.eval(), (1, 3, 8, 8))

    torch.save(build_architecture(f"{user_net}:Net"), tmp_path / "user.pt")
    assert len(discover(load_checkpoint(tmp_path / "user.pt", trust=True).model).groups) == 1
    whole = (tmp_path / "user.pt").read_bytes()
    (tmp_path / "gone.pt").write_bytes(whole)
    monkeypatch.delitem(sys.modules, user_net)
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "gone.pt", "needs code that cannot be imported from the current folder", trust=True)


@pytest.mark.parametrize("content", [1, "text", [1], None, torch.zeros(2), {}, {"a": 1}, {1: torch.zeros(1)}, set()])
def test_plain_data_that_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "o.pt")
    refused(tmp_path / "o.pt", "state dict", arch="convmixer_48_6_2k")


# ── tensors that do not fit ──


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("head.weight", None, "tensor 'head.weight' is missing"),
        ("extra.weight", lambda t: torch.zeros(1), "tensor 'extra.weight' is not in the architecture"),
        ("head.weight", lambda t: t[:3], r"'head.weight' has shape \(3, 8\); the architecture has \(10, 8\)"),
        ("head.weight", lambda t: t.fill_(float("nan")), "'head.weight' holds NaN or infinity"),
        ("stem_norm.running_var", lambda t: t.fill_(float("inf")), "'stem_norm.running_var' holds NaN or infinity"),
        ("blocks.1.pointwise.weight", lambda t: t + 1, "share one tensor in the architecture but differ in the file"),
        ("head.weight", lambda t: t.to_sparse(), "sparse_coo.*legal: a dense tensor"),
        ("head.weight", lambda t: t.to("meta"), "on meta; legal: a dense tensor"),
        ("head.weight", lambda t: t.to(torch.complex64), "complex64"),
        ("head.weight", lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        ("head.weight", lambda t: "text", "entry 'head.weight' is a str"),
    ],
)
def test_tensors_that_do_not_fit(own, name, change, message):
    path, content = own
    tensors = content["state_dict"]
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name, torch.zeros(1)).clone())
    torch.save(content, path)
    refused(path, message)


def test_layers_that_share_may_be_given_once_or_alike(own):
    path, content = own
    del content["state_dict"]["blocks.1.pointwise.weight"]
    torch.save(content, path)
    loaded = load_checkpoint(path)
    assert same_outputs(loaded.model, checkpoint().model)


def test_a_checkpoint_of_another_architecture(own):
    refused(own[0], "is missing.*is this the right architecture", arch="se_resnet_d4")


# ── metadata ──


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version 2; this edgeks reads 1"),
        ("version", None, "version None"),
        ("version", True, "version True"),
        ("version", torch.zeros(3), "version tensor"),
        ("architecture", None, "names no architecture; pass --arch"),
        ("architecture", "resnet50", "unknown model 'resnet50'; legal: convmixer"),
        ("architecture", 5, "'architecture' is a int; legal: str"),
        ("architecture", "os:getcwd", "was trained with --arch os:getcwd"),
        ("config", [1, 2], "'config' is a list; legal: dict"),
        ("config", "dim=8", "'config' is a str; legal: dict"),
        ("config", torch.zeros(3), "'config' is a Tensor; legal: dict"),
        ("config", {**MIXER, "dim": "8"}, "convmixer: dim is '8'; legal: a whole number"),
        ("config", {**MIXER, "dim": 10**9}, "dim is 1000000000; legal"),
        ("config", {**MIXER, "width": 8}, "unknown config key 'width'"),
        ("config", {3: 4}, "unknown config key 3"),
        ("plan", "garbage", "sharing plan is not JSON"),
        ("plan", "", "sharing plan is not JSON"),
        ("plan", '{"version": 9}', '"version": 1'),
        ("plan", [1], "'plan' is a list; legal: str"),
        ("plan", torch.zeros(3), "'plan' is a Tensor"),
        (
            "plan",
            '{"version": 1, "groups": [{"name": "g", "layers": ["a", "b"], "kernel_shape": [1]}]}',
            "unknown layer 'a'",
        ),
        ("preprocessing", None, "needs preprocessing"),
        ("preprocessing", {"channels": 1}, "preprocessing is malformed: KeyError"),
        ("preprocessing", {}, "preprocessing is malformed"),
        ("preprocessing", 5, "'preprocessing' is a int; legal: dict"),
        ("preprocessing", {"channels": 1, "height": 8, "width": 8, "mean": 3, "std": [1], "classes": []}, "malformed"),
        (
            "preprocessing",
            {"channels": 1, "height": 8, "width": 8, "mean": [10**400], "std": [1], "classes": []},
            "malformed: OverflowError",
        ),
        (
            "preprocessing",
            {"channels": 1, "height": 8, "width": 8, "mean": [0], "std": [0], "classes": []},
            "std is",
        ),
        (
            "preprocessing",
            {"channels": 2, "height": 8, "width": 8, "mean": [0], "std": [1], "classes": []},
            "needs 2 finite numbers",
        ),
        (
            "preprocessing",
            {"channels": 1, "height": 9, "width": 8, "mean": [0], "std": [1], "classes": []},
            "takes uint8 N×1×9×8",
        ),
        ("metrics", "good", "'metrics' is a str; legal: dict"),
        ("metrics", {"accuracy": "good"}, "metric 'accuracy' is a str; legal"),
        ("metrics", {"accuracy": torch.zeros(3)}, "metric 'accuracy' is a Tensor"),
        ("calibration", torch.zeros(1, 1, 8, 8), "calibration sample must be uint8"),
        ("calibration", torch.zeros(1, 8, 8, dtype=torch.uint8), "calibration sample must be uint8 N×C×H×W"),
        ("calibration", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"shape \(1, 3, 8, 8\)"),
        ("calibration", [1, 2], "'calibration' is a list; legal: Tensor"),
        ("state_dict", None, "holds no state dict"),
        ("state_dict", [1], "holds no state dict"),
        ("state_dict", {}, "holds no state dict"),
    ],
)
def test_metadata_of_the_wrong_kind(own, key, value, message):
    path, content = own
    content[key] = value
    torch.save(content, path)
    refused(path, message)


def test_arch_overrides_the_name_in_the_file_but_not_its_checks(own):
    path, content = own
    content["config"] = [1]
    torch.save(content, path)
    refused(path, "'config' is a list", arch="convmixer_48_6_2k")


def test_optional_metadata_may_be_absent(own):
    path, content = own
    for key in ("plan", "preprocessing", "metrics", "calibration"):
        del content[key]
    torch.save(content, path)
    loaded = load_checkpoint(path)
    assert (loaded.plan, loaded.preprocessing, loaded.metrics, loaded.calibration) == (None, None, {}, None)


def test_saving_is_plain_data(own):
    """Nothing in the file needs more than torch's own weights_only unpickler."""
    buffer = io.BytesIO(own[0].read_bytes())
    assert torch.load(buffer, weights_only=True)["format"] == "edgeks-checkpoint"
