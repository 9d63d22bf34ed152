"""tflite-runtime 2.14 in its own environment, which `make` builds where there is Python 3.11."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-tflite-runtime" / "bin" / "python"
SCRIPT = Path(__file__).with_name("tflite_runtime") / "run.py"

needs_tflite_runtime = pytest.mark.skipif(
    not PYTHON.exists(), reason="no .venv-tflite-runtime: `make .venv-tflite-runtime` builds it, with Python 3.11"
)


def tflite_runtime(file: Path, inputs: list[np.ndarray], kernels: str = "xnnpack") -> list[np.ndarray]:
    """Outputs of a .tflite file in tflite-runtime, in the order of the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, array in enumerate(inputs):
            np.save(folder / f"in{number}.npy", array)
        command = [PYTHON, SCRIPT, file, kernels, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [np.load(folder / f"out{number}.npy") for number in range(len(list(folder.glob("out*.npy"))))]
