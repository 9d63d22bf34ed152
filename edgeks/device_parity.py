"""Whether a machine computes the right numbers: its outputs beside the file's own arithmetic, computed here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeks.artefact import REFERENCES, described_interface
from edgeks.bench.local import LocalMachine, session_config
from edgeks.bench.machine import Machine
from edgeks.bench.measurement import DeviceParity, Job
from edgeks.errors import BoardError, EdgeksError, ParityFailed
from edgeks.parity import compare_all
from edgeks.sample_inputs import encode_samples
from edgeks.target import Format

RANDOM_INFERENCES = 16
REFERENCE_RUNTIMES: dict[Format, str] = {"onnx": "onnxruntime", "tflite": "litert"}


def device_parity(job: Job, machine: Machine, samples: Path | None = None) -> DeviceParity:
    """Outputs of the job on the machine against the file's own arithmetic on this one.

    `samples`: .npz with one array N×C×H×W; without it 16 random inputs.

    Raises:
        BoardError: the board cannot be reached any more.
        DataError: the samples cannot be read.
        ParityFailed: the outputs have other shapes.
    """
    form = job.target.format
    with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
        fed: str | int = RANDOM_INFERENCES
        if samples is not None:
            fed = str(Path(folder, "samples.npy"))
            np.save(fed, encode_samples(samples, form, described_interface(job.path)))
        common = {"model": str(job.path.resolve()), "samples": fed}
        own = {**common, **session_config(REFERENCES[form], 1), "runtime": REFERENCE_RUNTIMES[form]}
        try:
            expected = LocalMachine().outputs(job.path, own)
        except EdgeksError as error:
            return DeviceParity(None, f"the reference cannot be computed here: {error}")
        there = {**common, **session_config(job.target.session, job.threads), "runtime": job.runtime}
        try:
            found = machine.outputs(job.path, there)
        except BoardError:
            raise
        except EdgeksError as error:
            return DeviceParity(None, str(error))
    shapes, own_shapes = [each.shape for each in found], [each.shape for each in expected]
    if shapes != own_shapes:
        raise ParityFailed(
            f"{machine.name}: {job.name}: its outputs have the shapes {shapes}, the file's own {own_shapes}: it "
            "computes something else; try another runtime or form"
        )
    return DeviceParity(compare_all(_real(expected), _real(found)))


def _real(outputs: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
    return [output.astype(np.float32) for output in outputs]
