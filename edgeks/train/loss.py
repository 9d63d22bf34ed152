"""What training lowers: cross-entropy with hard or soft labels, and a teacher's softened logits beside it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from edgeks.train.settings import TrainSettings


def training_loss(logits: Tensor, labels: Tensor, settings: TrainSettings, teacher: Tensor | None = None) -> Tensor:
    """Mean over the images of (1 − d)·CE(labels) + d·T²·KL(teacher ‖ student), arXiv 1503.02531; a scalar.

    `logits` and `teacher` are N×classes; `labels` int64 N, or float N×classes, each row a distribution. d is
    `settings.distillation` and T `settings.temperature`; without a teacher, d is 0. No images: 0.
    """
    if len(logits) == 0:
        return logits.sum()
    logits = logits.float()
    if teacher is None or settings.distillation == 0:
        return F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    heat, share = settings.temperature, settings.distillation
    student, wanted = F.log_softmax(logits / heat, 1), F.log_softmax(teacher.float() / heat, 1)
    loss = share * heat**2 * F.kl_div(student, wanted, reduction="batchmean", log_target=True)
    if share < 1:
        loss = loss + (1 - share) * F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
    return loss


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of the images are classified right, a scalar: the share of each label that the highest logit has.

    A hard label gives 0 or 1; a soft one (N×classes) what it gives to the chosen class.
    """
    chosen = logits.argmax(1)
    if labels.dim() == 1:
        return (chosen == labels).sum().float()
    return labels.gather(1, chosen[:, None]).sum()
