"""The runner measures real models in a fresh process; what goes wrong there is one line here."""

import ast
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeks.bench import local
from edgeks.bench.local import RUNNER, bench
from edgeks.errors import DataError, EdgeksError, ModelFileError
from edgeks.target import Session, load_target

TARGET = load_target("onnx")


def write(path, text):
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def small(path, kind="float", shape="N,3,4,4", body="y = Identity(x)"):
    header = '<ir_version: 10, opset_import: ["": 20]>'
    return write(path, f"{header} net ({kind}[{shape}] x) => ({kind}[{shape}] y) {{ {body} }}")


@pytest.fixture
def path(tmp_path):
    return small(tmp_path / "net.onnx", body="y = Relu(x)")


def test_every_run_is_a_sample(path):
    seen = []
    result = bench(path, TARGET, 120, 3, on_progress=seen.append)
    assert len(result.samples_ms) == result.latency.count == 120
    assert min(result.samples_ms) > 0
    assert result.load_ms > 0
    assert result.first_inference_ms > 0
    assert result.latency.p99_ms is not None
    assert result.inputs == {"x": {"shape": [1, 3, 4, 4], "dtype": "float32"}}
    assert [memory.stage for memory in result.memory] == ["start", "loaded", "fed", "run"]
    assert result.facts["runtime"] == "onnxruntime"
    assert seen[-1] == 120


def test_the_targets_session_options_reach_the_runtime(path):
    result = bench(path, TARGET, 1, 0)
    assert result.session["disabled_optimizers"] == ["ConvBNFusion", "ConvMulFusion", "ConvAddFusion"]
    assert bench(path, TARGET, 1, 0, threads=2).session["threads"] == 2
    assert (result.session["arena"], result.session["memory_pattern"]) == (True, False)
    entry = (("session.set_denormal_as_zero", "1"),)
    odd = dataclasses.replace(TARGET, session=Session(1, "basic", (), entry))
    assert bench(path, odd, 1, 0).session["session_config"] == {"session.set_denormal_as_zero": "1"}
    unknown = dataclasses.replace(TARGET, session=Session(1, "everything", ()))
    with pytest.raises(EdgeksError, match="'everything'; legal: disabled, basic, extended, all"):
        bench(path, unknown, 1, 0)


@pytest.mark.parametrize("kind", ["float", "float16", "double", "int8", "uint8", "int32", "int64", "bool"])
def test_random_inputs_of_every_type(kind, tmp_path):
    result = bench(small(tmp_path / "net.onnx", kind), TARGET, 1, 0)
    assert result.inputs["x"]["dtype"] == {"float": "float32", "double": "float64"}.get(kind, kind)


def test_given_inputs(path, tmp_path):
    images = np.ones((2, 3, 4, 4), np.float32)
    np.save(tmp_path / "in.npy", images)
    assert bench(path, TARGET, 1, 0, inputs=tmp_path / "in.npy").inputs["x"]["shape"] == [2, 3, 4, 4]
    np.savez(tmp_path / "in.npz", images=images)
    assert bench(path, TARGET, 1, 0, inputs=tmp_path / "in.npz").inputs["x"]["shape"] == [2, 3, 4, 4]
    np.savez(tmp_path / "two.npz", x=images, z=images)
    with pytest.raises(DataError, match=r"holds \['x', 'z'\]; the model's inputs are \['x'\]"):
        bench(path, TARGET, 1, 0, inputs=tmp_path / "two.npz")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        bench(path, TARGET, 1, 0, inputs=tmp_path / "objects.npy")
    np.save(tmp_path / "wrong.npy", images[:, :1].astype(np.float64))
    with pytest.raises(ModelFileError, match="cannot run it"):
        bench(path, TARGET, 1, 0, inputs=tmp_path / "wrong.npy")


def test_unknown_size_besides_the_batch(tmp_path):
    with pytest.raises(DataError, match="'x' has the shape"):
        bench(small(tmp_path / "net.onnx", shape="N,3,H,4"), TARGET, 1, 0)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" + bytes(200)])
def test_bad_model_files(content, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        bench(path, TARGET, 1, 0)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file_folder_and_counts(path, tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        bench(tmp_path / "none.onnx", TARGET, 1, 0)
    with pytest.raises(ModelFileError, match="is a folder"):
        bench(tmp_path, TARGET, 1, 0)
    for options in ({"runs": 0}, {"runs": -1}, {"warmup": -1}, {"threads": -2}):
        with pytest.raises(DataError, match="legal: "):
            bench(path, TARGET, **{"runs": 1, "warmup": 0, **options})


def children():
    """Process ids of this process's children."""
    listed = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text()
    return {int(pid) for pid in listed.split()}


def test_a_killed_runner_is_one_line(path):
    before = children()
    killed = []

    def kill(_runs):
        for pid in children() - before - set(killed):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with pytest.raises(EdgeksError, match=r"was killed by SIGKILL \(out of memory\?\) before it was done"):
        bench(path, TARGET, 1_000_000, 0, on_progress=kill)


def test_no_process_is_left_when_the_caller_is_interrupted(path):
    before = children()

    def interrupt(runs):
        if runs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(path, TARGET, 1_000_000, 0, on_progress=interrupt)
    assert children() == before


def test_a_runner_that_crashes_at_once_is_one_line(path, tmp_path, monkeypatch):
    broken = tmp_path / "runner.py"
    broken.write_text("import sys; sys.exit('no python here')\n")
    monkeypatch.setattr(local, "RUNNER", broken)
    with pytest.raises(EdgeksError, match="ended with code 1 before it was done; no python here"):
        bench(path, TARGET, 1, 0)


def events(*arguments, stdin="", runner=RUNNER, cwd=None):
    done = subprocess.run(
        [sys.executable, str(runner), *arguments], input=stdin, capture_output=True, text=True, check=False, cwd=cwd
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_runner_stands_alone(path, tmp_path):
    """Copied to an empty folder, as to a board, with its configuration in a file."""
    folder = tmp_path / "board"
    folder.mkdir()
    (folder / "runner.py").write_bytes(RUNNER.read_bytes())
    (folder / "config.json").write_text(json.dumps({"model": str(path), "runs": 3, "min_seconds": 0.05}))
    code, lines = events("config.json", runner=folder / "runner.py", cwd=folder)
    assert code == 0
    assert [line["event"] for line in lines if line["event"] != "samples"] == [
        *("facts", "memory", "load", "memory", "inputs", "memory"),
        *("first_inference", "warmup", "state", "state", "memory", "end"),
    ]
    assert sum(len(line["ms"]) for line in lines if line["event"] == "samples") >= 3
    assert lines[-1] == {"event": "end", "ok": True}


@pytest.mark.parametrize("stdin", ["", "{", "[]", "{}", '{"model": 3}'])
def test_the_runner_refuses_a_bad_configuration(stdin):
    code, lines = events(stdin=stdin)
    assert code == 1
    assert [line["event"] for line in lines] == ["error", "end"]
    assert lines[0]["stage"] == "config"


def test_the_runner_is_python_3_9_and_imports_nothing_of_edgeks():
    tree = ast.parse(RUNNER.read_text(), feature_version=(3, 9))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    runtimes = {"onnxruntime", "ai_edge_litert", "tflite_runtime"}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy", *runtimes}
    matches = [node for node in ast.walk(tree) if isinstance(node, ast.Match)]
    assert not matches


def test_it_starts_without_torch_and_onnxruntime():
    code = (
        "import sys, edgeks.bench.local, edgeks.bench.report, edgeks.bench.html_report, edgeks.bench.history_table; "
        "print([name for name in ('torch', 'onnxruntime', 'onnx', 'ai_edge_litert') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
