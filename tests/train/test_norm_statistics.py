"""BN statistics measured anew are those of the training images, and nothing else changes."""

import copy

import numpy as np
import torch
from torch import nn

from edgeks.train.dataset import Dataset, measured_preprocessing
from edgeks.train.norm_statistics import measure_norm_statistics


def dataset(count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, 6, 6), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 2
    return Dataset("noise", images, labels, images[:2], labels[:2], measured_preprocessing(images, ("a", "b")))


def test_they_are_those_of_the_images_and_nothing_else_changes():
    data = dataset(300)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.0), nn.BatchNorm2d(5)).eval()
    before = copy.deepcopy(model)
    measure_norm_statistics(model, data)
    assert not any(module.training for module in model.modules())
    x = torch.from_numpy(data.preprocessing.normalise(data.train_images))
    with torch.no_grad():
        y = model[0](x)
        torch.testing.assert_close(model[1].running_mean, y.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model[1].running_var, y.var((0, 2, 3)), rtol=2e-2, atol=1e-3)
    assert model[1].momentum == 0.1
    for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(old, new), name
    again = copy.deepcopy(before)
    measure_norm_statistics(again, data)
    assert torch.equal(again[4].running_var, model[4].running_var)


def test_one_image_and_no_norm():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    measure_norm_statistics(model, dataset(2))
    assert bool(torch.isfinite(model[1].running_var).all())
    plain = nn.Conv2d(3, 2, 3)
    weight = plain.weight.clone()
    measure_norm_statistics(plain, dataset(2))
    assert torch.equal(plain.weight, weight)
