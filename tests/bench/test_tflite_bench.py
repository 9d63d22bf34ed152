"""The same runner measures .tflite files, in every runtime that reads them."""

import dataclasses
import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from test_local_bench import small
from tflite_graph import TfliteGraph
from tflite_runtime_env import PYTHON, needs_tflite_runtime

from edgeks.bench.local import RUNNER, LocalMachine, bench
from edgeks.bench.runner import lacks_atomics
from edgeks.errors import ConfigError, DataError, EdgeksError, ModelFileError
from edgeks.target import LiteRtSession, load_target

TARGET = load_target("tflite")
SHAPE = (1, 4, 4, 8)


def network(path, dtype=np.float32, batch=False):
    """A conv from float codes, or the input as it is where the type has no arithmetic."""
    graph = TfliteGraph()
    scale = 0.1 if np.dtype(dtype) in (np.int8, np.uint8) else None
    x = graph.input(SHAPE, dtype, scale, batch=batch)
    if dtype != np.float32:
        shape = graph.constant(np.array([1, 8, 4, 4], np.int32))
        return graph.write(path, graph.op("RESHAPE", [x, shape], graph.tensor((1, 8, 4, 4), dtype, scale), version=1))
    kernel, bias = graph.constant(np.ones((8, 3, 3, 8), np.float32)), graph.constant(np.zeros(8, np.float32))
    return graph.write(path, graph.conv([x, kernel, bias], graph.tensor(SHAPE, np.float32, batch=batch)))


@pytest.fixture
def path(tmp_path):
    return network(tmp_path / "net.tflite")


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_litert_with_the_target_s_kernels(kernels, path):
    target = dataclasses.replace(TARGET, session=LiteRtSession(1, kernels))
    result = bench(path, target, 20, 1, threads=2)
    assert result.session == {"threads": 2, "kernels": kernels}
    assert result.latency.count == 20 and min(result.samples_ms) > 0
    assert result.facts["runtime"] == "litert"
    assert result.inputs == {"t0": {"shape": list(SHAPE), "dtype": "float32"}}
    assert [memory.stage for memory in result.memory] == ["start", "loaded", "fed", "run"]
    assert all(memory.rss_bytes and memory.anonymous_bytes for memory in result.memory)


def test_kernels_that_are_none(path):
    unknown = dataclasses.replace(TARGET, session=LiteRtSession(1, "fast"))
    with pytest.raises(EdgeksError, match="kernels is 'fast'; legal: xnnpack, builtin, reference"):
        bench(path, unknown, 1, 0)


@needs_tflite_runtime
def test_tflite_runtime_in_an_environment_of_its_own(path):
    result = bench(path, TARGET, 5, 1, runtime="tflite-runtime", machine=LocalMachine(PYTHON))
    assert (result.facts["runtime"], result.facts["runtime_version"]) == ("tflite-runtime", "2.14.0")
    assert result.facts["numpy_version"].startswith("1.")
    own = dataclasses.replace(TARGET, runtime="tflite-runtime")
    assert bench(path, own, 1, 0, machine=LocalMachine(PYTHON)).facts["runtime"] == "tflite-runtime"


def test_a_runtime_or_a_python_that_is_not_there(path, tmp_path):
    with pytest.raises(EdgeksError, match=r"tflite-runtime and numpy are needed in .*No module named 'tflite_runtime'"):
        bench(path, TARGET, 1, 0, runtime="tflite-runtime")
    with pytest.raises(ConfigError, match=r"--python .*nowhere: cannot be started"):
        bench(path, TARGET, 1, 0, machine=LocalMachine(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="legal for tflite files: litert, tflite-runtime, litert-compiled"):
        bench(path, TARGET, 1, 0, runtime="onnxruntime")


def test_a_target_for_the_other_format(path, tmp_path):
    with pytest.raises(ConfigError, match="target 'onnx' is for onnx files; name one for tflite: --target"):
        bench(path, load_target("onnx"), 1, 0)
    with pytest.raises(ConfigError, match="target 'tflite' is for tflite files; name one for onnx: --target"):
        bench(small(tmp_path / "net.onnx"), TARGET, 1, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint8, np.int32, np.int64, np.bool_])
def test_random_inputs_of_every_type(dtype, tmp_path):
    result = bench(network(tmp_path / "net.tflite", dtype), TARGET, 1, 0)
    assert result.inputs["t0"] == {"shape": list(SHAPE), "dtype": np.dtype(dtype).name}


@pytest.mark.parametrize("runtime", ["litert", "litert-compiled"])
def test_given_inputs(runtime, path, tmp_path):
    given = tmp_path / "in.npy"
    np.save(given, np.ones(SHAPE, np.float32))
    assert bench(path, TARGET, 1, 0, runtime=runtime, inputs=given).inputs["t0"]["shape"] == list(SHAPE)
    np.save(given, np.ones((2, *SHAPE[1:]), np.float32))
    with pytest.raises(DataError, match=r"'t0' takes \[1, 4, 4, 8\] float32, not \[2, 4, 4, 8\] float32"):
        bench(path, TARGET, 1, 0, runtime=runtime, inputs=given)
    np.save(given, np.ones(SHAPE, np.int8))
    with pytest.raises(DataError, match=r"float32, not .* int8"):
        bench(path, TARGET, 1, 0, runtime=runtime, inputs=given)


def test_a_batch_that_the_network_cannot_take(tmp_path):
    """Its input's batch is symbolic, the shape inside it is not."""
    path = network(tmp_path / "net.tflite", np.int8, batch=True)
    np.save(tmp_path / "in.npy", np.ones((3, *SHAPE[1:]), np.int8))
    with pytest.raises(ModelFileError, match="LiteRT cannot run it: "):
        bench(path, TARGET, 1, 0, inputs=tmp_path / "in.npy")


def test_a_symbolic_batch_is_one_or_what_is_given(tmp_path):
    path = network(tmp_path / "net.tflite", batch=True)
    assert bench(path, TARGET, 1, 0).inputs["t0"]["shape"] == list(SHAPE)
    np.save(tmp_path / "in.npy", np.ones((3, *SHAPE[1:]), np.float32))
    assert bench(path, TARGET, 1, 0, inputs=tmp_path / "in.npy").inputs["t0"]["shape"] == [3, *SHAPE[1:]]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x1c\0\0\0TFL3" + bytes(200)])
@pytest.mark.parametrize("runtime", ["litert", "litert-compiled"])
def test_bad_model_files(runtime, content, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        bench(path, TARGET, 1, 0, runtime=runtime)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def runner(folder, python=sys.executable, **config):
    """The runner copied alone to an empty folder, as to a board → its events by name."""
    folder.mkdir()
    (folder / "runner.py").write_bytes(RUNNER.read_bytes())
    (folder / "config.json").write_text(json.dumps({"runs": 2, "warmup": 0, **config}))
    command = [python, folder / "runner.py", folder / "config.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return {line["event"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_the_runner_alone_takes_the_runtime_that_is_installed(path, tmp_path):
    events = runner(tmp_path / "board", model=str(path))
    assert (events["facts"]["runtime"], events["end"]["ok"]) == ("litert", True)


@needs_tflite_runtime
def test_the_runner_alone_takes_tflite_runtime_where_there_is_no_litert(path, tmp_path):
    events = runner(tmp_path / "board", PYTHON, model=str(path))
    assert (events["facts"]["runtime"], events["end"]["ok"]) == ("tflite-runtime", True)


def test_the_weight_cache_is_kept_checked_and_built_anew_when_damaged(path, tmp_path):
    folder, boards = tmp_path / "cache", iter(range(10))

    def files(model=path):
        config = {"model": str(model), "runtime": "litert-compiled", "weight_cache": str(folder)}
        events = runner(tmp_path / f"board{next(boards)}", **config)
        assert events["end"]["ok"], events
        return sorted(folder.iterdir())

    checksum, cache = files()
    assert (checksum.suffix, cache.suffix) == (".sha256", ".xnnpack")
    whole, number = cache.read_bytes(), cache.stat().st_ino
    assert files() == [checksum, cache] and cache.stat().st_ino == number
    cache.write_bytes(whole[:-100] + bytes(100))  # LiteRT would use it in silence
    assert files() == [checksum, cache] and cache.read_bytes() == whole
    checksum.unlink()
    assert files() == [checksum, cache]
    assert len(files(network(tmp_path / "other.tflite", batch=True))) == 4


def test_bench_reports_a_warm_cache_and_leaves_nothing(path, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    result = bench(path, TARGET, 2, 0, runtime="litert-compiled")
    assert result.facts["runtime"] == "litert-compiled"
    assert result.session == {"threads": 1, "kernels": "xnnpack", "weight_cache": "warm"}
    assert not list((tmp_path / "temporary").iterdir())


def test_where_no_weight_cache_can_be(path, tmp_path):
    builtin = dataclasses.replace(TARGET, session=LiteRtSession(1, "builtin"))
    with pytest.raises(EdgeksError, match="kernels needs to be xnnpack, or the runtime litert"):
        bench(path, builtin, 1, 0, runtime="litert-compiled")
    (tmp_path / "file").touch()
    config = {"model": str(path), "runtime": "litert-compiled"}
    events = runner(tmp_path / "board", **config, weight_cache=str(tmp_path / "file" / "cache"))
    assert "Not a directory" in events["error"]["message"]
    assert "needs weight_cache" in runner(tmp_path / "board2", **config)["error"]["message"]


def test_armv8_0_has_no_compiled_model():
    """The features that Linux lists for a Raspberry Pi 4 and 5."""
    pi_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
    pi_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimddp\n"
    assert lacks_atomics("aarch64", pi_4) and not lacks_atomics("aarch64", pi_5)
    assert not lacks_atomics("x86_64", "flags\t: fpu avx2\n")
    assert not lacks_atomics("aarch64", "")  # no /proc: not Linux
