"""Training batches: every image once, seeded, augmented as told."""

import numpy as np
import torch

from edgeks.train.batches import Batches, flip, shift
from edgeks.train.dataset import measured_preprocessing

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 2, 8, 8), np.uint8)
PREPROCESSING = measured_preprocessing(IMAGES, tuple("abcdefghijk"))


def batches(batch_size=4, augment=(), seed=0):
    labels = torch.arange(11)
    return Batches(torch.from_numpy(IMAGES), labels, PREPROCESSING, batch_size=batch_size, augment=augment, seed=seed)


def test_every_image_once_and_normalised_like_the_preprocessing():
    seen = list(batches())
    assert [len(labels) for _, labels in seen] == [4, 4, 3]
    order = torch.cat([labels for _, labels in seen]).numpy()
    assert sorted(order) == list(range(11))
    images = torch.cat([images for images, _ in seen]).numpy()
    np.testing.assert_allclose(images, PREPROCESSING.normalise(IMAGES[order]), atol=1e-6)


def test_a_last_batch_of_one_is_left_out_unless_it_is_the_only_one():
    assert [len(labels) for _, labels in batches(batch_size=5)] == [5, 5]
    assert len(batches(batch_size=5)) == 2
    assert len(list(batches(batch_size=100))) == len(batches(batch_size=100)) == 1


def test_the_order_follows_seed_and_epoch():
    def order(seed, epoch):
        one = batches(seed=seed)
        one.epoch = epoch
        return torch.cat([labels for _, labels in one]).tolist()

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


def test_augmented_batches_repeat():
    one, same = ([images for images, _ in batches(augment=("crop", "flip"))] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_shift_moves_whole_images_and_fills_with_zero():
    images = torch.from_numpy(IMAGES).repeat(10, 1, 1, 1)
    moved = shift(images, 2, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    moves = set()
    for image, source in zip(moved, padded, strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, source[:, y : y + 8, x : x + 8])]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 20


def test_flip_mirrors_about_half():
    images = torch.from_numpy(IMAGES).repeat(20, 1, 1, 1)
    mirrored = flip(images, torch.Generator().manual_seed(0))
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(mirrored, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(mirrored, images, strict=True)]
    assert all(f != s for f, s in zip(flipped, same, strict=True))
    assert 80 < sum(flipped) < 140
