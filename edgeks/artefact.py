"""An artefact of either format: written, run with a target's session options, and proven."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeks.audit.onnx.proof import Proof, prove_exactly_once
from edgeks.audit.tflite.proof import prove_tflite
from edgeks.formats import onnx as onnx_format
from edgeks.formats.tflite import runtime as litert
from edgeks.formats.tflite.lower import write_tflite
from edgeks.interface import Interface
from edgeks.model_files.onnx_file import read_model_file
from edgeks.sharing.plan import UNROLLED, Rolled, SharingPlan
from edgeks.target import Format, LiteRtSession, Session

# The file's own arithmetic, whatever this machine's CPU would rather do.
REFERENCES: dict[Format, Session | LiteRtSession] = {"onnx": onnx_format.REFERENCE, "tflite": litert.REFERENCE}


def write_artefact(
    model: ir.Model,
    path: Path,
    file_format: Format,
    metadata: Mapping[str, Any],
    *,
    nhwc: bool = True,
    sparse: bool = False,
) -> None:
    """Finished graph → file at `path` (a temporary one: the caller renames it).

    `sparse`: kernels with many zeros are stored in fewer bytes, where the format has a form for them that saves any.

    Raises:
        GraphError: the format has no form for it.
    """
    if file_format == "tflite":
        write_tflite(model, path, metadata, nhwc=nhwc, sparse=sparse)
    else:
        onnx_format.write_onnx(model, path, metadata, sparse=sparse)


def run_artefact(path: Path, session: Session | LiteRtSession, samples: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Samples N×C×H×W, as the network takes them or raw pixels → every output, N×…, as real values.

    Raises:
        ModelFileError: the runtime does not take the file.
    """
    if isinstance(session, LiteRtSession):
        described = litert.interface(path)  # first: it reads the file with every claim checked
        return litert.run(litert.open_interpreter(path, session), samples, described)
    return onnx_format.run(onnx_format.open_session(path, session), samples)


def input_type(path: Path) -> str | None:
    """Type of the first input of an artefact that edgeks wrote, by its own description; None where it has none."""
    described = described_interface(path)
    return described.inputs[0].type if described else None


def described_interface(path: Path) -> Interface | None:
    """What a model file says of its inputs and outputs, without a runtime; None for one that edgeks did not write.

    Raises:
        ModelFileError: the file or its description is malformed.
    """
    suffix = path.suffix.lower()
    if suffix == ".tflite":
        return litert.interface(path)
    if suffix == ".ort":
        return None
    entries = {entry.key: entry.value for entry in read_model_file(path).proto.metadata_props}
    return onnx_format.read_interface(entries.get(f"edgeks.{onnx_format.INTERFACE_KEY}"))


def prove_artefact(path: Path, file_format: Format, plan: SharingPlan, rolled: Rolled = UNROLLED) -> Proof:
    """The exactly-once proof on the file as it is written; `rolled` says what the layers in its loops stand for.

    Raises:
        SharingBroken: naming the group, its layers and what was found.
    """
    return (prove_tflite if file_format == "tflite" else prove_exactly_once)(path, plan, rolled)
