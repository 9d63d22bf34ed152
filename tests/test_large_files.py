"""A file of any size is audited in bounded memory: constants are compared piece by piece where they lie."""

import json
import subprocess
import sys

import flatbuffers
import numpy as np
import onnx
import pytest
import small_graphs as graphs
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper
from tflite_graph import TfliteGraph

# Four kernels of 32 MB: two that are one, one that is their multiple, one of its own.
CHANNELS, TAPS = 512, 16 * 1024
KERNEL = 4 * CHANNELS * TAPS
MAX_KB = 150_000  # the process without a file takes 60,000
MEASURE = """
import json, sys
from pathlib import Path
from edgeks.audit.footprint import footprint
from edgeks.audit.footprint_json import to_json
flash = footprint(Path(sys.argv[1])).flash
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
copies = [[copy.kind, len(copy.constants), copy.wasted_bytes] for copy in flash.copies]
print(json.dumps([int(peak), flash.file_bytes, flash.constant_bytes, copies, flash.compressed_is_estimate]))
"""


def kernels():
    base = np.random.default_rng(0).standard_normal((TAPS, CHANNELS), dtype=np.float32)
    yield from (base, base, 3 * base, base[::-1])


def measured(path):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def onnx_file(path, external):
    """A product with each kernel: the output channels are on the last axis, so that each is all over the file."""
    constants, nodes = [], []
    for index, kernel in enumerate(kernels()):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(kernel), f"k{index}"))
        nodes.append(helper.make_node("MatMul", ["x", f"k{index}"], [f"y{index}"], f"dense{index}"))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TAPS])],
        [helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, [1, CHANNELS]) for index in range(4)],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=graphs.OPSETS, ir_version=10)
    onnx.save(proto, path, save_as_external_data=external, location="weights.bin" if external else None)
    return path


def tflite_file(path, behind):
    """Kernels O×I in buffers of the flatbuffer, or behind it."""
    graph = TfliteGraph()
    x = graph.input((1, TAPS), np.float32)
    for kernel in kernels():
        result = graph.tensor((1, CHANNELS), np.float32)
        graph.op("FULLY_CONNECTED", [x, graph.constant(np.ascontiguousarray(kernel.T)), -1], result)
    graph.write(path, result)
    if behind:
        put_behind(graph.model, path)
    return path


def put_behind(model, path):
    contents = [buffer.data for buffer in model.buffers]
    for operator in model.subgraphs[0].operators:
        operator.builtinOptions = schema.FullyConnectedOptionsT()
    model.buffers = [schema.BufferT(offset=0 if held is None else 2, size=0) for held in contents]
    for final in (False, True):
        builder = flatbuffers.Builder(4096)
        builder.Finish(model.Pack(builder), b"TFL3")
        content = bytes(builder.Output())
        if not final:
            end = -(-len(content) // 16) * 16 + 1024
            for buffer, held in zip(model.buffers, contents, strict=True):
                if held is not None:
                    buffer.offset, buffer.size = end, len(held)
                    end += len(held)
    with path.open("wb") as file:
        file.write(content)
        for buffer, held in zip(model.buffers, contents, strict=True):
            if held is not None:
                file.seek(buffer.offset)
                file.write(memoryview(np.asarray(held)))


@pytest.mark.parametrize("kind", ["inline.onnx", "external.onnx", "inline.tflite", "behind.tflite"])
def test_copies_are_found_in_little_memory(kind, tmp_path):
    make = onnx_file if kind.endswith("onnx") else tflite_file
    path = make(tmp_path / kind, not kind.startswith("inline"))
    peak, file_bytes, constant_bytes, copies, estimated = measured(path)
    assert peak < MAX_KB
    files = [file for file in tmp_path.iterdir() if file.is_file()]
    assert file_bytes == sum(file.stat().st_size for file in files)
    assert constant_bytes == 4 * KERNEL
    assert copies == [["equal", 2, KERNEL], ["scaled", 2, KERNEL]]
    assert estimated
