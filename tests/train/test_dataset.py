"""Dataset: its checks, measured preprocessing, seeded splits."""

from dataclasses import replace

import numpy as np
import pytest

from edgeks.errors import DataError
from edgeks.train.dataset import Dataset, measured_preprocessing, stratified_split


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 3, 4, 5), np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    preprocessing = measured_preprocessing(images, ("a", "b", "c"))
    return Dataset("tiny", images, labels, images[:2], labels[:2], preprocessing)


def test_mean_and_std_are_those_of_the_training_pixels(dataset):
    pixels = dataset.train_images.astype(np.float64) / 255
    np.testing.assert_allclose(dataset.preprocessing.mean, pixels.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(dataset.preprocessing.std, pixels.std((0, 2, 3)), rtol=1e-9)
    normalised = dataset.preprocessing.normalise(dataset.train_images)
    assert abs(normalised.mean()) < 1e-5
    assert measured_preprocessing(np.zeros((1, 1, 2, 2), np.uint8), ("a",)).std[0] > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_images": np.empty((0, 3, 4, 5), np.uint8)}, "the test split has no images"),
        ({"train_images": np.zeros((6, 3, 5, 4), np.uint8)}, r"shape \(6, 3, 5, 4\); legal: uint8 N×3×4×5"),
        ({"train_images": np.zeros((6, 3, 4, 5), np.float32)}, "type float32"),
        ({"train_labels": np.zeros(5, np.int64)}, r"labels have type int64 and shape \(5,\)"),
        ({"test_labels": np.array([0, 3])}, r"test split has the label 3; legal: 0 to 2"),
        ({"test_labels": np.array([0, -1])}, r"test split has the label -1"),
    ],
)
def test_what_does_not_fit_together(dataset, changed, message):
    with pytest.raises(DataError, match=message):
        replace(dataset, **changed)


def test_fingerprint_follows_every_array(dataset):
    same = replace(dataset, train_images=dataset.train_images.copy())
    assert same.fingerprint() == dataset.fingerprint()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(dataset, name).copy()
        changed.flat[0] ^= 1
        assert replace(dataset, **{name: changed}).fingerprint() != dataset.fingerprint()


def test_stratified_split_holds_out_the_share_of_every_class():
    labels = np.repeat(np.array([2, 0, 1]), [10, 50, 1])
    large, small = stratified_split(labels, 0.2, seed=3)
    assert np.array_equal(np.sort(np.concatenate([large, small])), np.arange(61))
    assert np.array_equal(np.bincount(labels[small], minlength=3), [10, 0, 2])
    assert np.array_equal(stratified_split(labels, 0.2, seed=3)[1], small)
    assert not np.array_equal(stratified_split(labels, 0.2, seed=4)[1], small)
