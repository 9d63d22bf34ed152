"""Footprint: what a model file takes in flash, what it needs in RAM, and whether that fits."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ai_edge_litert import schema_py_generated as schema

from edgeks.audit.budgets import BudgetCheck, Budgets
from edgeks.audit.compute import Compute, LatencyBound, latency_bound
from edgeks.audit.flash import Flash, measure_flash
from edgeks.audit.onnx.arena import measure_arena
from edgeks.audit.onnx.compute import measure_compute
from edgeks.audit.onnx.input_sizes import with_input_sizes
from edgeks.audit.onnx.kernels import readers_of
from edgeks.audit.onnx.shapes import infer_activations
from edgeks.audit.onnxruntime.ram import predict_onnxruntime
from edgeks.audit.ram import Machine, RamPrediction
from edgeks.audit.suggestions import Suggestion, suggest
from edgeks.audit.tflite.arena import plan_arena
from edgeks.audit.tflite.compute import measure_tflite_compute
from edgeks.audit.tflite.flash import measure_tflite_flash
from edgeks.audit.tflite.ram import predict_litert
from edgeks.audit.tflite.weight_cache import no_weight_cache
from edgeks.audit.timeline import Arena, Moment, Peak
from edgeks.errors import BudgetExceeded, ConfigError
from edgeks.model_files.onnx_file import ModelFile, read_model_file
from edgeks.model_files.ort_file import read_ort
from edgeks.model_files.tflite_file import read_tflite, whole_numbers
from edgeks.prepared import Prepared, read_prepared
from edgeks.runtime_profile import COMPILED, MeasuredRam, Profile, profiles_for
from edgeks.target import Format, Session, Target


@dataclass(frozen=True, slots=True)
class ProfileRam:
    """RAM under one profile. `predicted` is None where a size is unknown; `failed`: why it could not be measured.

    `unusable`: why the profile is not for this file, or not for the target's board.
    """

    profile: Profile
    predicted: RamPrediction | None
    measured: MeasuredRam | None = None
    failed: str | None = None
    unusable: str | None = None

    @property
    def load_peak_bytes(self) -> int | None:
        """The most while the file is opened: measured where it was, else predicted."""
        if self.measured:
            return self.measured.load_peak_bytes
        return self.predicted.load_peak_bytes if self.predicted else None

    @property
    def run_peak_bytes(self) -> int | None:
        """The most while it runs: measured where it was, else predicted."""
        if self.measured:
            return self.measured.run_peak_bytes
        return self.predicted.run_peak.total_bytes if self.predicted else None

    @property
    def needed_bytes(self) -> int | None:
        """What has to be free for the model to be opened and to run."""
        run = self.run_peak_bytes
        return None if run is None else max(run, self.load_peak_bytes or 0)

    @property
    def error_bytes(self) -> int | None:
        """Predicted − measured run peak; None where one of them is not known."""
        if self.predicted is None or self.measured is None:
            return None
        return self.predicted.run_peak.total_bytes - self.measured.run_peak_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """All that is known of a file without running it, and what was measured.

    `ram`: one row per runtime profile; the first decides whether the RAM budget holds. RAM is above the process that
    has imported the runtime. `limits` is None where nothing is limited. `latency_bound` is None without a board
    whose rates are known.
    """

    path: Path
    format: Literal["onnx", "ort", "tflite"]
    machine: Machine
    flash: Flash
    arena: Arena
    ram: tuple[ProfileRam, ...]
    compute: Compute
    latency_bound: LatencyBound | None
    suggestions: tuple[Suggestion, ...]
    target: str | None
    limits: Budgets | None
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def ram_bytes(self) -> int | None:
        """RAM needed under the first profile; None where it is not known."""
        return self.ram[0].needed_bytes

    @property
    def budgets(self) -> tuple[BudgetCheck, ...]:
        """Flash and RAM held against their limits; empty where nothing is limited."""
        if self.limits is None:
            return ()
        return (
            BudgetCheck("flash", self.flash.file_bytes, self.limits.flash_bytes),
            BudgetCheck("ram", self.ram_bytes, self.limits.ram_bytes, self.ram[0].profile.name),
        )

    @property
    def fits(self) -> bool:
        """False where a budget is exceeded."""
        return all(check.fits is not False for check in self.budgets)

    @property
    def is_known_to_fit(self) -> bool:
        """Whether every need that is limited is known, and within its limit."""
        return all(check.fits for check in self.budgets if check.budget_bytes is not None)

    def with_measured(self, found: Mapping[str, MeasuredRam | str]) -> Footprint:
        """The same with measurements, by profile; a text says why there is none."""
        rows = []
        for row in self.ram:
            measured = found.get(row.profile.name)
            if isinstance(measured, str):
                row = replace(row, failed=measured)
            elif measured is not None:
                row = replace(row, measured=measured)
            rows.append(row)
        return replace(self, ram=tuple(rows))

    def require_fit(self) -> None:
        """Nothing where every budget holds.

        Raises:
            BudgetExceeded: naming each budget that does not hold, what is needed, what there is, and how much is over;
                or what is limited and not known.
        """
        over = [
            f"{check.resource} {check.needed_bytes:,} bytes of {check.budget_bytes:,}, {check.over_bytes:,} over"
            + (f" (under {check.remark})" if check.remark else "")
            for check in self.budgets
            if check.fits is False
        ]
        if over and self.limits:
            short_of = {check.resource for check in self.budgets if check.fits is False}
            helps = (each.text for each in self.suggestions if short_of.intersection(each.resources))
            hint = next(helps, "share more kernels, or export int8")
            raise BudgetExceeded(f"{self.path}: does not fit {self.limits.name}: {' and '.join(over)}; {hint}")
        if self.limits and not self.is_known_to_fit:
            profile = self.ram[0].profile.name
            raise BudgetExceeded(
                f"{self.path}: is not known to fit {self.limits.name}: RAM under {profile} is unknown; "
                "name the sizes that the file leaves open: --input NAME=1x3x224x224"
            )


def footprint(
    path: Path,
    target: Target | None = None,
    *,
    flash_budget: int | None = None,
    ram_budget: int | None = None,
    profile: str | None = None,
    machine: Machine | None = None,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
) -> Footprint:
    """ONNX, .ort or .tflite file → Footprint, from the file alone: nothing of it is run.

    `target` adds its own session as the first profile, and its budgets; `flash_budget` and `ram_budget` (bytes) go
    before those. `profile` puts one profile first. `machine`: for which RAM is predicted (a board: arm64; else this).
    `inputs`: sizes of the inputs of an ONNX file that leaves them open, by name ("": of the only one).

    Raises:
        ModelFileError: the file is missing, not what its name says, cut short, or contradicts itself.
        ConfigError: no such profile, the target is for another format, or sizes that the inputs cannot have.
    """
    suffix = path.suffix.lower()
    model_format: Format = "tflite" if suffix == ".tflite" else "onnx"
    prepared = None
    if model_format == "onnx":
        model = read_ort(path) if suffix == ".ort" else read_model_file(path)
        prepared = read_prepared(path, model.proto)
    profiles = _profiles(path, model_format, target, profile, prepared)
    if prepared:
        machine = _machine_of(path, prepared, target)
    machine = machine or ("arm64" if target and target.board else this_machine())
    predicted: list[RamPrediction | None]
    unusable: str | None = None
    if model_format == "tflite":
        if inputs:
            raise ConfigError(f"{path}: --input: the sizes of a .tflite file are fixed in it; export it for others")
        content, file_bytes = read_tflite(path), path.stat().st_size
        flash, compute = measure_tflite_flash(content, file_bytes, path), measure_tflite_compute(content)
        arena, batch = _tflite_arena(content), _tflite_batch(content)
        by_edgeks = (content.description or b"").startswith(b"edgeks ")
        unusable = no_weight_cache(content, target.board if target else None)
        predicted = [
            None if unusable and each.runtime == COMPILED else predict_litert(content, file_bytes, each, machine)
            for each in profiles
        ]
    else:
        if inputs:
            model = with_input_sizes(model, inputs)
        activations, readers, batch = infer_activations(model), readers_of(model), _batch(model)
        flash, arena = measure_flash(model, readers), measure_arena(model, activations)
        compute = measure_compute(model, activations, readers)
        by_edgeks = model.proto.producer_name == "edgeks" and suffix == ".onnx"
        predicted = [
            predict_onnxruntime(model, each.session, each.name, machine, activations, readers)
            for each in profiles
            if isinstance(each.session, Session)
        ]
    if prepared:
        only = f"prepared for {prepared.only_for}: elsewhere it may compute wrong numbers"
        predicted = [found and replace(found, notes=(only, *found.notes)) for found in predicted]
    ram = tuple(
        ProfileRam(each, found, unusable=unusable if each.runtime == COMPILED else None)
        for each, found in zip(profiles, predicted, strict=True)
    )
    return Footprint(
        path=path,
        format="ort" if suffix == ".ort" else model_format,
        machine=machine,
        flash=flash,
        arena=arena,
        ram=ram,
        compute=compute,
        latency_bound=latency_bound(compute, target) if target else None,
        suggestions=suggest(flash, arena, compute, [(row.profile, row.predicted) for row in ram], batch, by_edgeks),
        target=target.name if target else None,
        limits=Budgets.of(target, flash_budget, ram_budget),
        inputs=tuple((inputs or {}).items()),
    )


def this_machine() -> Machine:
    """The kind of processor that this process runs on."""
    return kind_of(platform.machine())


def kind_of(architecture: str) -> Machine:
    """The kind of processor that `uname -m` calls so; other kinds than the two are taken as arm64."""
    return "x86-64" if architecture.lower() in ("x86_64", "amd64") else "arm64"


def _tflite_arena(model: schema.ModelT) -> Arena:
    """Live activations as TFLite's planner sees them with reference kernels."""
    planned = plan_arena(model, "reference")
    timeline = planned.timeline
    top = timeline.moments[timeline.peak] if timeline.moments else Moment("", "", 0)
    return Arena(Peak(top.live_bytes, top.node, top.op_type, timeline.alive), planned.notes, timeline=timeline)


def _tflite_batch(model: schema.ModelT) -> int:
    graph = model.subgraphs[0]
    inputs = whole_numbers(graph.inputs)
    shape = whole_numbers(graph.tensors[inputs[0]].shape) if inputs else []
    return shape[0] if len(shape) > 1 else 1


def _batch(model: ModelFile) -> int:
    """First size of the first input; one that the file leaves open is taken as 1."""
    constants = model.constants[""]
    inputs = [value for value in model.proto.graph.input if value.name not in constants]
    dims = inputs[0].type.tensor_type.shape.dim if inputs else []
    return max(1, dims[0].dim_value) if len(dims) > 1 else 1


def _machine_of(path: Path, prepared: Prepared, target: Target | None) -> Machine:
    machine: Machine = "arm64" if prepared.cpu.startswith(("aarch64", "arm64")) else "x86-64"
    if target and target.board and machine != "arm64":
        raise ConfigError(
            f"{path}: was prepared for {prepared.cpu}, and target {target.name!r} is {target.board.cpu}; prepare "
            f"{prepared.source} on the board, or audit it as it is"
        )
    return machine


def _profiles(
    path: Path, model_format: Format, target: Target | None, first: str | None, prepared: Prepared | None
) -> tuple[Profile, ...]:
    if target and target.format != model_format:
        raise ConfigError(
            f"{path}: target {target.name!r} is for {target.format} files; name one for {model_format}: --target"
        )
    profiles = profiles_for(model_format, target)
    if prepared:
        profiles = (Profile("prepared", "as it was prepared to be opened", "onnxruntime", prepared.session),)
    if first is None:
        return profiles
    chosen = [profile for profile in profiles if profile.name == first]
    if not chosen:
        raise ConfigError(f"unknown profile {first!r}; legal: {', '.join(profile.name for profile in profiles)}")
    return (*chosen, *(profile for profile in profiles if profile not in chosen))
