"""One candidate measured: RAM, outputs against the reference, a round of latency; each in a fresh process."""

from __future__ import annotations

import hashlib
import importlib.metadata
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeks
from edgeks.advice.measurements import Measurements
from edgeks.advice.rows import Artefact, Candidate, Round
from edgeks.advice.sources import Network, digest
from edgeks.artefact import REFERENCES
from edgeks.bench.local import LocalMachine, bench, session_config
from edgeks.bench.machine import Machine
from edgeks.bench.memory import measure_ram
from edgeks.bench.place import Place
from edgeks.errors import BoardError, DataError, EdgeksError, LinkLost
from edgeks.parity import Parity, compare_all
from edgeks.runtime_profile import COMPILED, MeasuredRam, Profile
from edgeks.sample_inputs import encode, encode_samples

ROUND_RUNS, ROUND_WARMUP, ROUND_SECONDS = 3, 2, 0.3
RANDOM_INFERENCES = 16
PACKAGES = {"onnxruntime": "onnxruntime", "tflite-runtime": "tflite-runtime"}


class Meter:
    """Measures candidates, and remembers; `spent_seconds` is what all of it took, also in earlier runs."""

    def __init__(self, measurements: Measurements, network: Network | None, calib: Path | None, place: Place) -> None:
        self._measurements, self._network, self._calib, self._place = measurements, network, calib, place
        self._machine = place.traits()
        self._samples_key = _samples_key(network, calib)
        self.spent_seconds = 0.0
        self.measured = 0

    @property
    def machine(self) -> dict[str, Any]:
        """What is measured on: cpu, cores, machine, and of a board its name."""
        return self._machine

    @property
    def cores(self) -> int:
        """Of what is measured on; 1 where it does not say."""
        found = self._machine["cores"]
        return found if isinstance(found, int) else 1

    def _once(self, kind: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Measured once. What fails is remembered as {"error": text}, but not what is in the way on a board today."""

        def timed() -> dict[str, Any]:
            start = time.monotonic()
            try:
                found = measure()
            except BoardError:
                raise
            except EdgeksError as error:
                found = {"error": str(error)}
            self.measured += 1
            return {**found, "seconds": time.monotonic() - start}

        try:
            found = self._measurements.once(kind, about, timed)
        except LinkLost:
            raise
        except BoardError as error:
            return {"error": str(error), "seconds": 0.0}
        self.spent_seconds += float(found["seconds"])
        return found

    def _about(self, artefact: Artefact, profile: Profile) -> dict[str, Any]:
        return {
            "edgeks": edgeks.__version__,
            "file": artefact.sha256,
            "runtime": [profile.runtime, _version(profile.runtime)],
            "session": asdict(profile.session),
            "machine": self._machine,
        }

    def ram(self, candidate: Candidate) -> MeasuredRam | str:
        """RAM; a text says why it cannot be run."""
        path, profile = candidate.artefact.path, candidate.profile

        def measure() -> dict[str, Any]:
            return asdict(measure_ram(path, profile, self._place.machine(profile.runtime)))

        found = self._once("ram", self._about(candidate.artefact, profile), measure)
        if "error" in found:
            return str(found["error"]).removeprefix(f"{path}: ")
        return MeasuredRam(**{key: value for key, value in found.items() if key != "seconds"})

    def latency(self, candidate: Candidate, number: int, threads: int) -> Round | str:
        """Round `number` (from 0) with that many threads; a text says why it cannot be timed."""
        artefact = candidate.artefact
        profile = replace(candidate.profile, session=replace(candidate.profile.session, threads=threads))

        def measure() -> dict[str, Any]:
            target = replace(artefact.target, runtime=profile.runtime, session=profile.session)
            result = bench(
                artefact.path,
                target,
                ROUND_RUNS,
                ROUND_WARMUP,
                min_seconds=ROUND_SECONDS,
                runtime=profile.runtime,
                machine=self._place.machine(profile.runtime),
            )
            p50 = result.latency.p50_ms
            return {"p50_ms": result.latency.mean_ms if p50 is None else p50, "runs": result.latency.count}

        found = self._once("latency", {**self._about(artefact, profile), "round": number}, measure)
        if "error" in found:
            return str(found["error"]).removeprefix(f"{artefact.path}: ")
        return Round(float(found["p50_ms"]), int(found["runs"]), float(found["seconds"]))

    def parity(self, candidate: Candidate) -> Parity | str:
        """The file under the profile, one thread, against the network; a finished one against its own arithmetic."""
        artefact = candidate.artefact
        profile = replace(candidate.profile, session=replace(candidate.profile.session, threads=1))

        def measure() -> dict[str, Any]:
            outputs = self._outputs(artefact, profile, self._place.machine(profile.runtime))
            if self._network is not None:
                reference = self._network.reference
                outputs = _real(outputs, artefact, reference)
            else:
                own = replace(profile, runtime=_plain(profile.runtime), session=REFERENCES[artefact.format])
                reference = [each.astype(np.float32) for each in self._outputs(artefact, own, LocalMachine())]
                outputs = [each.reshape(like.shape) for each, like in zip(outputs, reference, strict=True)]
            return asdict(compare_all(reference, [each.astype(np.float32) for each in outputs]))

        about = {**self._about(artefact, profile), "samples": self._samples_key}
        found = self._once("parity", about, measure)
        if "error" in found:
            return str(found["error"]).removeprefix(f"{artefact.path}: ")
        return Parity(**{key: value for key, value in found.items() if key != "seconds"})

    def _outputs(self, artefact: Artefact, profile: Profile, machine: Machine) -> list[NDArray[Any]]:
        """Every output of the file as it holds it, for the samples, or for random inputs."""
        with tempfile.TemporaryDirectory(prefix="edgeks_") as folder:
            config = {
                **session_config(profile.session, 1),
                "model": str(artefact.path.resolve()),
                "runtime": profile.runtime,
                "samples": self._stored_samples(Path(folder), artefact),
            }
            return machine.outputs(artefact.path, config)

    def _stored_samples(self, folder: Path, artefact: Artefact) -> str | int:
        """The samples as the file takes them, or how many random inferences to make."""
        if self._network is not None:
            samples = encode(self._network.inputs, artefact.format, artefact.interface)
        elif self._calib is not None:
            samples = encode_samples(self._calib, artefact.format, artefact.interface)
        else:
            return RANDOM_INFERENCES
        np.save(folder / "samples.npy", samples)
        return str(folder / "samples.npy")


def _real(outputs: list[NDArray[Any]], artefact: Artefact, reference: list[NDArray[np.float32]]) -> list[NDArray[Any]]:
    """What an exported file gives → real values of the reference's shapes."""
    described = artefact.interface
    if described is None or len(outputs) != len(reference):
        raise DataError(f"{artefact.path}: {len(outputs)} outputs, the reference has {len(reference)}")
    found = []
    for output, spec in zip(outputs, described.outputs, strict=True):
        found.append(spec.decode(output.reshape(len(output), *spec.shape[1:])))
    return found


def _plain(runtime: str) -> str:
    return "litert" if runtime == COMPILED else runtime


def _version(runtime: str) -> str:
    try:
        return importlib.metadata.version(PACKAGES.get(runtime, "ai-edge-litert"))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _samples_key(network: Network | None, calib: Path | None) -> dict[str, Any]:
    if network is not None:
        total = hashlib.sha256(np.ascontiguousarray(network.inputs).tobytes())
        for output in network.reference:
            total.update(np.ascontiguousarray(output).tobytes())
        return {"network": total.hexdigest()}
    return {"calib": digest([calib]) if calib else None}
