"""RAM measured in a fresh process per profile: what the parts are, and what is said where it cannot be measured."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_graphs as graphs
from onnx import TensorProto, helper, numpy_helper

from edgeks.bench.local import RUNNER, LocalMachine
from edgeks.bench.memory import measure_ram
from edgeks.errors import ConfigError, EdgeksError, ModelFileError
from edgeks.runtime_profile import PROFILES, profiles_for
from edgeks.target import load_target

DEFAULT, UNFOLDED, *_ = PROFILES["onnx"]
MEGABYTE = 1_000_000


def matrices(path, count=8, size=512):
    """`count` matrix products of different weights: size² × 4 × count bytes of weights that are packed."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((size, size)).astype(np.float32) for _ in range(count)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, size]) for i in (0, count)]
    constants = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return graphs.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def test_what_is_measured_is_the_models_own(tmp_path):
    path = matrices(tmp_path / "net.onnx")
    found = measure_ram(path, DEFAULT)
    weights = 8 * 512 * 512 * 4
    assert found.profile == "ort-default"
    assert weights < found.run_anonymous_bytes < weights + 4 * MEGABYTE
    assert found.load_peak_bytes >= found.loaded_bytes >= weights
    assert found.run_peak_bytes >= found.run_bytes >= found.run_anonymous_bytes
    assert found.run_mapped_bytes == 0  # ONNX Runtime reads the file and lets it go
    assert found.baseline_bytes > 10 * MEGABYTE


def test_mapped_pages_of_a_tflite_file_are_told_apart():
    path = Path(__file__).parents[1] / "data" / "litert_torch_fp32.tflite"
    builtin = next(profile for profile in PROFILES["tflite"] if profile.name == "litert-builtin")
    found = measure_ram(path, builtin)
    assert 0 < found.run_mapped_bytes <= -(-path.stat().st_size // 4096) * 4096


def test_data_files_of_a_folder_below_are_mapped_pages_too(tmp_path):
    (tmp_path / "weights").mkdir()
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.standard_normal((1024, 1024)).astype(np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024, 1024]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights/net.bin")
    assert measure_ram(tmp_path / "net.onnx", DEFAULT).run_mapped_bytes == 1024 * 1024 * 4


def test_libraries_beside_the_model_are_not_its_pages(tmp_path):
    """A process that has a file mapped ahead of the model, in the model's folder, as a virtual environment is."""
    (tmp_path / "library.so").write_bytes(bytes(1 << 20))
    (tmp_path / "data.bin").write_bytes(bytes(1 << 20))
    code = (
        f"import mmap, runpy; runner = runpy.run_path({str(RUNNER)!r})\n"
        "def touch(name):\n"
        f"    with open({str(tmp_path)!r} + '/' + name, 'rb') as file:\n"
        "        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "    sum(found[::4096]); return found\n"
        f"library = touch('library.so'); memory = runner['ProcessMemory']({str(tmp_path)!r} + '/net.onnx')\n"
        "memory.emit('start'); data = touch('data.bin'); memory.emit('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    readings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reading["mapped_bytes"] for reading in readings] == [0, 1 << 20]
    assert all(reading["peak_bytes"] for reading in readings)


def test_what_cannot_be_measured_is_one_line(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(ModelFileError, match="ONNX Runtime cannot load it"):
        measure_ram(tmp_path / "broken.onnx", DEFAULT)
    path = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")
    with pytest.raises(ConfigError, match="cannot be started"):
        measure_ram(path, DEFAULT, LocalMachine(Path("no/such/python")))
    absent = dataclasses.replace(PROFILES["tflite"][3])
    with pytest.raises(EdgeksError, match="tflite-runtime and numpy are needed in"):
        measure_ram(Path(__file__).parents[1] / "data" / "litert_torch_fp32.tflite", absent)


def test_a_targets_session_comes_first_under_its_name():
    target = load_target("rpi-zero-2w")
    assert [profile.name for profile in profiles_for("onnx", target)] == [
        "rpi-zero-2w", "ort-default", "ort-unfolded", "ort-no-prepacking", "ort-lean",
    ]  # fmt: skip
    assert profiles_for("onnx", target)[0].session is target.session
    assert profiles_for("tflite", target) == PROFILES["tflite"]
    assert UNFOLDED.session.disabled_optimizers == load_target("onnx").session.disabled_optimizers
