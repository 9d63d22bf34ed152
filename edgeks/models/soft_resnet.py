"""SWRN: a wide ResNet whose kernels are mixes of a few templates per stage (soft sharing, arXiv 1902.09701)."""

from __future__ import annotations

from torch import nn

from edgeks.errors import CheckpointError
from edgeks.models.argument import whole_number
from edgeks.models.initialise import he_normal
from edgeks.models.preact_resnet import STAGES, PreactResNet
from edgeks.sharing.template_bank import share_bank


class SoftWideResNet(PreactResNet):
    """N×C×H×W float32 → N×classes logits: a wide ResNet of depth 6n+4 with a template bank per stage.

    Every 3×3 convolution of a stage but those of its first block mixes its kernel from the stage's `templates`
    templates: 2(n−1) layers. As many templates as that are the paper's "SWRN depth-width"; 0: a plain wide ResNet.

    Raises:
        CheckpointError: an argument out of bounds.
    """

    def __init__(self, depth: int, width: int, templates: int, *, in_channels: int = 3, classes: int = 10) -> None:
        super().__init__("swrn", depth, width, bottleneck=False, in_channels=in_channels, classes=classes)
        layers = 2 * ((depth - 4) // 6 - 1)
        if templates and not layers:
            raise CheckpointError(f"swrn: depth is {depth}; legal with templates: 16 or more, in steps of 6")
        whole_number("swrn", "templates", templates, 0, layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                he_normal(module.weight, "fan_in")  # as in the published code
        nn.init.zeros_(self.head.bias)
        for number in range(1, STAGES + 1) if templates else ():
            share_bank([conv for convolutions in self.spatial(number) for conv in convolutions], templates)
