"""edgeks' multiply-accumulates and parameters beside those of public analysers, on the same files:

python benchmarks/analysers.py --python VENV/bin/python --vela VENV/bin/vela FILE.onnx … FILE.tflite …

VENV has `onnx-tool` (for .onnx), `tensorflow-cpu` (its TFLite Analyzer lists the constants of a .tflite) and
`ethos-u-vela` (which counts the products of the int8 operators that it places on an Ethos-U55). edgeks needs none of
them: they run in that interpreter. docs/analysers.md explains every difference.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import tempfile
from pathlib import Path

from edgeks.audit.onnx.compute import PRODUCTS, measure_compute
from edgeks.audit.tflite.compute import measure_tflite_compute
from edgeks.model_files.onnx_file import read_model_file
from edgeks.model_files.tflite_file import read_tflite

ONNX_HEADINGS = (
    "file", "edgeks MACs", "onnx-tool, products", "of which biases", "left over", "onnx-tool, total",
    "edgeks parameters", "onnx-tool",
)  # fmt: skip
TFLITE_HEADINGS = (
    "file", "edgeks MACs", "of them int8", "Vela", "left over", "edgeks weight bytes", "TFLite Analyzer", "left over",
)  # fmt: skip
# Vela counts the pooling of MEAN and MAX_POOL_2D as well.
VELA_PRODUCTS = ("Conv2D", "DepthwiseConv2D", "FullyConnected", "Conv2DBackpropInput", "TransposeConv", "BatchMatMul")
ONNX_TOOL = """
import json, sys
import onnx_tool
graph = onnx_tool.Model(sys.argv[1], {"verbose": False}).graph
graph.graph_reorder_nodes()
graph.shape_infer(None)
graph.profile()
nodes = []
for node in graph.nodemap.values():
    biased = node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2
    biased = biased or (node.op_type == "QLinearConv" and len(node.input) > 8)
    shape = list(graph.tensormap[node.output[0]].get_shape())
    nodes.append([node.op_type, node.macs[0], biased, [int(size) for size in shape]])
print(json.dumps({"macs": graph.macs[0], "parameters": graph.params, "nodes": nodes}))
"""
TFLITE_ANALYZER = """
import sys
import tensorflow
tensorflow.lite.experimental.Analyzer.analyze(model_path=sys.argv[1])
"""
CONSTANT = re.compile(r"T#\d+\((.*)\) shape:\[(.*)\], type:(\w+) RO (\d+) bytes, buffer: (\d+)")


def main() -> None:
    """Print one table for the .onnx files and one for the .tflite files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--python", required=True, type=Path, help="interpreter with onnx-tool and tensorflow")
    parser.add_argument("--vela", type=Path, help="the vela program")
    options = parser.parse_args()
    onnx = [path for path in options.files if path.suffix == ".onnx"]
    tflite = [path for path in options.files if path.suffix == ".tflite"]
    if onnx:
        print_table(ONNX_HEADINGS, [onnx_row(path, options.python) for path in onnx])
    if tflite:
        print_table(TFLITE_HEADINGS, [tflite_row(path, options.python, options.vela) for path in tflite])


def onnx_row(path: Path, python: Path) -> list[object]:
    """One file in both; "left over" is what stays after the additions of biases, which onnx-tool counts as well."""
    ours = measure_compute(read_model_file(path))
    try:
        theirs = json.loads(output_of([str(python), "-c", ONNX_TOOL, str(path)]).splitlines()[-1])
    except (subprocess.CalledProcessError, json.JSONDecodeError, IndexError) as error:
        stopped = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
        return [path.stem, ours.macs, f"stops: {stopped[:60]}", "", "", "", ours.parameters, ""]
    products = sum(macs for op, macs, *_ in theirs["nodes"] if op in PRODUCTS)
    biases = sum(math.prod(shape) for _, _, biased, shape in theirs["nodes"] if biased)
    left = products - biases - ours.macs
    return [path.stem, ours.macs, products, biases, left, int(theirs["macs"]), ours.parameters, theirs["parameters"]]


def tflite_row(path: Path, python: Path, vela: Path | None) -> list[object]:
    """One file in all three."""
    ours = measure_tflite_compute(read_tflite(path))
    same = sum(layer.macs for layer in ours.layers if layer.precision == "int8")
    theirs = vela_macs(path, vela) if vela else 0
    constants = analyzer_constants(path, python)
    found = [ours.macs, same, theirs, theirs - same, ours.weight_bytes, constants, constants - ours.weight_bytes]
    return [path.stem, *found]


def vela_macs(path: Path, vela: Path) -> int:
    """MACs of the convolutions and matrix products that Vela places on the NPU."""
    with tempfile.TemporaryDirectory() as folder:
        output_of([str(vela), str(path), "--output-dir", folder, "--verbose-performance"])
        with next(Path(folder).glob("*_per-layer.csv")).open(newline="") as file:
            rows = list(csv.DictReader(file))
    return sum(int(row["MAC Count"]) for row in rows if row["Original Operator"] in VELA_PRODUCTS)


def analyzer_constants(path: Path, python: Path) -> int:
    """Bytes of the constants that the TFLite Analyzer lists, each buffer once."""
    listed = CONSTANT.findall(output_of([str(python), "-c", TFLITE_ANALYZER, str(path)]))
    return sum({buffer: int(size) for *_, size, buffer in listed}.values())


def output_of(command: list[str]) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def print_table(headings: tuple[str, ...], rows: list[list[object]]) -> None:
    """Markdown."""
    print("|" + "|".join(headings) + "|\n|" + "---|" * len(headings))
    for row in rows:
        print("|" + "|".join(f"{cell:,}" if isinstance(cell, int | float) else str(cell) for cell in row) + "|")
    print()


if __name__ == "__main__":
    main()
