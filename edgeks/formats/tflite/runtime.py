"""Running a .tflite file in LiteRT's interpreter, with the kernels that a target names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from edgeks.errors import ModelFileError
from edgeks.formats.batches import in_batches
from edgeks.interface import Interface, TensorSpec
from edgeks.model_files.tflite_file import metadata, read_tflite
from edgeks.silence import silent_process
from edgeks.target import LiteRtSession

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
        with silent_process(2):  # it tells of its delegate there; what it refuses is in its exception
            interpreter = Interpreter(
                model_path=str(file),
                num_threads=session.threads,
                experimental_op_resolver_type=RESOLVERS[session.kernels],
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"LiteRT refuses {file.name}: {str(error).splitlines()[0][:300]}") from error
    return interpreter


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
    feed, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()
    if described is None:
        described = Interface((_spec(feed),), tuple(map(_spec, outputs)))

    def invoke(batch: NDArray[Any]) -> list[NDArray[Any]]:
        interpreter.set_tensor(feed["index"], np.ascontiguousarray(batch.astype(feed["dtype"], copy=False)))
        interpreter.invoke()
        return [interpreter.get_tensor(output["index"]) for output in outputs]

    found = in_batches(invoke, described.inputs[0].encode(samples), int(feed["shape"][0]))
    return [spec.decode(output) for spec, output in zip(described.outputs, found, strict=True)]


def _spec(detail: dict[str, Any]) -> TensorSpec:
    """What LiteRT says of an input or output: its codes and scale, in the file's own order of axes."""
    scale, zero_point = detail["quantization"]
    dtype, shape = np.dtype(detail["dtype"]), tuple(detail["shape"].tolist())
    if dtype.kind not in "iu" or not scale:
        scale, zero_point = None, None
    return TensorSpec(detail["name"], dtype.name, shape, "", "", scale, zero_point)
