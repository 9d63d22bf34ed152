"""Footprint → the JSON object of docs/footprint_schema.md: plain lists, numbers and text; sizes in bytes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgeks.audit.compute import Compute
from edgeks.audit.diff import Diff
from edgeks.audit.flash import Flash
from edgeks.audit.footprint import Footprint, ProfileRam
from edgeks.audit.ram import RamParts
from edgeks.audit.timeline import Arena

SCHEMA = "edgeks.footprint/2"


def to_json(footprint: Footprint, changed: Diff | None = None) -> dict[str, Any]:
    """Footprint (and what changed since an older file) → JSON; what is not known is null."""
    bound = footprint.latency_bound
    return {
        "schema": SCHEMA,
        "file": str(footprint.path),
        "format": footprint.format,
        "machine": footprint.machine,
        "flash": _flash(footprint.flash),
        "ram": [_ram(row) for row in footprint.ram],
        "activations": _activations(footprint.arena),
        "suggestions": [asdict(suggestion) for suggestion in footprint.suggestions],
        "compute": {
            **_compute(footprint.compute),
            "latency_bound_ms": None if bound is None else 1e3 * bound.seconds,
            "limited_by": None if bound is None else bound.limited_by,
        },
        "target": footprint.target,
        "budgets": [
            {
                "resource": check.resource,
                "profile": check.remark or None,
                "needed_bytes": check.needed_bytes,
                "budget_bytes": check.budget_bytes,
                "over_bytes": check.over_bytes,
                "fits": check.fits,
            }
            for check in footprint.budgets
        ],
        "fits": footprint.fits if footprint.limits else None,
        "diff": None if changed is None else _diff(changed),
    }


def _flash(flash: Flash) -> dict[str, Any]:
    return {
        "file_bytes": flash.file_bytes,
        "constant_bytes": flash.constant_bytes,
        "unique_bytes": flash.unique_bytes,
        "graph_bytes": flash.graph_bytes,
        "metadata_bytes": flash.metadata_bytes,
        "floor_bytes": flash.floor_bytes,
        "overhead_bytes": flash.overhead_bytes,
        "compressed_bytes": flash.compressed_bytes,
        "compressed_is_estimate": flash.compressed_is_estimate,
        "saved_bytes": flash.saved_bytes,
        "kernels": flash.kernels,
        "layers": flash.layers,
        "sharing_groups": [
            {
                "constant": kernel.constant,
                "dtype": kernel.dtype,
                "shape": list(kernel.shape),
                "layers": list(kernel.layers),
                "runs": list(kernel.runs or [1] * len(kernel.layers)),
                "reads": kernel.reads,
                "stored_bytes": kernel.stored_bytes,
                "saved_bytes": kernel.saved_bytes,
            }
            for kernel in flash.shared
        ],
        "copies": [
            {
                "kind": copies.kind,
                "constants": list(copies.constants),
                "shape": list(copies.shape),
                "wasted_bytes": copies.wasted_bytes,
            }
            for copies in flash.copies
        ],
        "ops": [asdict(row) for row in flash.ops],
    }


def _ram(row: ProfileRam) -> dict[str, Any]:
    predicted, measured, profile = row.predicted, row.measured, row.profile
    found: dict[str, Any] | None = None
    if measured is not None:
        found = {key: value for key, value in asdict(measured).items() if key != "profile"}
        error = row.error_bytes
        found["error_bytes"] = error
        found["error_ratio"] = None if error is None else error / max(1, measured.run_peak_bytes)
    elif row.failed is not None:
        found = {"failed": row.failed}
    return {
        "profile": profile.name,
        "description": profile.description,
        "runtime": profile.runtime,
        "session": asdict(profile.session),
        "baseline_bytes": predicted.baseline_bytes if predicted else None,
        "load_peak_bytes": predicted.load_peak_bytes if predicted else None,
        "loaded": _parts(predicted.loaded) if predicted else None,
        "run_peak": _parts(predicted.run_peak) if predicted else None,
        "kernels": [asdict(kernel) for kernel in predicted.kernels] if predicted else [],
        "notes": list(predicted.notes) if predicted else [],
        "unusable": row.unusable,
        "measured": found,
    }


def _parts(parts: RamParts) -> dict[str, int]:
    return {**asdict(parts), "total_bytes": parts.total_bytes}


def _activations(arena: Arena) -> dict[str, Any]:
    peak, timeline = arena.peak, arena.timeline
    return {
        "peak_bytes": peak.peak_bytes if peak else None,
        "node": peak.node if peak else None,
        "op_type": peak.op_type if peak else None,
        "alive": [
            {
                "name": tensor.name,
                "made_by": tensor.made_by,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                "bytes": tensor.size_bytes,
            }
            for tensor in (peak.alive if peak else ())
        ],
        "notes": list(arena.notes),
        "timeline": [
            {"node": moment.node, "op_type": moment.op_type, "live_bytes": moment.live_bytes}
            for moment in (timeline.moments if timeline else ())
        ],
    }


def _compute(compute: Compute) -> dict[str, Any]:
    return {
        "macs": compute.macs,
        "gflops": compute.gflops,
        "parameters": compute.parameters,
        "parameters_unshared": compute.parameters_unshared,
        "weight_bytes_read": compute.weight_bytes_read,
        "elementwise": compute.elementwise,
        "notes": list(compute.unknown),
        "layers": [
            {
                "name": layer.name,
                "op_type": layer.op_type,
                "output_shape": None if layer.output_shape is None else list(layer.output_shape),
                "runs": layer.runs,
                "macs": layer.macs,
                "parameters": layer.parameters,
                "kernel": layer.kernel,
                "weight_bytes": layer.weight_bytes,
                "input_bytes": layer.input_bytes,
                "output_bytes": layer.output_bytes,
                "precision": layer.precision,
                "arithmetic_intensity": layer.arithmetic_intensity,
            }
            for layer in compute.layers
        ],
    }


def _diff(changed: Diff) -> dict[str, Any]:
    return {
        "old": changed.old,
        "rows": [
            {"what": row.what, "unit": row.unit, "old": row.old, "new": row.new, "change": row.change}
            for row in changed.rows
        ],
        "groups_lost": list(changed.groups_lost),
        "groups_gained": list(changed.groups_gained),
    }
