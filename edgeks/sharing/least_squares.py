"""One kernel for several layers, each with a scale per output channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shared_kernel(kernels: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """L kernels W_l (O×…) and how much each counts (L×O, ≥ 0) → W (O×…) and scales s ≥ 0 (L×O); both float64.

    Output channel by output channel, s_l = ‖W_l‖/‖W‖, so that diag(s_l)·W is as large as W_l, and W minimises
    Σ_l weights_l·‖W_l/s_l − W‖²: the weighted mean of the directions of the W_l. With the scales free as well the best
    fit is of rank one; but then it leaves all layers to the largest, wherever kernels have little in common
    (docs/sharing.md).

    ‖W‖ is the root mean square of the ‖W_l‖. A channel in which no layer counts takes all alike, and one whose
    directions cancel takes the first.
    """
    rows = torch.stack([kernel.double().flatten(1) for kernel in kernels])
    sizes = rows.norm(dim=2)
    directions = rows / torch.where(sizes > 0, sizes, 1.0)[..., None]
    weights = torch.where(weights.sum(0) > 0, weights, 1.0).double()
    mean = torch.einsum("lo,lot->ot", weights, directions) / weights.sum(0)[:, None]
    length = mean.norm(dim=1)
    cancels = length < 1e-9
    first = directions[(sizes > 0).double().argmax(0), torch.arange(rows.shape[1])]
    direction = torch.where(cancels[:, None], first, mean / torch.where(cancels, 1.0, length)[:, None])
    size = sizes.square().mean(0).sqrt()
    return (direction * size[:, None]).reshape(kernels[0].shape), sizes / torch.where(size > 0, size, 1.0)
