"""Advice → JSON of schema edgeks.advice/1 (docs/advice_schema.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgeks.advice.advise import Advice
from edgeks.advice.choose import best_agreement, keeps_parity
from edgeks.advice.rows import Row

SCHEMA = "edgeks.advice/1"


def to_json(advice: Advice) -> dict[str, Any]:
    """Plain lists, numbers and text."""
    best = best_agreement(advice.rows)
    recommended = advice.recommended
    return {
        "schema": SCHEMA,
        "model": str(advice.model),
        "sha256": advice.sha256,
        "target": advice.target,
        "board": advice.board,
        "for": advice.rules.objective,
        "budgets": {"flash_bytes": advice.rules.flash_budget, "ram_bytes": advice.rules.ram_budget},
        "machine": advice.machine,
        "latency_is_of_the_target": not advice.rules.elsewhere,
        "reference": advice.reference,
        "samples": advice.samples,
        "real_samples": advice.real_samples,
        "tie_share": advice.tie_share,
        "measured_seconds": advice.spent_seconds,
        "measured_now": advice.measured_now,
        "work": str(advice.work),
        "recommended": recommended.candidate.name if recommended else None,
        "command": recommended.candidate.artefact.command if recommended else None,
        "file": str(recommended.candidate.artefact.path) if recommended else None,
        "snippet": advice.snippet,
        "rows": [_row(row, advice, best) for row in advice.rows],
        "not_possible": [
            {"form": each.form.name, "target": each.form.target_name, "reason": each.reason}
            for each in advice.not_possible
        ],
        "left_out": [{"profile": name, "reason": reason} for name, reason in advice.left_out.items()],
    }


def _row(row: Row, advice: Advice, best: float | None) -> dict[str, Any]:
    artefact, profile = row.candidate.artefact, row.candidate.profile
    form = artefact.form
    return {
        "name": row.candidate.name,
        "file": str(artefact.path),
        "sha256": artefact.sha256,
        "target": artefact.target.name,
        "form": {"precision": form.precision, "activations": form.activations, "layers": form.layers} if form else None,
        "command": artefact.command,
        "profile": profile.name,
        "runtime": profile.runtime,
        "session": asdict(profile.session),
        "is_targets_form": artefact.is_own_form,
        "is_targets_session": row.candidate.is_own,
        "flash_bytes": row.flash_bytes,
        "ram_bytes": advice.rules.ram_bytes(row),
        "predicted_ram_bytes": row.predicted_ram_bytes,
        "measured_ram_bytes": row.measured_ram_bytes,
        "measured_ram": asdict(row.ram) if row.ram else None,
        "p50_ms": row.p50_ms,
        "spread": row.spread,
        "timed_threads": 1 if advice.rules.elsewhere else profile.session.threads,
        "rounds": [asdict(each) for each in row.rounds],
        "parity": asdict(row.parity) if row.parity else None,
        "status": row.status,
        "reason": row.reason,
        "fits": advice.rules.fits(row),
        "keeps_parity": keeps_parity(row, best),
        "on_front": any(row is each for each in advice.front),
    }
