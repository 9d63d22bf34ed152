"""Training batches: every image once, seeded, augmented as told."""

import numpy as np
import pytest
import torch
from PIL import Image

from edgeks.errors import DataError
from edgeks.images import ImageForm
from edgeks.train.batches import Batches, epoch_seed
from edgeks.train.dataset import measured_preprocessing
from edgeks.train.image_files import ImageFiles, file_names
from edgeks.train.settings import TrainSettings

IMAGES, RGB = (np.random.default_rng(0).integers(0, 256, (11, channels, 8, 8), np.uint8) for channels in (2, 3))
PREPROCESSING = measured_preprocessing(IMAGES, tuple("abcdefghijk"))


def batches(batch_size=4, images=IMAGES, rows=slice(None), **settings):
    preprocessing = measured_preprocessing(images, tuple("abcdefghijk"))
    settings = TrainSettings(epochs=1, batch_size=batch_size, **settings)
    return Batches(torch.from_numpy(images), torch.arange(11), preprocessing, settings, rows=rows)


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


def test_crop_and_flip_draw_what_they_always_drew():
    """Recipes of the first release give the same batches, bit for bit."""
    generator = torch.Generator().manual_seed(epoch_seed(3, 2))
    order = torch.randperm(11, generator=generator)
    one = batches(augment=("crop", "flip"), seed=3)
    one.epoch = 2
    for (inputs, _), chosen in zip(one, torch.split(order, 4), strict=True):
        moves = torch.randint(0, 3, (2, len(chosen), 1), generator=generator)[..., 0]
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        for row, (down, right) in enumerate(moves.T.tolist()):
            padded = np.pad(IMAGES[chosen[row]], ((0, 0), (1, 1), (1, 1)))[:, down : down + 8, right : right + 8]
            expected = PREPROCESSING.normalise(padded[None, :, :, :: -1 if mirrored[row] else 1])
            assert np.array_equal(inputs[row].numpy(), expected[0])


def test_the_rows_of_any_number_of_processes_make_up_the_batches():
    strength = {"randaugment": 9, "mixup": 0.5, "cutmix": 0.5, "erasing": 0.5, "cutout": 3, "augment": ("crop", "flip")}
    whole = list(batches(batch_size=6, images=RGB, **strength))
    shares = slice(0, None, 2), slice(1, None, 2), slice(0, 4), slice(8, None)  # the last: nothing is left for it
    parts = [list(batches(batch_size=6, images=RGB, rows=rows, **strength)) for rows in shares]
    assert whole[0][1].shape == (6, 11)
    for number, (images, labels) in enumerate(whole):
        for part, rows in zip(parts, shares, strict=True):
            assert torch.equal(part[number][0], images[rows])
            assert torch.equal(part[number][1], labels[rows])


def test_a_damaged_image_stops_the_epoch_by_name(tmp_path):
    for index in range(6):
        Image.new("RGB", (9, 9), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:-30])
    names = file_names([f"{index}.png" for index in range(6)])
    files = ImageFiles(tmp_path, names, ImageForm(3, 8, 8), 8, 8)
    with pytest.raises(DataError, match=r"4\.png: cannot be decoded as an image .*; repair or remove it"):
        list(Batches(files, torch.arange(6), measured_preprocessing(RGB, "abcdef"), TrainSettings(1, batch_size=2)))
