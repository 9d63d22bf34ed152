"""The exponential moving average of a network's weights, which is evaluated and kept in their place."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgeks.quant.fake_quant import ActivationFakeQuantize, KernelFakeQuantize


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy that is to follow `model`: its first update copies, later ones keep `decay` of what it was.

    BN's running statistics are averaged with the weights that they belong to. A shared kernel is shared in it as well.
    """
    copy = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    return copy.requires_grad_(False)


def update(average: AveragedModel, model: nn.Module) -> None:
    """One step towards `model`. Counters and the integers of fake-quantisers have no mean: they are copied."""
    with torch.no_grad():
        average.update_parameters(model)
        for mine, theirs in zip(average.module.modules(), model.modules(), strict=True):
            is_quantiser = isinstance(theirs, ActivationFakeQuantize | KernelFakeQuantize)
            for name, buffer in theirs.named_buffers(recurse=False):
                if is_quantiser or not buffer.is_floating_point():
                    mine.get_buffer(name).copy_(buffer)
