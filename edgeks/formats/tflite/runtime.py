"""Running a .tflite file in LiteRT's interpreter, with the kernels that a target names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from edgeks.errors import ModelFileError
from edgeks.target import LiteRtSession

RESOLVERS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
# The same codes on every CPU; what a file computes by TFLite's own specification.
REFERENCE = LiteRtSession(threads=1, kernels="reference")


def open_interpreter(file: Path, session: LiteRtSession) -> Interpreter:
    """Interpreter with its tensors allocated. The file is mapped, not copied: pass a path, not bytes.

    Raises:
        ModelFileError: LiteRT does not take the file.
    """
    try:
        interpreter = Interpreter(
            model_path=str(file),
            num_threads=session.threads,
            experimental_op_resolver_type=RESOLVERS[session.kernels],
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"LiteRT refuses {file.name}: {str(error).splitlines()[0][:300]}") from error
    return interpreter


def run(interpreter: Interpreter, samples: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Samples N×C×H×W (or N×H×W×C as the file has it) → every output in the order of its signature, N×…, real values.

    Samples are real values as the network takes them, or raw pixels for a file that takes those. int8 inputs are
    encoded and int8 outputs decoded by the scales that the file holds. Inputs are turned to the file's own layout
    where the shapes tell them apart from it.
    """
    feed = interpreter.get_input_details()[0]
    outputs = interpreter.get_output_details()
    size = int(feed["shape"][0])
    rows: list[list[NDArray[np.float32]]] = []
    for start in range(0, len(samples), size):
        batch = samples[start : start + size]
        padding = np.repeat(batch[-1:], size - len(batch), axis=0)
        interpreter.set_tensor(feed["index"], _encode(np.concatenate([batch, padding]), feed))
        interpreter.invoke()
        rows.append([_decode(interpreter.get_tensor(out["index"]), out)[: len(batch)] for out in outputs])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _encode(batch: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if dtype.kind in "iu" and batch.dtype != dtype and scale:
        limits = np.iinfo(dtype)
        batch = np.clip(np.rint(batch / np.float32(scale)) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(batch.astype(dtype, copy=False))


def _decode(held: NDArray[Any], detail: dict[str, Any]) -> NDArray[np.float32]:
    scale, zero_point = detail["quantization"]
    if held.dtype.kind not in "iu" or not scale:
        return held.astype(np.float32)
    return (held.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)
