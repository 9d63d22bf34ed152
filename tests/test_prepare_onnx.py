"""A file that ONNX Runtime has optimised: kernels once, outputs bit for bit, mapped, and only where it was made."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import small_graphs as graphs
from networks import SharedConvs, small_checkpoint
from onnx import TensorProto, helper
from repeated_networks import RepeatedNetwork

from edgeks.audit.footprint import footprint
from edgeks.audit.onnx.kernels import list_kernels
from edgeks.audit.onnxruntime.ram import predict_onnxruntime
from edgeks.bench.local import bench
from edgeks.bench.memory import measure_ram
from edgeks.bench.runner import Failure, cpu_kind, require_prepared_here
from edgeks.errors import ConfigError, ModelFileError, OutputError, SharingBroken
from edgeks.exporter import export
from edgeks.formats.onnx import open_session
from edgeks.graph.onnx_network import load_onnx
from edgeks.model_files.onnx_file import read_model_file
from edgeks.prepare_onnx import prepare_onnx
from edgeks.prepared import PREPARED_KEY, read_prepared
from edgeks.runtime_profile import Profile
from edgeks.target import load_target

ONNX = load_target("onnx")
LAYERS = 4
MEGABYTE = 1e6
on_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="blocks of channels are x86's")


def large(channels=256, layers=6):
    """conv(W) → BN → Relu, one W of 2.4 MB."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [graphs.initializer("kernel", graphs.kernel(shape=(channels, channels, 3, 3)))], "x"
    for index in range(layers):
        names = [f"{which}{index}" for which in "gbmv"]
        constants += [graphs.initializer(n, rng.uniform(0.5, 2, channels).astype(np.float32)) for n in names]
        out = "y" if index == layers - 1 else f"r{index}"
        nodes += [
            helper.make_node("Conv", [value, "kernel"], [f"c{index}"], f"conv{index}", pads=[1] * 4),
            helper.make_node("BatchNormalization", [f"c{index}", *names], [f"n{index}"], f"bn{index}"),
            helper.make_node("Relu", [f"n{index}"], [out], f"relu{index}"),
        ]
        value = out
    return graphs.model(nodes, constants, 1, [1, channels, 8, 8], input_shape=(channels, 8, 8))


FORMS = {"fp32": graphs.fp32_shared, "QDQ": graphs.qdq, "QOperator": graphs.qoperator}


@pytest.mark.parametrize("form", FORMS)
def test_kernels_are_stored_once_and_outputs_are_the_same_bit_for_bit(form, tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = graphs.save(FORMS[form](), folder / "net.onnx")
    before = path.read_bytes()
    found = prepare_onnx(path, ONNX)
    assert found.path == folder / "net.prepared.onnx" and path.read_bytes() == before
    assert sorted(folder.iterdir()) == sorted([path, found.path, found.data_path])
    assert found.shared_kernels == 1
    assert sum(kernel.shape[2:] == (3, 3) for kernel in list_kernels(found.path)) == 1
    x = np.random.default_rng(3).standard_normal((1, 8, 6, 6)).astype(np.float32)
    (expected,) = open_session(path, ONNX.session).run(None, {"x": x})
    (outputs,) = open_session(found.path, found.prepared.session).run(None, {"x": x})
    assert outputs.tobytes() == expected.tobytes()


def target(folder, disabled):
    path = folder / "mine.toml"
    session = f"[session]\ndisabled_optimizers = {json.dumps(disabled)}\n"
    path.write_text(f'description = "mine"\nformat = "onnx"\nruntime = "onnxruntime"\n{session}')
    return load_target(str(path))


def test_a_kernel_that_a_loop_and_a_layer_outside_it_read(tmp_path):
    """A body's convolutions stay as they are, those of the main graph go to blocks of channels: two kernels."""
    path = graphs.save(graphs.loop(), tmp_path / "net.onnx")
    if os.uname().machine == "x86_64":
        with pytest.raises(SharingBroken, match=r"makes 1 more of its size .* NchwcTransformer where a loop reads it"):
            prepare_onnx(path, ONNX)
    found = prepare_onnx(path, target(tmp_path, [*ONNX.session.disabled_optimizers, "NchwcTransformer"]))
    assert sum(kernel.shape[2:] == (3, 3) for kernel in list_kernels(found.path)) == 1


@on_x86
def test_blocks_of_channels_keep_one_kernel(tmp_path):
    found = prepare_onnx(graphs.save(large(), tmp_path / "net.onnx"), ONNX)
    nodes = onnx.load(found.path, load_external_data=False).graph.node
    assert any(node.domain == "com.microsoft.nchwc" for node in nodes)
    kernel_bytes = 256 * 256 * 9 * 4
    assert [len(k.layers) for k in list_kernels(found.path) if k.stored_bytes >= kernel_bytes] == [6]
    assert found.data_bytes < 1.1 * kernel_bytes + 6 * 4 * 256 * 4


def test_a_loop_in_integers_is_told_to_be_unprepared(tmp_path):
    """ONNX Runtime saves one name inside the loop and around it, and refuses the file itself."""
    network, calib = RepeatedNetwork([("plain", 3, "none")]).save(tmp_path)
    path = tmp_path / "net_int8.onnx"
    export(load_onnx(network), path, ONNX, int8=True, layers="rolled", calib=calib, min_sqnr_db=-200)
    with pytest.raises(ModelFileError, match="run the file as it is, or prepare it unrolled"):
        prepare_onnx(path, ONNX)
    assert not list(tmp_path.glob("*.prepared.*"))


def test_constants_are_mapped_and_ram_is_as_predicted(tmp_path):
    path = graphs.save(large(512), tmp_path / "net.onnx")
    found = prepare_onnx(path, ONNX)
    before = measure_ram(path, Profile("x", "", "onnxruntime", ONNX.session))
    result = footprint(found.path)
    (row,) = result.ram
    assert row.profile.name == "prepared" and row.profile.session == found.prepared.session
    after = measure_ram(found.path, row.profile)
    kernel_bytes = 512 * 512 * 9 * 4
    assert before.loaded_anonymous_bytes - after.loaded_anonymous_bytes > 0.95 * kernel_bytes
    assert before.load_peak_bytes - after.load_peak_bytes > 3 * kernel_bytes
    assert after.run_mapped_bytes >= kernel_bytes
    for expected, measured in (
        (row.predicted.run_peak.total_bytes, after.run_peak_bytes),
        (row.predicted.loaded.total_bytes, after.loaded_bytes),
        (row.predicted.load_peak_bytes, after.load_peak_bytes),
    ):
        assert abs(expected - measured) <= max(MEGABYTE, 0.1 * measured)


@pytest.mark.parametrize("int8", [False, True])
def test_ram_of_int8_with_poolings_is_known(int8, tmp_path):
    """ONNX Runtime saves QLinearConv and NhwcMaxPool that read N×H×W×C."""
    path = tmp_path / "net.onnx"
    export(small_checkpoint(SharedConvs(16, (1, 2, 1))), path, ONNX, int8=int8, min_sqnr_db=-200)
    found = prepare_onnx(path, ONNX)
    prediction = predict_onnxruntime(read_model_file(found.path), found.prepared.session, "prepared", "x86-64")
    assert prediction is not None
    measured = measure_ram(found.path, Profile("prepared", "", "onnxruntime", found.prepared.session))
    if os.uname().machine == "x86_64":
        assert abs(prediction.run_peak.total_bytes - measured.run_peak_bytes) <= MEGABYTE


def test_the_file_says_for_which_runtime_and_cpu_it_is(tmp_path):
    path = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")
    found = prepare_onnx(path, ONNX)
    stored = read_prepared(found.path, onnx.load(found.path, load_external_data=False))
    assert stored == found.prepared
    assert (stored.runtime_version, stored.cpu, stored.source) == (ort.__version__, cpu_kind(), "net.onnx")
    assert stored.session.graph_optimization == "disabled"
    assert stored.session.memory_pattern is ONNX.session.memory_pattern
    result = footprint(found.path)
    assert f"prepared for {stored.only_for}: elsewhere it may compute wrong numbers" in result.ram[0].predicted.notes
    with pytest.raises(ModelFileError, match=r"is prepared already, for ONNX Runtime .*; name its source, net.onnx"):
        prepare_onnx(found.path, ONNX)
    with pytest.raises(ConfigError, match="unknown profile 'ort-default'; legal: prepared"):
        footprint(found.path, profile="ort-default")


@pytest.mark.parametrize(("key", "value"), [("cpu", "x86_64 avx2"), ("runtime_version", "1.0.0")])
def test_it_is_refused_elsewhere(key, value, tmp_path):
    found = prepare_onnx(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"), ONNX)
    assert bench(found.path, ONNX, 3, 1).session["graph_optimization"] == "disabled"
    proto = onnx.load(found.path, load_external_data=False)
    (entry,) = (entry for entry in proto.metadata_props if entry.key == PREPARED_KEY)
    made = json.loads(entry.value) | {key: value}
    entry.value = json.dumps(made)
    found.path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match=r"it was prepared for .* here: edgeks prepare"):
        bench(found.path, ONNX, 3, 1)
    with pytest.raises(Failure, match=r"prepare its source net.onnx here"):
        require_prepared_here(made, ort.__version__)


@pytest.mark.parametrize(
    "stored", ["no JSON", "[]", "{}", '{"session": {}}', '{"session": {"threads": true}}', '{"session": []}']
)
def test_metadata_that_are_malformed_are_an_error_of_one_line(stored, tmp_path):
    proto = graphs.fp32_shared()
    proto.metadata_props.add(key=PREPARED_KEY, value=stored)
    path = graphs.save(proto, tmp_path / "net.onnx")
    for use in (footprint, lambda path: prepare_onnx(path, ONNX), lambda path: bench(path, ONNX, 1, 0)):
        with pytest.raises(ModelFileError, match=r"metadata 'edgeks.prepared' is malformed"):
            use(path)


def test_the_loader_runs_where_it_was_made(tmp_path):
    found = prepare_onnx(graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx"), ONNX)
    program = f"{found.loader}\nprint(session.get_inputs()[0].name)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "x"
    elsewhere = program.replace(f"== {ort.__version__!r}", "== '0.1'")
    assert subprocess.run([sys.executable, "-c", elsewhere], cwd=tmp_path, capture_output=True, check=False).returncode


def test_prepared_anew_leaves_no_old_data(tmp_path):
    path = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")
    first = prepare_onnx(path, ONNX)
    graphs.save(graphs.fp32_shared(layers=5), path)
    second = prepare_onnx(path, ONNX)
    assert first.data_path != second.data_path
    assert sorted(tmp_path.iterdir()) == sorted([path, second.path, second.data_path])
    again = prepare_onnx(path, ONNX)
    assert again.data_path == second.data_path and again.data_path.exists()


def test_options_that_copy_a_kernel_are_refused(tmp_path):
    path = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")
    with pytest.raises(SharingBroken, match=r"read by 4 layers, and ONNX Runtime makes 3 more of its size"):
        prepare_onnx(path, target(tmp_path, []))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mine.toml", path]


def test_what_cannot_be_prepared(tmp_path):
    path = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")
    with pytest.raises(ConfigError, match="target 'tflite' is for litert: only ONNX Runtime writes prepared files"):
        prepare_onnx(path, load_target("tflite"))
    if os.uname().machine == "x86_64":
        with pytest.raises(ConfigError, match=r"Raspberry Pi 4 .* this machine is x86_64.* Run this on the board"):
            prepare_onnx(path, load_target("rpi-4"))
    with pytest.raises(ModelFileError, match=r"only .onnx files can be prepared"):
        prepare_onnx(tmp_path / "net.tflite", ONNX)
    with pytest.raises(OutputError, match=r"would replace net.onnx, which is read"):
        prepare_onnx(path, ONNX, path)
    with pytest.raises(OutputError, match=r"name it .onnx"):
        prepare_onnx(path, ONNX, tmp_path / "net.ort")
    with pytest.raises(OutputError, match=r"the folder .* does not exist"):
        prepare_onnx(path, ONNX, tmp_path / "no" / "net.onnx")
    unknown = helper.make_model(
        helper.make_graph(
            [helper.make_node("Nothing", ["x"], ["y"], domain="nobody")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("nobody", 1)],
        ir_version=10,
    )
    with pytest.raises(ModelFileError, match=r"ONNX Runtime refuses odd.onnx"):
        prepare_onnx(graphs.save(unknown, tmp_path / "odd.onnx"), ONNX)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "odd.onnx"]


def test_external_data_of_the_source_is_never_replaced(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(large(64), path, save_as_external_data=True, location="net.bin", size_threshold=1024)
    before = (tmp_path / "net.bin").read_bytes()
    found = prepare_onnx(path, ONNX)
    assert (tmp_path / "net.bin").read_bytes() == before and found.data_path != tmp_path / "net.bin"
    with pytest.raises(OutputError, match="which is read"):
        prepare_onnx(path, ONNX, path)


@pytest.mark.parametrize("limit", [1 << 20, 1 << 12])
def test_a_full_disk_leaves_nothing_new(limit, tmp_path):
    """A limit of the size of files stands for the disk: it hits the data first, or the model too."""
    path = graphs.save(large(), tmp_path / "net.onnx")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "edgeks", "prepare", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "net.prepared" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    path = graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match=r"net.prepared.*: cannot be written \(Permission denied\)"):
            prepare_onnx(path, ONNX)
    finally:
        tmp_path.chmod(0o755)


def test_kernels_of_a_loop_count_for_the_layers_of_all_trips(tmp_path):
    path = tmp_path / "rolled.onnx"
    export(small_checkpoint(SharedConvs()), path, ONNX, layers="rolled")
    assert prepare_onnx(path, ONNX).shared_kernels == 1
