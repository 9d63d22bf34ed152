"""What papers count of a network: parameters, |W_conv|, compression, GFLOPs. No weight is read for it."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from edgeks.sharing.torch import discover

CONV1D_RANK = 3  # OIW; a Linear layer's kernel has two axes


def parameters(model: nn.Module) -> int:
    """Elements of all Parameters, each shared one counted once; BN's γ and β are among them, its statistics are not."""
    return sum(parameter.numel() for parameter in model.parameters())


def conv_weights(model: nn.Module) -> int:
    """|W_conv|: elements of the kernels of all convolutions, blending layers and stem among them, a shared one once.

    Of a bank, each of its templates (arXiv 1902.09701); the numbers that mix them do not count. Biases, BN and Linear
    layers do not either. Zeros that an image is padded with are no elements of a kernel, but the weights that are
    multiplied with them are.
    """
    plan = discover(model)
    kernels = sum(math.prod(k.kernel_shape) for k in plan.kernels if len(k.kernel_shape) >= CONV1D_RANK)
    return kernels + sum(bank.templates * math.prod(bank.kernel_shape) for bank in plan.banks)


def compression(model: nn.Module, baseline: nn.Module) -> float:
    """C = |W_conv| of the baseline over that of `model`."""
    return conv_weights(baseline) / conv_weights(model)


def flops(model: nn.Module, height: int, width: int, channels: int = 3) -> int:
    """FLOPs of one image C×H×W, as arXiv 2210.14151 gives them: 7.4 GFLOPs for ConvMixer-384/20. Sharing saves none.

    2 × multiply-accumulates of convolutions and matrix products, and 4 for each element of a BN, as `thop` counts it
    (docs/analysers.md); without BN it would be 7.3. Biases, activations and additions do not count.
    """
    macs, normalised = macs_and_normalised(model, height, width, channels)
    return 2 * macs + 4 * normalised


def macs_and_normalised(model: nn.Module, height: int, width: int, channels: int = 3) -> tuple[int, int]:
    """Multiply-accumulates of convolutions and matrix products for one image C×H×W, and the elements that BN writes.

    Products with padding count, as they do in an audit of the exported file.
    """
    counter = FlopCounterMode(display=False)
    twin = copy.deepcopy(model).to("meta").eval()
    elements = 0

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(count)
    with torch.no_grad(), counter:  # in inference mode a parametrised weight cannot be computed under the counter
        twin(torch.zeros(1, channels, height, width, device="meta"))
    return int(counter.get_total_flops()) // 2, elements
