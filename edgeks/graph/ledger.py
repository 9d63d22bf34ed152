"""The sharing ledger: after every step, how many kernels the graph holds, who reads them, and what they weigh."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from edgeks.graph.kernels import constant_bytes, layers_by_kernel
from edgeks.graph.verify import verify
from edgeks.sharing.plan import Rolled, SharingPlan

SCHEMA = "edgeks.ledger/1"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """State after `step`: `kernels` stored, read by `layers`; `copies` beyond one per kernel of the plan."""

    step: str
    kernels: int
    layers: int
    copies: int
    constant_bytes: int
    note: str


@dataclass(slots=True)
class Ledger:
    """Runs the steps of an export one by one: each is verified against the plan and written down."""

    plan: SharingPlan
    rows: list[LedgerRow] = field(default_factory=list)
    rolled: Rolled = field(default_factory=dict)

    def run(self, step: str, model: ir.Model, apply: Callable[[], str]) -> None:
        """Apply one pass to `model`, write its row, and verify that no tie is broken.

        Raises:
            SharingBroken: naming `step` and the group.
        """
        note = apply()
        self.record(step, model, note)
        verify(model, self.plan, step, self.rolled)

    def replan(self, step: str, model: ir.Model, apply: Callable[[], tuple[SharingPlan, str]]) -> None:
        """As `run`, for a pass that changes which kernels there are: it gives the plan that holds from then on.

        Raises:
            SharingBroken: the graph is not what the new plan says.
        """
        self.plan, note = apply()
        self.record(step, model, note)
        verify(model, self.plan, step)

    def roll(self, model: ir.Model, apply: Callable[[], tuple[Rolled, str]]) -> None:
        """As `run`, for the pass that rolls layers into loops: it gives what stands for which layers from then on.

        Raises:
            SharingBroken: a loop does not read what its layers read.
        """
        self.rolled, note = apply()
        self.record("roll", model, note)
        verify(model, self.plan, "roll", self.rolled)

    def record(self, step: str, model: ir.Model, note: str) -> None:
        """Write a row for the graph as it is."""
        found = layers_by_kernel(model, self.rolled)
        layers = sum(map(len, found))
        copies = len(found) - len(self.plan.kernels)
        self.rows.append(LedgerRow(step, len(found), layers, copies, constant_bytes(model), note))

    def digest(self) -> str:
        """SHA-256 of steps and plan, in hexadecimal: an artefact that carries it belongs to this ledger."""
        content = [asdict(row) for row in self.rows], json.loads(self.plan.to_json())
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self, **extra: Any) -> str:
        """Ledger, plan and `extra` facts as JSON text."""
        content = {"schema": SCHEMA, **extra, "steps": [asdict(row) for row in self.rows]}
        if self.rolled:
            content["rolled"] = {layer: list(layers) for layer, layers in self.rolled.items()}
        content["plan"] = json.loads(self.plan.to_json())
        return json.dumps(content, indent=1)
