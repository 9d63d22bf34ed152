"""How many weights of a file's kernels are 0, and what the file takes with them stored compactly, and without."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeks.audit.onnx.kernels import list_kernels
from edgeks.errors import ConfigError
from edgeks.model_files.tflite_file import constant, read_tflite
from edgeks.model_files.tflite_kernels import kernel_operators
from edgeks.target import Format, Session, Target

# Of a kernel: a share that rounding to int8 does not make. A network that was not pruned is not told of its zeros.
NOTABLE = 0.25
GZIP_LEVEL = 6
# In kernels of up to 256 inputs and of more, fp32 and int8.
PAYS_FROM: dict[Format, str] = {
    "onnx": "it pays from 1/32 zeros in fp32, 1/8 in int8, where that is more than the 500 bytes of the form",
    "tflite": "it pays from 1/5 zeros in fp32, 1/2 in int8 (above 256 inputs 1/3 and 2/3), outside loops",
}


@dataclass(frozen=True, slots=True)
class KernelZeros:
    """Of the kernels of which a quarter or more is 0: `weights` and `zeros`. Bytes are of whole files.

    `sparse_bytes`: with those kernels stored compactly where that saves bytes; `dense_bytes` where it saves none.
    `gzip_bytes`: of the dense file, compressed. `sparse`: how the file is.
    """

    kernels: int
    weights: int
    zeros: int
    dense_bytes: int
    sparse_bytes: int
    gzip_bytes: int
    sparse: bool

    def describe(self, file_format: Format) -> str:
        """One line for the export's report."""
        share = f"{100 * self.zeros / self.weights:.0f} % of {self.weights:,} weights in {self.kernels} kernels"
        if self.sparse:
            ram = "; DENSIFY makes dense copies on the heap" if file_format == "tflite" else "; dense in RAM, as before"
            return f"{share}, stored compactly: {self.sparse_bytes:,} bytes instead of {self.dense_bytes:,}{ram}"
        stored = f"{share}, stored dense: {self.dense_bytes:,} bytes (through gzip {self.gzip_bytes:,})"
        if self.sparse_bytes < self.dense_bytes:
            return f"{stored}; --sparse makes {self.sparse_bytes:,}"
        return f"{stored}; --sparse saves nothing here: {PAYS_FROM[file_format]}"


def count_zeros(path: Path, file_format: Format) -> tuple[int, int, int]:
    """Kernels of which a quarter or more is 0 (codes: the code that stands for 0), their weights, and their zeros."""
    sizes: dict[object, tuple[int, int]] = {}
    if file_format == "onnx":
        for kernel in list_kernels(path):
            values = kernel.values()
            sizes[kernel] = values.size, values.size - int(np.count_nonzero(values))
    else:
        model = read_tflite(path)
        for operator in kernel_operators(model):
            content = constant(model, operator.tensor)
            if content is not None:
                sizes[operator.buffer] = content.size, content.size - int(np.count_nonzero(content))
    found = [(weights, zeros) for weights, zeros in sizes.values() if weights and zeros >= NOTABLE * weights]
    return len(found), sum(weights for weights, _ in found), sum(zeros for _, zeros in found)


def compressed_bytes(path: Path) -> int:
    """Bytes of a file through gzip."""
    return len(gzip.compress(path.read_bytes(), GZIP_LEVEL))


def require_sparse(target: Target) -> None:
    """Check that what reads the target's files makes kernels dense once, and not at every inference.

    Raises:
        ConfigError: it does not.
    """
    if isinstance(target.session, Session) and target.session.graph_optimization == "disabled":
        raise ConfigError(
            f"--sparse: target {target.name!r} opens files with graph_optimization disabled, which would make the "
            "kernels dense again at every inference; legal: basic, extended, all"
        )
    if target.layers == "cached":
        raise ConfigError(
            "--sparse: a weight cache holds kernels packed, not as the file has them; legal: --form unrolled, rolled"
        )
