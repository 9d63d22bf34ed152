"""Preprocessing: what is normalised comes back as the very bytes it was."""

import numpy as np
import pytest

from edgeks.preprocessing import Preprocessing


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.0,), (1.0,)), ((0.5,), (0.25,)), ((0.4914,), (0.2023,)), ((0.9,), (0.001,)), ((-3.0,), (7.0,))],
)
def test_denormalise_undoes_normalise_for_every_byte(mean, std):
    preprocessing = Preprocessing(1, 16, 16, mean, std, ("a",))
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(preprocessing.denormalise(preprocessing.normalise(images)), images)


def test_what_no_pixel_can_be_becomes_the_nearest_one():
    preprocessing = Preprocessing(1, 1, 3, (0.5,), (0.5,), ("a",))
    inputs = np.array([[[[-9.0, 9.0, 0.0]]]], np.float32)
    assert preprocessing.denormalise(inputs).ravel().tolist() == [0, 255, 128]
