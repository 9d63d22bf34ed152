"""int8 without un-sharing: quantisation-aware training in torch, and after training on the captured graph.

`prepare_qat` and what goes with it are imported when they are first used, so that options are read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeks.quant.qat import freeze_batch_norm, is_prepared, observe_ranges, prepare_qat, without_quantisers

__all__ = ["freeze_batch_norm", "is_prepared", "observe_ranges", "prepare_qat", "without_quantisers"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edgeks.quant' has no attribute {name!r}")
    return getattr(importlib.import_module("edgeks.quant.qat"), name)
