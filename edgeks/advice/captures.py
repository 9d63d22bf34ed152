"""One capture of a network serves all its exports: it takes most of the time of a small one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from edgeks.export_source import Captured, Source, capture_source, has_banks, is_quantisation_trained
from edgeks.target import Target


class Captures:
    """Takes the place of `capture_source` in several exports of one source with the same samples."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, object], Captured] = {}

    def __call__(self, source: Source, samples: Any, compared: int, target: Target, **options: Any) -> Captured:
        """A copy of what was captured for the target's opset; anew where fake-quantisers or banks depend on more."""
        if is_quantisation_trained(source) or options.get("parity_report"):
            return capture_source(source, samples, compared, target, **options)
        key = target.opset, options.get("weight_bytes") if has_banks(source) else None
        if key not in self._kept:
            self._kept[key] = capture_source(source, samples, compared, target, **options)
        kept = self._kept[key]
        return replace(kept, graph=kept.graph.clone(), ledger=copy.deepcopy(kept.ledger))
