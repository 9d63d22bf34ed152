"""What does without torch starts without torch: a board's shell, a CI job and `--help` should not wait for it."""

import subprocess
import sys

import pytest
from onnx import TensorProto, helper

REPORT = """
import sys
from edgeks.cli import main
sys.argv = ["edgeks", *sys.argv[1:]]
try:
    main()
except SystemExit as done:
    heavy = [name for name in ("torch", "onnxruntime", "sklearn", "ignite") if name in sys.modules]
    print(done.code, *heavy, file=sys.stderr)
"""


def heavy_imports(*arguments):
    done = subprocess.run([sys.executable, "-c", REPORT, *arguments], capture_output=True, text=True, check=True)
    code, *modules = done.stderr.split()
    assert code == "0", done.stderr
    assert done.stdout
    return modules


@pytest.mark.parametrize(
    "arguments", [["--help"], ["targets"], ["export", "--help"], ["bench", "--help"], ["--version"]]
)
def test_commands_that_import_nothing_heavy(arguments):
    assert heavy_imports(*arguments) == []


@pytest.mark.parametrize("options", [[], ["--json"], ["--target", "rpi-4"]])
def test_footprint_imports_neither_torch_nor_the_runtime(tmp_path, options):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 1, 3, 3], [0.5] * 36)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    path = tmp_path / "net.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    assert heavy_imports("footprint", str(path), *options) == []


def test_the_probe_sees_torch_where_it_is_used():
    assert "torch" in heavy_imports("models")
