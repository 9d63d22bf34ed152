"""The training loss: soft labels, a teacher beside the labels, and what counts as right."""

import pytest
import torch
from torch.nn import functional as F

from edgeks.train.loss import right, training_loss
from edgeks.train.settings import TrainSettings

LOGITS, TEACHER = (torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
LABELS = torch.tensor([0, 3, 1, 1, 2])


def settings(**more):
    return TrainSettings(epochs=1, **more)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_soft_labels_are_the_hard_ones(smoothing):
    soft, chosen = F.one_hot(LABELS, 4).float(), settings(label_smoothing=smoothing)
    torch.testing.assert_close(training_loss(LOGITS, soft, chosen), training_loss(LOGITS, LABELS, chosen))
    assert right(LOGITS, soft) == right(LOGITS, LABELS) == (LOGITS.argmax(1) == LABELS).sum()


def test_mixed_labels_are_the_mix_of_the_losses():
    mixed = 0.7 * F.one_hot(LABELS, 4) + 0.3 * F.one_hot(LABELS.flip(0), 4)
    parts = [training_loss(LOGITS, labels, settings()) for labels in (LABELS, LABELS.flip(0))]
    torch.testing.assert_close(training_loss(LOGITS, mixed, settings()), 0.7 * parts[0] + 0.3 * parts[1])
    assert right(LOGITS, mixed) == pytest.approx(
        float(0.7 * right(LOGITS, LABELS) + 0.3 * right(LOGITS, LABELS.flip(0)))
    )


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_distillation_is_the_formula_of_the_paper(share):
    found = training_loss(LOGITS, LABELS, settings(distillation=share, temperature=3.0), TEACHER)
    wanted = (TEACHER / 3).softmax(1)
    divergence = (wanted * (wanted.log() - (LOGITS / 3).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(found, (1 - share) * F.cross_entropy(LOGITS, LABELS) + share * 9 * divergence)


def test_no_images_cost_nothing_and_have_a_gradient():
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = training_loss(logits, LABELS[:0], settings())
    loss.backward()
    assert loss == 0 and logits.grad is not None
