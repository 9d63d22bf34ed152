"""One kernel for several layers, each with a scale per output channel: the best rank-one approximation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHANNELS_AT_ONCE = 64
STEPS = 200


def shared_kernel(kernels: Sequence[Tensor], *, positive: bool) -> tuple[Tensor, Tensor]:
    """L kernels (O×…) → W (O×…) and scales s (L×O) that minimise Σ_l ‖W_l − diag(s_l)·W‖²; both float64.

    Output channel by output channel, the L rows are a matrix M of rank one at best: s is the first eigenvector of
    M·Mᵀ and W = Mᵀ·s, up to a factor that gives s a mean square of 1 (Eckart and Young), and a positive sum. With
    `positive` no scale is below 0: where the eigenvector has one, s is the best fixed point of the power iteration
    projected onto s ≥ 0, from each layer alone and from the eigenvector. A channel in which all kernels are 0
    has s = 1.
    """
    shape = kernels[0].shape
    found = [
        _rank_one(
            torch.stack([kernel[rows].reshape(len(kernel[rows]), -1).double() for kernel in kernels], 1), positive
        )
        for rows in torch.split(torch.arange(shape[0]), CHANNELS_AT_ONCE)
    ]
    return torch.cat([w for w, _ in found]).reshape(shape), torch.cat([s for _, s in found]).T.contiguous()


def _rank_one(m: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """O×L×T → O×T, O×L."""
    gram = m @ m.transpose(1, 2)
    s = torch.linalg.eigh(gram).eigenvectors[:, :, -1]
    s = torch.where(s.sum(1, keepdim=True) < 0, -s, s)
    if positive:
        s = _non_negative(gram, s)
    s = torch.where((gram.diagonal(dim1=1, dim2=2) == 0).all(1, keepdim=True), torch.ones_like(s), s)
    s = s * (s.shape[1] ** 0.5 / s.norm(dim=1, keepdim=True))
    return torch.einsum("olt,ol->ot", m, s) / s.square().sum(1, keepdim=True), s


def _non_negative(gram: Tensor, first: Tensor) -> Tensor:
    """O×L×L Gram matrices → O×L unit vectors s ≥ 0 whose sᵀ·G·s no step s ← max(0, G·s) raises further."""
    starts = torch.cat([first.clamp(min=0)[None], (-first).clamp(min=0)[None], _each_alone(gram)])
    for _ in range(STEPS):
        starts = _unit((gram @ starts.unsqueeze(-1)).squeeze(-1).clamp(min=0))
    value = torch.einsum("sol,olm,som->so", starts, gram, starts)
    return starts[value.argmax(0), torch.arange(len(gram))]


def _each_alone(gram: Tensor) -> Tensor:
    """L×O×L: for every layer, the start at which the kernel is that layer's."""
    layers = gram.shape[1]
    return torch.eye(layers, dtype=gram.dtype)[:, None].expand(layers, len(gram), layers)


def _unit(s: Tensor) -> Tensor:
    length = s.norm(dim=-1, keepdim=True)
    return s / torch.where(length == 0, torch.ones_like(length), length)
