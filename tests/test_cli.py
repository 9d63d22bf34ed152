"""The command line: arguments, and what a user with a bad input sees: one line, exit code 2, and no file."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from networks import randomise_batch_norm, smooth_samples
from PIL import Image
from tflite_graph import TfliteGraph

from edgeks import cli
from edgeks.checkpoint import Checkpoint, save_checkpoint
from edgeks.models.zoo import architecture, build
from edgeks.preprocessing import Preprocessing

CONFIG = {"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 1, "kernels": 2, "in_channels": 1}


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """A trained-like small checkpoint that exports."""
    torch.set_num_threads(2)
    arch, full = architecture("convmixer", CONFIG)
    model = randomise_batch_norm(build(arch, full, seed=0), smooth_samples((16, 1, 8, 8)))
    images = (smooth_samples((16, 1, 8, 8), seed=1) * 60 + 128).clamp(0, 255).to(torch.uint8).numpy()
    preprocessing = Preprocessing(1, 8, 8, (0.5,), (0.25,), tuple("0123456789"))
    path = tmp_path_factory.mktemp("good") / "model.pt"
    save_checkpoint(path, Checkpoint(model, arch, full, None, preprocessing, {"test_accuracy": 0.9}, images))
    return path


@pytest.fixture
def model(good, tmp_path):
    """A copy of the good checkpoint, alone in the test's folder."""
    return Path(shutil.copy(good, tmp_path))


@pytest.fixture
def edgeks(monkeypatch, capfd, caplog):
    """Run the command line in this process → (exit code, stdout, stderr); nothing may warn or log beside."""

    def run(*arguments):
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(sys, "argv", ["edgeks", *map(str, arguments)])
        capfd.readouterr()
        caplog.clear()
        with warnings.catch_warnings(record=True) as warned, pytest.raises(SystemExit) as done:
            warnings.simplefilter("default")
            cli.main()
        signal.signal(signal.SIGTERM, handler)
        out, err = capfd.readouterr()
        # Python shows a DeprecationWarning of a library to nobody, and everything else on stderr.
        assert not [w for w in warned if not issubclass(w.category, DeprecationWarning | ResourceWarning)]
        assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
        return done.value.code, out, err

    return run


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def refuses(edgeks, tmp_path):
    """Assert that `edgeks …` ends with one line that says `message`, exit code 2, and no new file."""

    def check(message, *arguments, code=2):
        before = names(tmp_path)
        found, out, err = edgeks(*arguments)
        assert found == code, err
        assert out == ""
        assert err.count("\n") == 1 and err.endswith("\n"), err
        assert err.startswith("error: ")
        assert message in err
        assert "Traceback" not in err
        assert names(tmp_path) == before

    return check


# ── what works ──


def test_export_writes_the_model_its_ledger_and_nothing_else(edgeks, model, tmp_path):
    code, out, err = edgeks("export", model, "--int8")
    assert (code, err) == (0, "")
    assert "exactly once" in out and "SQNR" in out
    assert names(tmp_path) == ["model.pt", "model_int8.onnx", "model_int8.onnx.ledger.json"]
    onnx.checker.check_model(onnx.load(tmp_path / "model_int8.onnx"))


@pytest.mark.parametrize("options", [(), ("--fp16",), ("--int8",), ("--int8", "--io", "uint8", "--layout", "nchw")])
def test_export_to_tflite(edgeks, model, tmp_path, options):
    code, out, err = edgeks("export", model, "--target", "tflite", *options)
    assert (code, err) == (0, "")
    assert "exactly once" in out and "delegate      XNNPACK takes" in out and "as fast as" in out
    assert f"{'int8 static' if '--int8' in options else 'fp'}" in out.splitlines()[0]
    (file,) = tmp_path.glob("*.tflite")
    code, out, err = edgeks("footprint", file, "--target", "rpi-4-tflite")
    assert (code, err) == (0, "")
    assert "4 kernels for 6 layers, sharing saves" in " ".join(out.split()) and "fits rpi-4-tflite" in out


def test_what_a_format_has_not(refuses, model, tmp_path):
    tflite = ("export", model, "--target", "tflite", "--int8")
    refuses("form qoperator is about ONNX; TFLite has one form", *tflite, "--form", "qoperator")
    refuses("--layout nchw is about TFLite; target 'onnx' writes onnx", "export", model, "--layout", "nchw")
    refuses("auto is about TFLite; legal for ONNX: static", "export", model, "--int8", "--activations", "auto")
    refuses("target 'onnx' writes onnx; name it .onnx, or", "export", model, "-o", tmp_path / "out.tflite")
    refuses("(--target onnx)", *tflite, "-o", tmp_path / "out.onnx")


@pytest.mark.skipif(find_spec("litert_torch") is not None, reason="litert-torch is installed")
def test_the_other_converter_is_an_extra(refuses, model):
    other = ("export", model, "--target", "tflite", "--converter", "litert-torch")
    refuses("pip install 'edgeks[litert-torch]'", *other)
    refuses("pip install 'edgeks[litert-torch]'", *other, "--layout", "nhwc")
    refuses("--layout nchw is about edgeks' own lowering", *other, "--layout", "nchw")
    refuses("--form rolled is about edgeks' own lowering", *other, "--form", "rolled")


def test_bytes_of_an_export_do_not_depend_on_what_stood_there(edgeks, model, tmp_path):
    old = tmp_path / "out.onnx"
    old.write_bytes(b"old")
    assert edgeks("export", model, "-o", old)[0] == 0
    first = old.read_bytes()
    assert edgeks("export", model, "-o", old, "--json")[0] == 0
    assert old.read_bytes() == first


@pytest.mark.parametrize(("io", "takes"), [("uint8", "takes         uint8 1×1×8×8 (raw pixels"), ("int8", "int8 1×10")])
def test_export_says_what_the_file_takes_and_gives(edgeks, model, tmp_path, io, takes):
    code, out, err = edgeks("export", model, "--int8", "--io", io)
    assert (code, err) == (0, "")
    assert takes in out
    assert f"tensor({io})" == ort.InferenceSession(tmp_path / "model_int8.onnx").get_inputs()[0].type


def test_io_that_cannot_be(refuses, model, tmp_path):
    refuses("--io int16: legal: float, int8, uint8", "export", model, "--int8", "--io", "int16")
    refuses("--io int8: a float artefact has no int8 codes; add --int8", "export", model, "--fp32", "--io", "int8")
    torch.save(build("convmixer_48_6_2k", {}, seed=0).state_dict(), tmp_path / "sd.pt")
    plain = ("export", tmp_path / "sd.pt", "--arch", "convmixer_48_6_2k", "--input", "3x8x8")
    refuses("--io uint8: raw pixels need the checkpoint's preprocessing", *plain, "--io", "uint8")


def test_train_keeps_scales_positive_unless_told_not_to(edgeks, tmp_path):
    config = (f"--set={key}={value}" for key, value in CONFIG.items())
    plain = ("--optimizer", "sgd", "--lr", "100", "--epochs", "1", "--threads", "1", "--batch-size", "256", *config)
    for name, option, positive in (("a.pt", (), True), ("b.pt", ("--no-positive-scales",), False)):
        code, _, err = edgeks("train", "convmixer", *plain, "-o", tmp_path / name, *option, "--quiet")
        assert code == 0, err
        tensors = torch.load(tmp_path / name, weights_only=True)["state_dict"]
        gammas = [tensor for key, tensor in tensors.items() if key.endswith("norm.weight")]
        assert gammas and all(bool((gamma > 0).all()) for gamma in gammas) == positive


def test_a_finished_training_says_so(edgeks, tmp_path):
    small = ("--set", "dim=8", "--set", "depth=1", "--set", "kernel_size=3", "--set", "patch_size=1")
    command = ("train", "convmixer", *small, "--epochs", "1", "-o", tmp_path / "k.pt", "--resume", "--quiet")
    code, first, _ = edgeks(*command)
    assert code == 0
    assert edgeks(*command) == (0, first.replace(": test", ": finished already, test"), "")


def test_share_shows_and_ties(edgeks, model, tmp_path):
    code, out, _ = edgeks("share", model)
    assert code == 0 and "2 sharing groups" in out
    arch, full = architecture("convmixer", {**CONFIG, "kernels": 0})
    save_checkpoint(tmp_path / "u.pt", Checkpoint(build(arch, full, seed=0), arch, full))
    assert edgeks("share", tmp_path / "u.pt", "--groups", "all", "-o", tmp_path / "s.pt")[0] == 0
    assert '"groups": [' in edgeks("share", tmp_path / "s.pt", "--json")[1]


# ── arguments ──


def test_alone_it_prints_the_help(edgeks):
    code, out, err = edgeks()
    assert code == 2
    assert "Usage: edgeks" in out
    assert err == ""


@pytest.mark.parametrize(
    "command", ["export", "footprint", "bench", "train", "share", "run", "study", "recipes", "targets", "models"]
)
def test_every_command_has_help(edgeks, command):
    code, out, err = edgeks(command, "--help")
    assert (code, err) == (0, "")
    assert f"edgeks {command}" in out


def test_models_lists_presets_by_architecture_and_by_a_part_of_their_names(edgeks):
    code, out, _ = edgeks("models", "sl_vggnet")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines() if "vgg" in line and "sl_" in line][:2] == [
        ["sl_vggnet_128", "550,154"],
        ["sl_vggnet_256", "1,257,994"],
    ]
    assert out.startswith("shard_vgg") and "se_resnet" not in out
    assert [row["conv_weights"] for row in json.loads(edgeks("models", "s_vggnet_256", "--json")[1])["models"]] == [
        9 * 256**2
    ]
    code, _, err = edgeks("models", "s_vgnet_256")
    assert code == 2 and err.startswith("error: no network has 's_vgnet_256' in its name (")
    assert "(s_vggnet_256, " in err and err.endswith("; `edgeks models` lists them all\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["export"], "Missing argument 'MODEL'. (see `edgeks export --help`)"),
        (["export", "m.pt", "--int9"], "No such option: --int9"),
        (["export", "m.pt", "--target"], "Option '--target' requires an argument"),
        (["export", "m.pt", "more"], "unexpected extra argument"),
        (["export", "m.pt", "--min-sqnr", "high"], "valid number"),
        (["bench", "m.onnx", "--runs", "many"], "valid integer"),
        (["export", "m.pt", "--min-sqnr", "nan"], "--min-sqnr nan: legal: a number of dB"),
        (["export", "m.pt", "--fp32", "--int8"], "--fp32, --fp16 and --int8 exclude each other"),
        (["export", "m.pt", "--form", "qdq"], "--form qdq is about int8: add --int8"),
        (["export", "m.pt", "--calibration", "mse"], "--calibration mse is about int8: add --int8"),
        (["export", "m.pt", "--bias-correction"], "--bias-correction is about int8: add --int8"),
        (["export", "m.pt", "--keep-float", "stem"], "--keep-float is about int8: add --int8"),
        (["export", "m.pt", "--sensitivity"], "--sensitivity is about int8: add --int8"),
        (["export", "m.pt", "--int8", "--rounding", "up"], "int8: rounding is 'up'; legal: nearest, adaround"),
        (["export", "m.pt", "--int8", "--form", "QDQ"], "--form QDQ: legal: unrolled, rolled, cached, qdq, qoperator"),
        (["export", "m.pt", "--activations", "float"], "--activations float is about int8: add --int8"),
        (["export", "m.pt", "--int8", "--activations", "s8"], "activations is 's8'; legal: static, dynamic, float"),
        (["export", "m.pt", "--input", "32"], "--input 32: legal: channels x height x width"),
        (["export", "m.pt", "--target", "rpi"], "unknown target 'rpi'; legal: onnx, onnx-x64, rpi-4"),
        (["export", "m.pt", "--target", "none.toml"], "none.toml: cannot be read"),
        (["export", "m.pt"], "m.pt: no such file"),
        (["export", "x" * 300], "xxx: cannot be used (File name too long)"),
        (["export", "m.pt", "--target", "x" * 300], "unknown target 'xxx"),
        (["run", "x" * 300 + ".toml"], "cannot be used (File name too long)"),
        (["export", "."], ".: is a folder"),
        (["export", "/"], "/: is a folder"),
        (["export", ""], "is a folder"),
        (["share", "m.pt"], "m.pt: no such file"),
        (["footprint", "m.onnx"], "m.onnx"),
        (
            ["footprint", "m.onnx", "--html", "m.onnx"],
            "--html m.onnx: names the page to write; legal: a name that ends in",
        ),
        (["footprint", "m.onnx", "--html", "none/m.html", "--flash", ""], "--flash : legal: a number and a unit"),
        (["footprint", "m.onnx", "--python", "py"], "--python py: is what --measure runs the file with; add --measure"),
        (
            ["footprint", "m.onnx", "--arch", "a:b", "--trust"],
            "m.onnx: --arch and --trust: for a checkpoint only (.pt",
        ),
        (["footprint", "m.pt", "--measure", "--diff", "m.onnx"], "m.pt: --measure and --diff: for a model file only"),
        (["footprint", "m.onnx", "--ram", ""], "--ram"),
        (["footprint", "m.onnx", "--input", "x=1x-3"], "--input x=1x-3: legal: each input once"),
        (["footprint", "m.onnx", "--input", "3x8", "--input", "3x8"], "--input 3x8: legal: each input once"),
        (["bench", "m.onnx"], "m.onnx"),
        (["bench", "m.tflite"], "m.tflite: no such file"),
        (["run", "nope"], "no recipe 'nope'"),
        (["run", "quickstart", "--set", "train.epochs"], "legal: KEY=VALUE, such as train.epochs=3"),
        (["run", "quickstart", "--set", "train.epoch=1"], "--set train.epoch: unknown key 'train.epoch'; nearest: ep"),
        (["run", "quickstart", "--with", "none"], "--with none: no such file"),
        (["run", "studies/quick_iso_depth"], "is a study, of many trainings: `edgeks study quick_iso_depth` runs it"),
        (["study", "quickstart"], "quickstart is a recipe, of one training: `edgeks run quickstart` runs it"),
        (["study", "nope"], "no study 'nope'; legal: the path of a .toml file, or one of"),
        (["study", "quick_iso_channel", "--set", "train.lr=x"], "--set train.lr: [train]: training: lr is 'x'"),
        (["study", "quick_iso_channel", "--slurm", "a=b", "--collect"], "--slurm with --collect: nothing is run"),
        (["study", "quick_iso_channel", "--overwrite", "--collect"], "--overwrite with --collect: nothing is run"),
        (["study", "quick_iso_channel", "--set", "model.config.dim=3"], "is what the study varies ([width])"),
        (["study", "quick_iso_channel", "--with", "none"], "--with none: no such file"),
        (["study", "quick_iso_channel", "--seeds", "x"], "--seeds x: legal: 1 to 100 whole numbers"),
        (["study", "quick_iso_channel", "--data", "cifar10:none"], "none: no such folder"),
        (["train", "convmixer_48_6_2k", "--set", "dim"], "--set dim: legal: KEY=VALUE, such as dim=64"),
        (["train", "convmixer_48_6_2k", "--ranges", "learned"], "--ranges learned: is for --qat; add that, or leave"),
        (["train", "convmixer_48_6_2k", "--distillation", "0.5"], "--distillation 0.5: is for --teacher; add"),
        (["train", "convmixer_48_6_2k", "--momentum", "0"], "--momentum 0.0: is for --optimizer sgd; add"),
        (["train", "convmixer_48_6_2k", "--adam-eps", "1", "--optimizer", "sgd"], "--adam-eps 1.0: is for --optimizer"),
        (["train", "convmixer_48_6_2k", "--gamma", "1"], "is for --schedule plateau or --schedule milestones; add"),
        (["train", "convmixer_48_6_2k", "--milestones", "a"], "--milestones a: legal: whole numbers"),
        (["train", "convmixer_48_6_2k", "--epochs", "0"], "epochs is 0"),
        (["train", "nope"], "unknown model 'nope'; legal: convmixer"),
        (["train", "convmixer_48_6_2k", "--data", "mnist"], "mnist"),
    ],
)
def test_arguments_that_cannot_be(refuses, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    refuses(message, *arguments)


@pytest.mark.slow
def test_every_choice_about_int8(edgeks, refuses, model, tmp_path):
    refuses(
        "--keep-float nope: no such kernel; legal: blocks.0-1.depthwise",
        "export",
        model,
        "--int8",
        "--keep-float",
        "nope",
    )
    choices = ["--calibration", "mse", "--bias-correction", "--rounding", "adaround"]
    kept = ["--keep-float", "stem", "--keep-float", "head"]
    code, out, err = edgeks("export", model, "--int8", *choices, *kept, "--sensitivity", "-o", tmp_path / "m.onnx")
    assert (code, err) == (0, "")
    assert "kept in float, as asked: stem, head" in out
    assert "adaround" in out and "correct_biases" in out
    assert "sensitivity: SQNR in dB" in out and "suggestion" in out.splitlines()[-1]


def test_bench_takes_the_target_from_the_file_s_name(edgeks, refuses, tmp_path):
    graph = TfliteGraph()
    x, y = graph.input((1, 4), np.float32), graph.tensor((1, 4), np.float32)
    path = graph.write(tmp_path / "m.tflite", graph.op("RELU", [x], y, version=1))
    code, out, err = edgeks("bench", path, "--processes", 1, "--runs", 2, "--seconds", 0, "--warmup", 0)
    assert (code, err) == (0, "")
    assert "m.tflite on local: p50 " in out and "target tflite: kernels xnnpack" in out
    refuses("target 'onnx' is for onnx files; name one for tflite: --target", "bench", path, "--target", "onnx")
    refuses("--runtime ort: legal for tflite files: litert, tflite-runtime", "bench", path, "--runtime", "ort")
    refuses("--python none: cannot be started", "bench", path, "--python", "none")


def test_bench_refuses_what_it_would_ignore(refuses, tmp_path):
    hosts = tmp_path / "hosts.toml"
    hosts.write_text('[a]\ndestination = "a"\n[b]\ndestination = "b"\n[c]\ndestination = "c"\n')
    count = ("bench", "m.onnx", "--instructions")
    refuses("--host: --instructions counts FILE in an emulator", *count, "--host", "pi")
    refuses("--threads: --instructions", *count, "--threads", 2)
    refuses("--repeat: --instructions", *count, "--repeat", 1)
    refuses("--against-threads: --instructions", *count, "--against-threads", 1)
    refuses("--cpu: without --instructions", "bench", "m.onnx", "--cpu", "cortex-a53")
    refuses("--python: of a board it is `python`", "bench", "m.onnx", "--hosts", hosts, "--python", "python3")


def test_bench_compares_one_board_with_another(refuses, tmp_path):
    hosts, exported = tmp_path / "hosts.toml", tmp_path / "m.tflite"
    hosts.write_text('[a]\ndestination = "a"\n[b]\ndestination = "b"\n[c]\ndestination = "c"\n')
    graph = TfliteGraph()
    x, y = graph.input((1, 4), np.float32), graph.tensor((1, 4), np.float32)
    graph.write(exported, graph.op("RELU", [x], y, version=1))
    asked = ("bench", exported, "--against-host")
    refuses("--against-host c: compares one board with that one; found a, b", *asked, "c", "--hosts", hosts)
    refuses("--against-host pi: is the board that is compared", *asked, "pi", "--host", "pi")


# ── bad checkpoints ──


def test_files_that_are_no_checkpoint(refuses, model, tmp_path):
    whole = model.read_bytes()
    for content, message in [
        (whole[:-1], "truncated or damaged"),
        (whole[: len(whole) // 2], "truncated or damaged"),
        (b"", "the file is empty"),
        (b"just text\n", "not a PyTorch file: begins with b'just'"),
    ]:
        model.write_bytes(content)
        refuses(message, "export", model)
        refuses(message, "export", model, "--int8", "-o", tmp_path / "out.onnx")
    torch.save(build("convmixer", CONFIG), model)
    refuses("would execute code from the file: either save model.state_dict()", "export", model)
    refuses("no such file", "export", tmp_path / "none.pt")


def test_an_exported_file_is_not_exported_again(refuses, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\x12\x06edgeks")
    refuses("a .onnx file is already exported", "share", tmp_path / "model.onnx", "--groups", "all")
    refuses("not an ONNX model", "export", tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("head.weight", None, "tensor 'head.weight' is missing"),
        ("head.weight", lambda t: t[:3], "'head.weight' has shape (3, 8); the architecture has (10, 8)"),
        ("head.weight", lambda t: t * float("nan"), "'head.weight' holds NaN or infinity"),
        ("more.weight", lambda t: torch.zeros(3), "'more.weight' is not in the architecture"),
    ],
)
def test_tensors_that_do_not_fit(refuses, model, name, change, message):
    content = torch.load(model, weights_only=True)
    tensors = content["state_dict"]
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name))
    torch.save(content, model)
    refuses(message, "export", model)


def test_architectures_that_cannot_be(refuses, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (tmp_path / "cli_net.py").write_text("from torch import nn\ndef fails():\n    raise OSError('no\\nfile')\n")
    torch.save(torch.load(model, weights_only=True)["state_dict"], "sd.pt")
    refuses("is a plain state dict of", "export", "sd.pt")
    for arch, message in [
        ("resnet50", "unknown model 'resnet50'; legal: convmixer"),
        ("not_a_module_here:Net", "no module 'not_a_module_here'"),
        ("cli_net:Net", "module 'cli_net' has no 'Net'"),
        ("cli_net:nn", "'nn' is a module, not a callable"),
        ("cli_net:fails", "calling 'fails' without arguments failed: OSError"),
    ]:
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        refuses(message, "export", "sd.pt", "--arch", arch)


# ── bad calibration data ──


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((4, 3, 8, 8), np.float32)], "shape 4×3×8×8; the network takes N×1×8×8"),
        ([np.zeros((4, 64), np.float32)], "legal: numbers, N×C×H×W"),
        ([np.zeros((4, 1, 8, 8))] * 2, "holds 2 arrays; legal: exactly one"),
        ([np.full((4, 1, 8, 8), None)], "not a readable .npz of plain numbers"),
        ([np.full((4, 1, 8, 8), np.nan)], "holds NaN"),
        ([np.full((4, 1, 8, 8), 1e300)], "beyond float32"),
    ],
)
def test_calibration_arrays_that_do_not_fit(refuses, model, tmp_path, arrays, message):
    np.savez(tmp_path / "calib.npz", *arrays)
    refuses(message, "export", model, "--int8", "--calib", tmp_path / "calib.npz")


def test_calibration_folders_that_do_not_fit(refuses, model, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    refuses("holds no image", "export", model, "--int8", "--calib", folder)
    Image.new("L", (8, 8)).save(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])
    refuses("b.png: cannot be decoded", "export", model, "--int8", "--calib", folder)
    refuses("no such file or folder", "export", model, "--int8", "--calib", tmp_path / "none")


def test_no_calibration_data(refuses, model, tmp_path):
    content = torch.load(model, weights_only=True)
    content["calibration"] = None
    torch.save(content, model)
    refuses("int8 needs calibration data and this checkpoint carries none; pass --calib", "export", model, "--int8")
    torch.save(build("convmixer_48_6_2k", {}, seed=0).state_dict(), tmp_path / "sd.pt")
    plain = ("export", tmp_path / "sd.pt", "--arch", "convmixer_48_6_2k")
    refuses("input size is unknown: pass --input CxHxW", *plain, "--int8")
    refuses("int8 needs calibration data", *plain, "--int8", "--input", "3x8x8")
    refuses("the network does not take inputs of 4×8×8", *plain, "--input", "4x8x8")


# ── outputs and targets ──


def test_outputs_that_cannot_be_written(refuses, model, tmp_path):
    for output, message in [
        (tmp_path / "none" / "out.onnx", "none does not exist; create it or name another"),
        (model / "out.onnx", "does not exist"),
        (tmp_path, "is a folder; name a file"),
        ("/proc/out.onnx", "cannot be written"),
        (os.devnull, "is a device or a pipe"),
        (model, "is read by the export"),
        (tmp_path / ("x" * 300), "cannot be written (File name too long)"),
    ]:
        refuses(message, "export", model, "-o", output)
    assert Path(os.devnull).is_char_device()


def test_target_files_with_mistakes(refuses, model, tmp_path):
    path = tmp_path / "mine.toml"
    base = 'description = "mine"\nformat = "onnx"\nruntime = "onnxruntime"\n'
    for text, message in [
        ("[", "mine.toml: malformed TOML"),
        (
            base + "[int8]\nfrom = 1",
            "unknown key 'int8.from'; nearest: form; legal keys here: form, activations, weights, ",
        ),
        (base + "[int8]\nform = 'qqq'", "key 'int8.form': found 'qqq'; legal: qdq, qoperator"),
        (base + "[session]\nthreads = '2'", "key 'session.threads': found '2'; legal: a whole number"),
    ]:
        path.write_text(text)
        refuses(message, "export", model, "--target", path)
        refuses(message, "footprint", "none.onnx", "--target", path)


def test_parity_below_the_threshold_leaves_no_file(refuses, model):
    message = "below the 199 dB that target 'onnx' asks; no file was written"
    refuses(message, "export", model, "--int8", "--min-sqnr", "199", code=1)


# ── the process itself ──

SLOW = """
import os, time
from pathlib import Path
import torch
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        Path("running").touch()
        time.sleep(60)
        return self.conv(x)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_the_old_file(tmp_path, how):
    (tmp_path / "slow_net.py").write_text(SLOW)
    (tmp_path / "out.onnx").write_bytes(b"old")
    torch.save(torch.nn.ModuleDict({"conv": torch.nn.Conv2d(1, 2, 3)}).state_dict(), tmp_path / "sd.pt")
    # -P: as the console script, Python does not put the current folder on its path; --arch must find slow_net there.
    command = [sys.executable, "-B", "-P", "-m", "edgeks", "export", "sd.pt", "--arch", "slow_net:Slow"]
    process = subprocess.Popen(
        [*command, "--input", "1x8x8", "-o", "out.onnx"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "running").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        assert list(tmp_path.glob(".out.onnx.*.part"))  # in the middle of it
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[how]
    assert (tmp_path / "out.onnx").read_bytes() == b"old"
    left = [name for name in names(tmp_path) if not name.endswith(".part")]
    assert left == ["out.onnx", "running", "sd.pt", "slow_net.py"]
    if how != signal.SIGKILL:
        assert not list(tmp_path.glob(".*.part"))
        assert err == ("" if how == signal.SIGTERM else "interrupted; what was finished stays\n")


def test_stderr_of_the_real_process_is_one_line(model):
    np.savez(model.parent / "c.npz", np.zeros((4, 3, 8, 8)))
    command = [sys.executable, "-m", "edgeks", "export", str(model), "--int8", "--calib", "c.npz"]
    done = subprocess.run(command, cwd=model.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: --calib c.npz: shape 4×3×8×8; the network takes N×1×8×8\n"


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["edgeks", "--debug", "export", str(tmp_path / "none.pt")])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Exception, match="no such file"):
        cli.main()
    signal.signal(signal.SIGTERM, handler)


class Unlowerable(torch.nn.Module):
    """Two operators that TFLite has no form for."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return torch.atan(torch.cumsum(self.conv(x), 1)).mean((2, 3))


def test_operators_that_tflite_has_no_form_for(refuses, tmp_path):
    torch.save(Unlowerable(), tmp_path / "net.pt")
    arguments = ("export", tmp_path / "net.pt", "--trust", "--input", "1x8x8", "--target", "tflite")
    refuses("2 nodes of the network cannot be lowered to TFLite: CumSum 'CumSum' (", *arguments)
    refuses("--converter litert-torch takes more operators", *arguments)
