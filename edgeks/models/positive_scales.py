"""γ > 0 by parametrisation: BN then never makes a negative weight scale in int8 (docs/arithmetic.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from edgeks.sharing.gain import Gain

FLOOR = 1e-8  # far below every γ that matters, so that γ itself has the same bits with and without it


class Positive(nn.Module):
    """γ = |raw| + FLOOR: for γ > 0 the gradients, and so the training, are those of plain BN."""

    def forward(self, raw: Tensor) -> Tensor:
        """C → C."""
        return raw.abs() + FLOOR

    def right_inverse(self, gamma: Tensor) -> Tensor:
        """γ → raw. A negative γ has no inverse: its channel begins anew at γ ≈ 0, which is nearest to it."""
        return gamma.clamp(min=0)


@contextmanager
def positive_scales(model: nn.Module) -> Iterator[None]:
    """Within, the γ of every BN of `model` stays positive under any optimiser; afterwards they are plain Parameters.

    Make the optimiser inside. A γ that is negative on entry is set to 0.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and not isinstance(module, Gain)  # a mixing coefficient, whose sign is what was trained
        and isinstance(module._parameters.get("weight"), nn.Parameter)
        and not parametrize.is_parametrized(module)
    ]
    for norm in norms:
        parametrize.register_parametrization(norm, "weight", Positive())
    try:
        yield
    finally:
        with torch.no_grad():
            for norm in norms:
                _make_plain(norm)


def _make_plain(norm: _BatchNorm) -> None:
    """γ a plain Parameter again, the one it was. torch's own removal edits the class, which deep copies share."""
    gamma, value = norm.get_parameter("parametrizations.weight.original"), norm.weight.detach().clone()
    del norm._modules["parametrizations"]
    norm.__class__ = type(norm).__bases__[0]
    bias = norm._parameters.pop("bias")
    gamma.copy_(value)
    norm.register_parameter("weight", gamma)
    norm.register_parameter("bias", bias)  # behind γ again, as in any state dict


def has_negative_scale(model: nn.Module) -> bool:
    """Whether any BN of `model` has a γ below 0, which `positive_scales` would set to 0."""
    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return any(norm.affine and bool((norm.weight < 0).any()) for norm in norms)
