"""Any number of samples through a file whose batch size is fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def in_batches(
    run: Callable[[NDArray[Any]], Sequence[NDArray[Any]]], samples: NDArray[Any], size: int
) -> list[NDArray[Any]]:
    """Samples N×… → every output of `run`, N×…, in batches of `size`; a last short batch is padded with its last."""
    rows = []
    for start in range(0, len(samples), size):
        batch = samples[start : start + size]
        padding = np.repeat(batch[-1:], size - len(batch), axis=0)
        rows.append([output[: len(batch)] for output in run(np.concatenate([batch, padding]))])
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
