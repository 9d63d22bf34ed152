"""`edgeks bench` as a process of its own, its hosts file, and what it keeps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx

import edgeks
from edgeks.board.host import Host

SHORT = ("--processes", "3", "--runs", "4", "--seconds", "0", "--warmup", "1")
WEIGHT = 3.0


def make_model(path: Path) -> Path:
    """y = 3·x, whose weight is an initializer."""
    text = '<ir_version: 10, opset_import: ["": 20]> net (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Mul(x, w) }'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 3, 4, 4), WEIGHT, np.float32), "w"))
    path.write_bytes(made.SerializeToString())
    return path


def hosts_file(folder: Path, *hosts: Host) -> Path:
    """A TOML file of the hosts in `folder`."""
    tables = []
    for host in hosts:
        keys = {"destination": host.destination, "options": list(host.options), "folder": host.folder}
        keys |= {"python": host.python} if host.python else {}
        lines = (f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None)
        tables.append("\n".join([f"[{host.name}]", *lines]))
    path = folder / "hosts.toml"
    path.write_text("\n\n".join(tables))
    return path


def command(folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    """`edgeks` with `folder` as its working folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(edgeks.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment["ORT_DISABLE_TELEMETRY"] = "1"  # else `import onnxruntime` leaves a file in TMPDIR
    words = [sys.executable, "-m", "edgeks", *map(str, arguments)]
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def edgeks_says(folder: Path, *arguments: object) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    process = command(folder, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def records(folder: Path) -> list[dict]:
    """What it has kept."""
    return [json.loads(path.read_text()) for path in sorted((folder / "runs" / "bench").glob("*.json"))]
