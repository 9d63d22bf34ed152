"""Running a .tflite file in LiteRT's interpreter, with the kernels that a target names."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from edgeks.errors import ModelFileError
from edgeks.interface import Interface
from edgeks.target import LiteRtSession
from edgeks.tflite_file import metadata, read_tflite

RESOLVERS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
INTERFACE_KEY = "interface"  # of the metadata, with the prefix that all of edgeks' entries have
# TFLite's own kernels, without what a delegate makes of the file. The plain loops of "reference" are the same on every
# CPU, but take minutes for a network that these run in a second.
REFERENCE = LiteRtSession(threads=1, kernels="builtin")


def open_interpreter(file: Path, session: LiteRtSession) -> Interpreter:
    """Interpreter with its tensors allocated. The file is mapped, not copied: pass a path, not bytes.

    Raises:
        ModelFileError: LiteRT does not take the file.
    """
    try:
        with _quiet():
            interpreter = Interpreter(
                model_path=str(file),
                num_threads=session.threads,
                experimental_op_resolver_type=RESOLVERS[session.kernels],
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"LiteRT refuses {file.name}: {str(error).splitlines()[0][:300]}") from error
    return interpreter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """LiteRT tells of its delegate on the process's stderr, past Python's; what it refuses is in its exception."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def interface(file: Path) -> Interface | None:
    """What the file says of its inputs and outputs; None for one that edgeks did not write.

    Raises:
        ModelFileError: the file or its description is malformed.
    """
    stored = metadata(read_tflite(file)).get(f"edgeks.{INTERFACE_KEY}")
    try:
        return None if stored is None else Interface.from_dict(json.loads(stored))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{file.name}: its description of inputs and outputs is no JSON: {error}") from error


def run(
    interpreter: Interpreter, samples: NDArray[Any], described: Interface | None = None
) -> list[NDArray[np.float32]]:
    """Samples → every output, N×…, real values, in batches of the file's own size; a last short batch is padded.

    Samples are real values as the network takes them (N×C×H×W), or raw pixels for a file that takes those. With an
    `interface` they are turned into the file's layout and codes by it, without one they are fed as they are, N×H×W×C
    where the file takes that, and encoded by the scales in the file.
    """
    feed = interpreter.get_input_details()[0]
    outputs = interpreter.get_output_details()
    if described is not None:
        samples = described.inputs[0].encode(samples)
    size = int(feed["shape"][0])
    rows: list[list[NDArray[np.float32]]] = []
    for start in range(0, len(samples), size):
        batch = samples[start : start + size]
        padding = np.repeat(batch[-1:], size - len(batch), axis=0)
        interpreter.set_tensor(feed["index"], _encode(np.concatenate([batch, padding]), feed))
        interpreter.invoke()
        found = [interpreter.get_tensor(out["index"]) for out in outputs]
        if described is not None:
            real = [spec.decode(held) for spec, held in zip(described.outputs, found, strict=True)]
        else:
            real = [_decode(held, out) for held, out in zip(found, outputs, strict=True)]
        rows.append([np.asarray(output)[: len(batch)] for output in real])
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
    real: NDArray[np.float32] = (held.astype(np.int32) - zero_point).astype(np.float32) * np.float32(scale)
    return real
