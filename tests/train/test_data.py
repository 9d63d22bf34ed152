"""Data set specifications → Dataset."""

import numpy as np
import pytest
from PIL import Image

from edgeks.errors import DataError
from edgeks.train.data import load_dataset


def write_images(folder, label_values, count=5):
    for label, value in label_values.items():
        (folder / label).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (10, 6), (value, index, 0)).save(folder / label / f"{index}.png")


def test_digits():
    digits = load_dataset("digits")
    assert digits.train_images.shape == (1438, 1, 8, 8)
    assert digits.test_images.shape == (359, 1, 8, 8)
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 255)
    assert digits.preprocessing.classes == tuple("0123456789")
    share = np.bincount(digits.test_labels) / (np.bincount(digits.train_labels) + np.bincount(digits.test_labels))
    assert np.abs(share - 0.2).max() < 0.01
    assert load_dataset("digits").fingerprint() == digits.fingerprint()


def test_digits_resized():
    digits = load_dataset("digits", size=16)
    assert digits.train_images.shape == (1438, 1, 16, 16)
    assert (digits.preprocessing.height, digits.preprocessing.width) == (16, 16)


@pytest.mark.parametrize(("size", "side"), [(None, 32), (16, 16)])
def test_cifar10(tmp_path, size, side):
    record = b"\x07" + bytes(3072)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (tmp_path / f"{name}.bin").write_bytes(record * 2)
    dataset = load_dataset(f"cifar10:{tmp_path}", size)
    assert dataset.train_images.shape == (10, 3, side, side)
    assert set(dataset.train_labels) == {7}
    assert dataset.preprocessing.classes[7] == "horse"


@pytest.mark.parametrize("test_split", ["test", "val"])
def test_folder_with_splits(tmp_path, test_split):
    write_images(tmp_path / "train", {"cat": 10, "dog": 200})
    write_images(tmp_path / test_split, {"dog": 200}, count=2)
    dataset = load_dataset(f"folder:{tmp_path}", size=4)
    assert dataset.preprocessing.classes == ("cat", "dog")
    assert dataset.train_labels.tolist() == [0] * 5 + [1] * 5
    assert dataset.train_images[:, 0, 0, 0].tolist() == [10] * 5 + [200] * 5
    assert dataset.test_labels.tolist() == [1, 1]
    assert dataset.test_images.shape == (2, 3, 4, 4)


def test_folder_of_classes_is_split_by_seed(tmp_path):
    write_images(tmp_path, {"cat": 10, "dog": 200, "owl": 90}, count=10)
    dataset = load_dataset(f"folder:{tmp_path}", size=4)
    assert np.bincount(dataset.train_labels).tolist() == [8, 8, 8]
    assert np.bincount(dataset.test_labels).tolist() == [2, 2, 2]
    assert load_dataset(f"folder:{tmp_path}", size=4).fingerprint() == dataset.fingerprint()


def test_folders_that_do_not_fit(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no class folders; legal: a sub-folder for each class"):
        load_dataset(f"folder:{tmp_path / 'empty'}", size=4)
    write_images(tmp_path / "half" / "train", {"cat": 1, "dog": 2})
    with pytest.raises(DataError, match="has train/ but neither test/ nor val/"):
        load_dataset(f"folder:{tmp_path / 'half'}", size=4)
    write_images(tmp_path / "half" / "test", {"cat": 1, "owl": 2})
    with pytest.raises(DataError, match=r"class 'owl' is not in .*train; legal: cat, dog"):
        load_dataset(f"folder:{tmp_path / 'half'}", size=4)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}", size=4)
    with pytest.raises(DataError, match="needs a size"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("spec", ["mnist", "", "cifar10", "cifar10:", "digits:x", "folder:", "cifar1:x"])
def test_unknown_specification(spec):
    with pytest.raises(DataError, match=r"unknown data set .*; legal: digits, .*, imagenet:DIR, folder:DIR"):
        load_dataset(spec, size=8)


@pytest.mark.parametrize("size", [0, -1, 3, 4097])
def test_illegal_size(size):
    with pytest.raises(DataError, match=f"size is {size}; legal: 4 to 4096"):
        load_dataset("digits", size)
