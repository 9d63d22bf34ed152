"""`edgeks advise`: real exports and runs of a tiny network; what it recommends, keeps, refuses and prints."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import randomise_batch_norm, smooth_samples

import edgeks
from edgeks import cli
from edgeks.audit.footprint import this_machine
from edgeks.bench.local import run_runner
from edgeks.checkpoint import Checkpoint, save_checkpoint
from edgeks.models.zoo import architecture, build
from edgeks.preprocessing import Preprocessing

CONFIG = {"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 1, "kernels": 2, "in_channels": 1}
pytestmark = pytest.mark.slow
QUICK = ("--seconds", "1", "--threads", "1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A trained-like small checkpoint that exports."""
    arch, full = architecture("convmixer", CONFIG)
    model = randomise_batch_norm(build(arch, full, seed=0), smooth_samples((16, 1, 8, 8)))
    images = (smooth_samples((16, 1, 8, 8), seed=1) * 60 + 128).clamp(0, 255).to(torch.uint8).numpy()
    preprocessing = Preprocessing(1, 8, 8, (0.5,), (0.25,), tuple("0123456789"))
    path = tmp_path_factory.mktemp("tiny") / "model.pt"
    save_checkpoint(path, Checkpoint(model, arch, full, None, preprocessing, {}, images))
    return path


@pytest.fixture(scope="module", autouse=True)
def on_the_path(warm):
    """`edgeks` of these tests starts at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{warm}:{os.environ['PATH']}")
        yield


def advise(folder, *arguments, check=True):
    """The command in a process of its own, in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(edgeks.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = ["edgeks", "advise", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def advised(tiny, tmp_path_factory):
    """An advice for both formats, as JSON, and the folder where it was asked for."""
    folder = tmp_path_factory.mktemp("advised")
    shutil.copy(tiny, folder)
    return json.loads(advise(folder, "model.pt", *QUICK, "--json").stdout), folder


def best_of(advice):
    """The fastest row that may be used; of those as fast the least RAM, then flash."""
    rows = [r for r in advice["rows"] if r["status"] == "measured" and r["fits"] and r["keeps_parity"]]
    fastest = min(r["p50_ms"] for r in rows)
    as_fast = [r for r in rows if r["p50_ms"] <= fastest * (1 + advice["tie_share"])]
    return min(as_fast, key=lambda r: (r["ram_bytes"] // 100_000, r["flash_bytes"], r["p50_ms"]))


def test_what_is_recommended_is_the_best_of_its_table(advised):
    advice, folder = advised
    assert advice["schema"] == "edgeks.advice/1" and advice["latency_is_of_the_target"]
    assert advice["recommended"] == best_of(advice)["name"]
    assert 0.05 <= advice["tie_share"] <= 0.25
    assert len({row["name"] for row in advice["rows"]}) == len(advice["rows"])
    for row in advice["rows"]:
        assert row["flash_bytes"] == (folder / row["file"]).stat().st_size
        assert row["status"] == "dropped" or (row["measured_ram_bytes"] and row["p50_ms"] and row["rounds"])
        assert row["parity"]["sqnr_db"] > 15
    assert next(r for r in advice["rows"] if r["name"] == advice["recommended"])["on_front"]


def test_every_form_is_a_row_or_says_why_not(advised):
    advice, _ = advised
    forms = {(r["target"], *r["form"].values()) for r in advice["rows"]}
    for target in ("onnx", "tflite"):
        assert {(target, "fp32", None, "unrolled"), (target, "int8", "static", "unrolled")} <= forms
        assert (target, "int8", "dynamic", "unrolled") in forms
    rolled = {(each["form"], each["target"]) for each in advice["not_possible"] if each["reason"]}
    rolled |= {(" ".join(filter(None, (f[1], f[2], f[3]))), f[0]) for f in forms if f[3] != "unrolled"}
    assert {("fp32 rolled", "onnx"), ("int8 static rolled", "tflite")} <= rolled
    left_out = " ".join(each["profile"] for each in advice["left_out"])
    assert ("fp32 cached", "tflite") in rolled or "model_fp32_cached.tflite with litert-cached" in left_out
    assert "litert-reference" in {each["profile"] for each in advice["left_out"]}


def test_the_command_writes_the_recommended_file(advised, tmp_path):
    advice, folder = advised
    words = shlex.split(advice["command"])
    shutil.copy(folder / "model.pt", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(edgeks.__file__).parents[1])}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)
    written = (tmp_path / words[words.index("-o") + 1]).read_bytes()
    assert written == (folder / advice["file"]).read_bytes()


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_the_printed_program_runs_as_it_is(tiny, advised, target):
    """The same work folder: what was measured for both formats serves each of them."""
    _, folder = advised
    printed = advise(folder, "model.pt", "--target", target, *QUICK).stdout
    program = printed.split("run it\n", 1)[1]
    assert ("onnxruntime" if target == "onnx" else "ai_edge_litert") in program
    (folder / "program.py").write_text(program, encoding="utf-8")
    home = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=home, capture_output=True, text=True, check=True
    )
    shown = np.array([float(n) for n in done.stdout.replace("[", " ").replace("]", " ").split()])
    checkpoint = edgeks.load_checkpoint(tiny)
    with torch.no_grad():
        expected = checkpoint.model(torch.zeros(1, 1, 8, 8)).numpy()[0]
    assert np.corrcoef(shown, expected)[0, 1] > 0.9


def test_the_same_again_measures_nothing_and_says_the_same(advised):
    before, folder = advised
    again = json.loads(advise(folder, "model.pt", *QUICK, "--json").stdout)
    assert before["measured_now"] > 0 and again["measured_now"] == 0
    assert {**again, "measured_now": 0} == {**before, "measured_now": 0}


def test_a_killed_run_is_gone_on_with(tiny, tmp_path):
    shutil.copy(tiny, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(edgeks.__file__).parents[1])}
    arguments = ["model.pt", "--target", "tflite", "--work", "work", *QUICK]
    command = [sys.executable, "-m", "edgeks", "advise", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    lines = tmp_path / "work" / "measured.jsonl"
    while process.poll() is None and (not lines.exists() or lines.read_bytes().count(b"\n") < 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and b"interrupted; what was finished stays" in said
    kept = lines.read_text().splitlines()
    exports = {path: path.stat().st_mtime_ns for path in (tmp_path / "work" / "tflite").glob("*.tflite")}
    assert len(kept) >= 5 and exports
    lines.write_text("\n".join([*kept, '{"kind": "ram", "key": "cut o']))  # as a power cut leaves it
    advice = json.loads(advise(tmp_path, *arguments, "--json").stdout)
    after = [json.loads(line)["key"] for line in lines.read_text().splitlines() if not line.endswith("cut o")]
    assert after[: len(kept)] == [json.loads(line)["key"] for line in kept]
    assert len(set(after)) == len(after) == len(kept) + advice["measured_now"]
    assert exports == {path: path.stat().st_mtime_ns for path in exports}
    assert advice["recommended"] == best_of(advice)["name"]


def test_budgets(advised):
    _, folder = advised
    fits = json.loads(advise(folder, "model.pt", *QUICK, "--ram", "8MB", "--json").stdout)
    over = [row for row in fits["rows"] if row["status"] == "over budget"]
    assert over and all("RAM" in row["reason"] and not row["fits"] for row in over)
    assert fits["recommended"] == best_of(fits)["name"]
    nothing = advise(folder, "model.pt", *QUICK, "--flash", "2kB", check=False)
    assert nothing.returncode == 1 and nothing.stderr.startswith(
        "error: model.pt: nothing fits the budget; the nearest"
    )
    assert "nothing can be recommended" in nothing.stdout and "Traceback" not in nothing.stderr
    for what in ("ram", "flash"):
        least = json.loads(advise(folder, "model.pt", *QUICK, "--for", what, "--json").stdout)
        chosen = next(row for row in least["rows"] if row["name"] == least["recommended"])
        best = min(row[f"{what}_bytes"] for row in least["rows"] if row["status"] == "measured")
        assert chosen[f"{what}_bytes"] - best < 100_000


@pytest.mark.skipif(this_machine() == "arm64", reason="the boards are of this machine's architecture")
def test_a_board_of_another_processor_is_not_chosen_for_by_times_here(advised):
    _, folder = advised
    done = advise(folder, "model.pt", "--target", "rpi-zero-2w-tflite", "--seconds", "1")
    assert "not of Raspberry Pi Zero 2 W" in " ".join(done.stdout.split()) and "p50 here" in done.stdout
    advice = json.loads(advise(folder, "model.pt", "--target", "rpi-zero-2w-tflite", "--seconds", "1", "--json").stdout)
    assert not advice["latency_is_of_the_target"]
    chosen = next(row for row in advice["rows"] if row["name"] == advice["recommended"])
    assert chosen["is_targets_session"] and chosen["is_targets_form"]
    assert chosen["session"]["threads"] == 4 and chosen["timed_threads"] == 1
    assert all(row["ram_bytes"] == max(row["measured_ram_bytes"], row["predicted_ram_bytes"]) for row in advice["rows"])


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_finished_file_is_run_as_it_is(advised, kind):
    before, folder = advised
    file = next(r["file"] for r in before["rows"] if r["target"] == kind and r["form"]["activations"] == "static")
    advice = json.loads(advise(folder, file, *QUICK, "--json").stdout)
    assert {row["sha256"] for row in advice["rows"]} == {hashlib.sha256((folder / file).read_bytes()).hexdigest()}
    assert advice["command"] is None and advice["file"] == file and "own arithmetic" in advice["reference"]
    assert len(advice["rows"]) + len(advice["left_out"]) > 1 and advice["recommended"] == best_of(advice)["name"]


def test_a_float_onnx_file_is_a_network(advised):
    before, folder = advised
    file = next(r["file"] for r in before["rows"] if r["target"] == "onnx" and r["form"]["precision"] == "fp32")
    shutil.copy(folder / file, folder / "float.onnx")
    rng = np.random.default_rng(0)
    np.savez(folder / "calib.npz", rng.standard_normal((8, 1, 8, 8)).astype(np.float32))
    advice = json.loads(
        advise(folder, "float.onnx", "--format", "onnx", "--calib", "calib.npz", *QUICK, "--json").stdout
    )
    assert advice["reference"] == "float.onnx" and advice["samples"] == "8 samples of calib.npz"
    assert "--calib calib.npz" in advice["command"] and advice["recommended"] == best_of(advice)["name"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt"], "missing.pt: no such file"),
        (["."], "legal: a checkpoint"),
        (["model.txt"], "legal: a checkpoint"),
        (["damaged.pt"], "damaged.pt"),
        (["damaged.onnx"], "damaged.onnx"),
        (["damaged.tflite"], "damaged.tflite"),
        (["model.pt", "--target", "nowhere"], "unknown target 'nowhere'"),
        (["model.pt", "--format", "coreml"], "--format coreml: legal: onnx, tflite, both"),
        (["model.pt", "--for", "beauty"], "--for beauty: legal: latency, ram, flash"),
        (["model.pt", "--threads", "0"], "--threads 0: legal: 1 to 1024"),
        (["model.pt", "--threads", "1,x"], "--threads 1,x: legal: whole numbers"),
        (["model.pt", "--seconds", "nan"], "--seconds nan: legal: above 0"),
        (["model.pt", "--ram", "much"], "--ram much: legal: a number and a unit"),
        (["model.pt", "--calib", "missing.npz"], "--calib missing.npz: no such file"),
        (["model.pt", "--input", "3x8x8"], "contradicts the checkpoint"),
        (["model.pt", "--work", "model.pt"], "model.pt: cannot be made into a run folder"),
        (["model.pt", "--board", "pi@board"], "No such option: --board"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_and_exit_code_2(tiny, tmp_path, monkeypatch, capfd, arguments, message):
    shutil.copy(tiny, tmp_path)
    for suffix in ("pt", "onnx", "tflite"):
        (tmp_path / f"damaged.{suffix}").write_bytes(b"\x08\x07 no model \xff" * 9)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgeks", "advise", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as done:
        cli.main()
    signal.signal(signal.SIGTERM, handler)
    out, err = capfd.readouterr()
    assert done.value.code == 2 and message in err, err
    assert len(err.strip().splitlines()) == 1 and out == ""


def test_static_int8_without_samples_is_not_possible_and_the_rest_goes_on(tmp_path):
    arch, full = architecture("convmixer", CONFIG)
    model = randomise_batch_norm(build(arch, full, seed=0), smooth_samples((16, 1, 8, 8)))
    save_checkpoint(tmp_path / "bare.pt", Checkpoint(model, arch, full, None, None, {}, None))
    refused = advise(tmp_path, "bare.pt", check=False)
    assert refused.returncode == 2 and "pass --input CxHxW" in refused.stderr
    nothing = ("--flash", "1kB")  # so that nothing is measured
    found = advise(tmp_path, "bare.pt", "--input", "1x8x8", "--target", "onnx", *nothing, "--json", check=False)
    advice = json.loads(found.stdout)
    reasons = {each["form"]: each["reason"] for each in advice["not_possible"]}
    assert "int8 needs calibration data" in reasons["int8 static"]
    assert {"int8 dynamic", "fp32"}.isdisjoint(reasons) and {row["status"] for row in advice["rows"]} == {"over budget"}
    assert not advice["real_samples"] and all("--input 1x8x8" in row["command"] for row in advice["rows"])


def test_the_runner_writes_the_outputs_of_every_sample(advised, tmp_path):
    before, folder = advised
    for kind, runtime, shape in (("onnx", "onnxruntime", (3, 1, 8, 8)), ("tflite", "litert", (3, 8, 8, 1))):
        rows = before["rows"]
        file = folder / next(r["file"] for r in rows if r["target"] == kind and r["form"]["precision"] == "fp32")
        np.save(tmp_path / "samples.npy", np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        outputs = tmp_path / "outputs.npz"
        config = {"model": str(file), "runtime": runtime, "outputs": str(outputs)}
        run_runner(file, {**config, "samples": str(tmp_path / "samples.npy")})
        with np.load(outputs) as stored:
            assert stored["output_0"].shape == (3, 10) and len(np.unique(stored["output_0"], axis=0)) == 3
        run_runner(file, {**config, "samples": 2})
        with np.load(outputs) as stored:
            assert stored["output_0"].shape == (2, 10)


def test_every_key_of_the_json_is_documented(advised):
    advice, _ = advised
    page = Path(edgeks.__file__).parents[1] / "docs" / "advice_schema.md"
    documented = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]+)\|", page.read_text(), re.MULTILINE))))
    found = set(advice) | {f"rows[].{key}" for row in advice["rows"] for key in row}
    found |= {f"rows[].rounds[].{key}" for row in advice["rows"] for each in row["rounds"] for key in each}
    found |= {f"{part}[].{key}" for part in ("not_possible", "left_out") for each in advice[part] for key in each}
    found -= {"budgets", "machine", "rows", "not_possible", "left_out", "rows[].rounds"}
    assert found <= documented
