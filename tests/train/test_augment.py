"""Augmentation: what each setting does to images and labels, and that it follows from the generator alone."""

import numpy as np
import pytest
import torch

from edgeks.errors import ConfigError, DataError
from edgeks.preprocessing import Preprocessing
from edgeks.train.augment import Augmenter, Mixing, mix, mix_labels
from edgeks.train.batches import Normalise
from edgeks.train.settings import TrainSettings

PREPROCESSING = Preprocessing(3, 16, 16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), tuple("abcd"))
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 3, 16, 16), np.uint8))
LABELS = torch.arange(200) % 4
CPU = torch.device("cpu")
NORMALISE = Normalise(PREPROCESSING, CPU)
PLAIN = NORMALISE(IMAGES)


def augmented(images=IMAGES, preprocessing=PREPROCESSING, seed=0, **settings):
    normalise = Normalise(preprocessing, CPU)
    augmenter = Augmenter(TrainSettings(epochs=1, **settings), preprocessing, normalise, CPU)
    draws = augmenter.draw(len(images), images.shape[2], torch.Generator().manual_seed(seed))
    return augmenter(images.clone(), LABELS[: len(images)], draws)


def test_without_settings_nothing_but_normalisation_happens():
    inputs, labels = augmented()
    assert torch.equal(inputs, PLAIN)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": ("crop",)},
        {"augment": ("flip",)},
        {"augment": ("resized_crop",)},
        {"randaugment": 9},
        {"mixup": 0.5},
        {"cutmix": 0.5},
        {"erasing": 0.25},
        {"cutout": 6},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_each_setting_changes_images_and_repeats(settings):
    one, same, other = augmented(**settings), augmented(**settings), augmented(seed=1, **settings)
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], PLAIN)
    assert not torch.equal(one[0], other[0])
    assert one[0].dtype == torch.float32
    assert one[0].isfinite().all()


def test_shift_moves_whole_images_in_both_directions_and_fills_with_black():
    inputs, _ = augmented(augment=("crop",))
    padded = NORMALISE(torch.nn.functional.pad(IMAGES, (2, 2, 2, 2)))
    moves = set()
    for image, source in zip(inputs, padded, strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, source[:, y : y + 16, x : x + 16])]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) == 25


def test_flip_mirrors_about_half():
    inputs, _ = augmented(augment=("flip",))
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(inputs, PLAIN, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(inputs, PLAIN, strict=True)]
    assert all(f != s for f, s in zip(flipped, same, strict=True))
    assert 80 < sum(flipped) < 120


def test_within_a_frame_the_crop_lies_anywhere_and_is_never_filled():
    small = Preprocessing(3, 14, 14, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), tuple("abcd"))
    inputs, _ = augmented(preprocessing=small, augment=("crop",))
    plain = IMAGES.float() / 255
    places = set()
    for image, source in zip(inputs, plain, strict=True):
        found = [(y, x) for y in range(3) for x in range(3) if torch.equal(image, source[:, y : y + 14, x : x + 14])]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) == 9
    assert torch.equal(augmented(preprocessing=small)[0], plain[:, :, 1:15, 1:15])  # without crop: the middle


def test_resized_crop_shows_a_part_of_the_image_at_full_size():
    ramp = torch.arange(16, dtype=torch.uint8).mul(16).expand(200, 3, 16, 16).contiguous()
    inputs, _ = augmented(ramp, augment=("resized_crop",))
    full = float(NORMALISE(ramp)[0, 0, 0, -1] - NORMALISE(ramp)[0, 0, 0, 0])
    shares = (inputs[:, 0, 0, -1] - inputs[:, 0, 0, 0]).numpy() / full
    assert 0.1 < shares.min() < 0.45  # √8 % of the area is 28 % of the side
    assert shares.max() > 0.85
    assert (inputs.diff(dim=-1) >= -1e-6).all()  # never mirrored, never turned


def test_erasing_makes_noise_of_a_rectangle_in_a_share_of_the_images():
    inputs, _ = augmented(erasing=0.25)
    changed = (inputs != PLAIN).all(1)
    touched = changed.flatten(1).any(1)
    assert 30 < int(touched.sum()) < 70
    noise = []
    for image, where in zip(inputs[touched], changed[touched], strict=True):
        rows, columns = where.any(1).nonzero()[:, 0], where.any(0).nonzero()[:, 0]
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        assert where[box].all()
        assert 0.01 < where.float().mean() <= 0.36
        noise.append(image[:, *box].flatten())
    noise = torch.cat(noise)
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05


def test_cutout_makes_a_square_of_the_mean_colour_that_the_border_may_cut():
    inputs, _ = augmented(cutout=6)
    areas = (inputs == 0).all(1).flatten(1).sum(1)
    assert int(areas.max()) == 36
    assert 9 <= int(areas.min()) < 36


def test_mixup_blends_images_and_labels_by_the_same_share():
    mixed, labels = mix(PLAIN.clone(), Mixing(0.75, None)), mix_labels(LABELS, 4, Mixing(0.75, None))
    torch.testing.assert_close(mixed[0], 0.75 * PLAIN[0] + 0.25 * PLAIN[199])
    assert labels[0].tolist() == [0.75, 0, 0, 0.25]  # 199 % 4 == 3
    assert labels.dtype == torch.float32


def test_cutmix_takes_a_rectangle_whose_area_is_the_share_of_the_label():
    for seed in range(20):
        inputs, labels = augmented(cutmix=1.0, seed=seed)
        taken = (inputs[0] != PLAIN[0]).any(0)
        assert torch.equal(inputs[0][:, taken], PLAIN[199][:, taken])
        assert abs(float(labels[0, 3]) - float(taken.float().mean())) < 1e-6
        torch.testing.assert_close(labels.sum(1), torch.ones(200))


def test_where_both_are_on_either_mixes_about_half_of_the_batches():
    kinds = []
    for seed in range(40):
        inputs, labels = augmented(IMAGES[:8], mixup=1.0, cutmix=1.0, seed=seed)
        assert labels.shape == (8, 4)
        kinds.append(bool(((inputs[0] == PLAIN[0]) | (inputs[0] == PLAIN[7])).all()))  # cutmix
    assert 10 < sum(kinds) < 30


def test_randaugment_takes_grey_and_rgb_only():
    grey = Preprocessing(1, 16, 16, (0.5,), (0.2,), ("a", "b", "c", "d"))
    assert augmented(IMAGES[:, :1], grey, randaugment=9, augment=("resized_crop",))[0].shape == (200, 1, 16, 16)
    four = Preprocessing(4, 16, 16, (0.5,) * 4, (0.2,) * 4, ("a", "b", "c", "d"))
    with pytest.raises(DataError, match="randaugment and resized_crop take grey or RGB images, not 4 channels"):
        Augmenter(TrainSettings(epochs=1, randaugment=9), four, NORMALISE, CPU)


def test_one_kind_of_crop_at_a_time():
    with pytest.raises(ConfigError, match="crop and resized_crop"):
        TrainSettings(epochs=1, augment=("crop", "resized_crop"))
