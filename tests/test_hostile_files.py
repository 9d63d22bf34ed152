"""Files that mean harm, of every format: a footprint, or one ModelFileError of one line; soon and in little memory."""

import random
import subprocess
import sys

import numpy as np
import pytest
import small_graphs as graphs
from ort_files import save_ort
from tflite_graph import TfliteGraph

from edgeks.audit.footprint import footprint
from edgeks.errors import ModelFileError

FLIPS = 500
CUTS = 64
MAX_KB = 1_000_000

# Runs the same in a process of its own, and tells the most memory that it held.
RUNNER = """
import sys
from pathlib import Path
from edgeks.audit.footprint import footprint
from edgeks.errors import ModelFileError
for path in sys.argv[1:]:
    try:
        footprint(Path(path))
    except ModelFileError as error:
        assert "\\n" not in str(error)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def int8_chain(path):
    graph = TfliteGraph()
    x = graph.input((1, 6, 6, 8), np.int8, 0.1)
    content = np.random.default_rng(0).integers(-127, 128, (8, 3, 3, 8)).astype(np.int8)
    weight = graph.constant(content, np.full(8, 0.01))
    for layer in range(3):
        bias = graph.constant(np.arange(8, dtype=np.int32) + layer, 0.001)
        x = graph.conv([x, weight, bias], graph.tensor((1, 6, 6, 8), np.int8, 0.1))
    return graph.write(path, x)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    int8 = graphs.save(graphs.qdq(), folder / "int8.onnx")
    fp32 = graphs.save(graphs.fp32_shared(), folder / "fp32.onnx")
    bodies = graphs.save(graphs.loop(), folder / "loop.onnx")
    paths = {
        "int8.onnx": int8,
        "fp32.onnx": fp32,
        "loop.onnx": bodies,
        "fp32.ort": save_ort(fp32, folder / "fp32.ort"),
        "int8.ort": save_ort(int8, folder / "int8.ort", optimised=True),
        "loop.ort": save_ort(bodies, folder / "loop.ort"),
        "int8.tflite": int8_chain(folder / "int8.tflite"),
    }
    return {name: path.read_bytes() for name, path in paths.items()}


NAMES = ["int8.onnx", "fp32.onnx", "loop.onnx", "fp32.ort", "int8.ort", "loop.ort", "int8.tflite"]


def refused(path, content):
    """Whether the content is refused; anything but a footprint or one ModelFileError of one line fails the test."""
    path.write_bytes(content)
    try:
        footprint(path)
    except ModelFileError as error:
        assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 1100
        return True
    return False


def flipped(content, count, seed=0):
    rng = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 4])):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        yield bytes(damaged)


@pytest.mark.parametrize("name", NAMES)
def test_cut_at_every_64th(name, sound, tmp_path):
    content = sound[name]
    assert not refused(tmp_path / name, content)
    for part in range(CUTS):
        assert refused(tmp_path / name, content[: len(content) * part // CUTS]), part


@pytest.mark.parametrize("name", NAMES)
def test_random_flips(name, sound, tmp_path):
    found = [refused(tmp_path / name, content) for content in flipped(sound[name], FLIPS)]
    assert 0 < sum(found) < FLIPS


@pytest.mark.parametrize("name", ["int8.onnx", "fp32.ort", "int8.tflite"])
@pytest.mark.parametrize("word", [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", bytes(4), (1 << 20).to_bytes(4, "little")])
def test_huge_sizes_and_cyclic_references(name, word, sound, tmp_path):
    """Every place of a file is an offset or a size somewhere; 0 is an offset to itself."""
    content, rng = sound[name], random.Random(1)
    for _ in range(60):
        position = 4 * rng.randrange(2, len(content) // 4)
        refused(tmp_path / name, content[:position] + word + content[position + 4 :])


def test_memory_of_a_whole_process(sound, tmp_path):
    paths = []
    for name in NAMES:
        for index, content in enumerate(flipped(sound[name], 40, seed=2)):
            paths.append(tmp_path / f"{index}.{name}")
            paths[-1].write_bytes(content)
    done = subprocess.run([sys.executable, "-c", RUNNER, *map(str, paths)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < MAX_KB


@pytest.mark.parametrize("suffix", [".onnx", ".ort", ".tflite"])
def test_from_the_command_line(suffix, sound, tmp_path):
    content = sound[f"int8{suffix}"]
    for name, damaged in {"empty": b"", "half": content[: len(content) // 2], "magic": b"not a model" * 9}.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(damaged)
        command = [sys.executable, "-m", "edgeks", "footprint", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"error: {path}: ")
