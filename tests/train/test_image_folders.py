"""Tiny ImageNet, ImageNet and folders: what is read, frames, and the same batches from files as from memory."""

import os

import numpy as np
import pytest
import torch
from folders import WNIDS, write_classes, write_image, write_imagenet, write_tiny_imagenet
from PIL import Image
from scipy.io import savemat

from edgeks.errors import DataError
from edgeks.models import zoo
from edgeks.train.batches import Batches
from edgeks.train.data import load_dataset
from edgeks.train.fit import evaluate, fit
from edgeks.train.image_files import ImageFiles
from edgeks.train.settings import TrainSettings


@pytest.mark.parametrize("inside", [True, False], ids=["folder", "parent"])
def test_tiny_imagenet(tmp_path, inside):
    folder = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    dataset = load_dataset(f"tiny_imagenet:{folder if inside else tmp_path}")
    assert dataset.train_images.shape == (12, 3, 64, 64)
    assert dataset.test_images.shape == (6, 3, 64, 64)
    assert dataset.preprocessing.classes == WNIDS
    assert dataset.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert np.array_equal(np.rint(dataset.train_images[:, 0, 0, 0] / 40), dataset.train_labels)
    assert np.array_equal(np.rint(dataset.test_images[:, 0, 0, 0] / 40), dataset.test_labels)


@pytest.mark.parametrize(("size", "stored"), [(56, 64), (32, 37), (64, 64), (96, 96)])
def test_tiny_imagenet_keeps_a_frame_where_there_is_room(tmp_path, size, stored):
    dataset = load_dataset(f"tiny_imagenet:{write_tiny_imagenet(tmp_path)}", size)
    assert dataset.train_images.shape[2:] == (stored, stored)
    assert dataset.test_images.shape[2:] == (size, size) == dataset.preprocessing.shape[1:]
    assert dataset.sample(np.arange(2)).shape == (2, 3, size, size)


def _list_synsets(folder):
    (folder / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(WNIDS * 2) + "\n")


def _kaggle_table(folder):
    rows = [f"ILSVRC2012_val_{i + 1:08d},{WNIDS[i % 3]} 1 2 3 4 {WNIDS[i % 3]} 5 6 7 8 \n" for i in reversed(range(6))]
    (folder / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))


def _development_kit(folder):
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    synsets = np.zeros(3, [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, number in enumerate((3, 1, 2)):
        synsets[row] = (number, WNIDS[row], "a word")
    savemat(data / "meta.mat", {"synsets": synsets})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n2\n" * 2)


@pytest.mark.parametrize("labels", [None, _list_synsets, _kaggle_table, _development_kit])
@pytest.mark.parametrize("where", ["", "ILSVRC/Data/CLS-LOC"])
def test_imagenet(tmp_path, labels, where):
    write_imagenet(tmp_path / where, val="flat" if labels else "classes")
    if labels:
        labels(tmp_path)
    dataset = load_dataset(f"imagenet:{tmp_path}", size=28)
    assert dataset.train_images.shape == (12, 3, 32, 32)
    assert dataset.test_images.shape == (6, 3, 28, 28)
    assert dataset.preprocessing.classes == WNIDS
    assert np.array_equal(np.rint(dataset.train_images[:, 0, 0, 0] / 40), dataset.train_labels)
    assert np.array_equal(np.rint(dataset.test_images[:, 0, 0, 0] / 40), dataset.test_labels)
    assert sorted(dataset.test_labels) == [0, 0, 1, 1, 2, 2]


def test_imagenet_is_224_in_a_frame_of_256_and_keeps_the_aspect_ratio(tmp_path):
    write_imagenet(tmp_path)
    ramp = np.arange(300, dtype=np.uint8)[None, :, None].repeat(200, 0).repeat(3, 2)  # 300 wide
    Image.fromarray(ramp).save(tmp_path / "train" / WNIDS[0] / "a.png")
    dataset = load_dataset(f"imagenet:{tmp_path}")
    image = dataset.train_images[0][0]
    assert image.shape == (256, 256)
    assert abs(int(image[100, 0]) - 50) <= 1  # 50 columns are cut off to the left, 50 to the right
    assert abs(int(image[100, 200]) - (50 + 200 * 200 / 256)) <= 1
    assert dataset.test_images.shape[2:] == (224, 224)


STRENGTH = {"augment": ("crop", "flip"), "randaugment": 9.0, "mixup": 0.5, "cutmix": 0.5, "erasing": 0.25}


@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_files_give_the_same_batches_as_memory_bit_for_bit(tmp_path, kind):
    write = write_classes if kind == "folder" else write_imagenet
    write(tmp_path)
    spec = f"{kind}:{tmp_path}"
    memory, files = load_dataset(spec, 14, lazy=False), load_dataset(spec, 14, lazy=True)
    assert isinstance(files.train_images, ImageFiles)
    assert isinstance(files.test_images, ImageFiles)
    assert files.preprocessing == memory.preprocessing
    assert np.array_equal(files.test_images[:], memory.test_images)
    rows = np.array([3, 0, 2])
    assert np.array_equal(files.sample(rows), memory.sample(rows))
    settings = TrainSettings(epochs=2, batch_size=3, **STRENGTH)
    labels = torch.from_numpy(memory.train_labels)
    batches = [
        Batches(images, labels, memory.preprocessing, settings)
        for images in (torch.from_numpy(memory.train_images), files.train_images)
    ]
    for epoch in (1, 2):
        for some in batches:
            some.epoch = epoch
        for (one, label), (other, same) in zip(*batches, strict=True):
            assert torch.equal(one, other)
            assert torch.equal(label, same)


def test_training_from_files_ends_with_the_weights_of_training_from_memory(tmp_path):
    torch.set_num_threads(1)
    write_imagenet(tmp_path, per_class=5)
    settings = TrainSettings(epochs=2, batch_size=4, validation=0.2, threads=1, **STRENGTH)
    config = {"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 2, "classes": 3}
    models = []
    for lazy in (False, True):
        dataset = load_dataset(f"imagenet:{tmp_path}", 14, lazy=lazy)
        model = zoo.build("convmixer", config, seed=0)
        result = fit(model, dataset, settings, last=tmp_path / "last.pt")
        p = dataset.preprocessing
        assert result.test_accuracy == evaluate(model, dataset.test_images, dataset.test_labels, p)
        models.append(model.state_dict())
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_the_fingerprint_of_files_follows_names_labels_and_contents(tmp_path):
    write_classes(tmp_path)

    def fingerprint():
        return load_dataset(f"folder:{tmp_path}", 8, lazy=True).fingerprint()

    before = fingerprint()
    os.utime(tmp_path / "cat" / "0.png", (0, 0))
    assert fingerprint() == before  # a copy with other times is the same data
    write_image(tmp_path / "cat" / "0.png", seed=5)
    changed = fingerprint()
    (tmp_path / "dog" / "0.png").rename(tmp_path / "dog" / "9.png")
    assert len({before, changed, fingerprint()}) == 3


def test_files_beyond_the_bound_are_decoded_batch_by_batch(tmp_path, monkeypatch):
    write_classes(tmp_path)
    monkeypatch.setattr("edgeks.train.data.IN_MEMORY_BYTES", 6 * 3 * 8 * 8)
    assert isinstance(load_dataset(f"folder:{tmp_path}", 8).train_images, np.ndarray)
    assert isinstance(load_dataset(f"folder:{tmp_path}", 9).train_images, ImageFiles)


def test_an_image_that_is_damaged_while_training_is_named(tmp_path):
    write_imagenet(tmp_path)
    dataset = load_dataset(f"imagenet:{tmp_path}", 14, lazy=True)
    path = tmp_path / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    model = zoo.build("convmixer", {"dim": 4, "depth": 1, "kernel_size": 3, "patch_size": 2, "classes": 3}, seed=0)
    with pytest.raises(DataError, match=r"n01629819_2\.JPEG: cannot be decoded as an image .*; repair or remove it"):
        fit(model, dataset, TrainSettings(epochs=1, batch_size=4, validation=0), last=tmp_path / "last.pt")
