"""What a user meets whose data is not what the specification says: one line that names it, and what to do."""

import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from folders import WNIDS, write_classes, write_image, write_imagenet, write_tiny_imagenet
from PIL import Image

from edgeks.errors import DataError
from edgeks.train.data import load_dataset

RECORD = bytes(3073)


def write_cifar10(folder):
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(RECORD * 2)
    return folder


def write_cifar100(folder):
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        (folder / f"{name}.bin").write_bytes(bytes(3074) * 2)
    return folder


def refused(spec, size=8):
    """The message, without the temporary folder."""
    with pytest.raises(DataError) as caught:
        load_dataset(spec, size)
    message = str(caught.value)
    assert "\n" not in message
    return message


KINDS = ("cifar10", "cifar100", "tiny_imagenet", "imagenet", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_missing_empty_or_an_archive(tmp_path, kind):
    assert refused(f"{kind}:{tmp_path}/nowhere") == f"{kind}:{tmp_path}/nowhere: {tmp_path}/nowhere: no such folder"
    (tmp_path / "data.tar.gz").write_bytes(b"\x1f\x8b")
    message = refused(f"{kind}:{tmp_path}/data.tar.gz")
    assert message.endswith("data.tar.gz is a file; unpack it (tar -xf data.tar.gz) and name the folder")
    (tmp_path / "empty").mkdir()
    message = refused(f"{kind}:{tmp_path}/empty")
    assert re.search("it is empty; legal: |empty: holds no class folders; legal: ", message)


WRITERS = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "tiny_imagenet": write_tiny_imagenet,
    "imagenet": write_imagenet,
    "folder": write_classes,
}


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("real", KINDS)
def test_a_data_set_given_as_another_is_recognised(tmp_path, given, real):
    folder = WRITERS[real](tmp_path / "data")
    if given == real or (given, real) in {("folder", "imagenet")}:
        assert load_dataset(f"{given}:{folder}", 8).train_images.shape[2] >= 8
        return
    message = refused(f"{given}:{folder}")
    assert message.endswith(f"; this looks like {real}:{folder}")
    assert "legal: " in message


def test_what_was_found_is_said_and_a_sub_folder_is_recognised(tmp_path):
    write_cifar100(tmp_path / "cifar-100-binary" / "deeper")
    (tmp_path / "cifar-100-binary" / "notes.txt").write_text("x")
    message = refused(f"cifar10:{tmp_path / 'cifar-100-binary'}")
    assert "is no CIFAR-10, it holds deeper, notes.txt; legal: the folder cifar-10-batches-py (with test_b" in message
    assert message.endswith(f"this looks like cifar100:{tmp_path / 'cifar-100-binary' / 'deeper'}")


def damaged_tiny(path, content):
    def damage(folder):
        (folder / path).write_text(content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "wnids.txt").write_text("\n"), "wnids.txt: names no class; legal: a WordNet id on each line"),
        (
            lambda f: (f / "wnids.txt").write_text("n00000001\n"),
            "n00000001: no such folder, though wnids.txt",
        ),
        (lambda f: (f / "val" / "val_annotations.txt").unlink(), "val_annotations.txt: cannot be read (No such file"),
        (
            lambda f: (f / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{WNIDS[0]}\t0\nval_1.JPEG\tn9\t0\n"),
            "val_annotations.txt, line 2: class 'n9' is not in wnids.txt; get the data set again",
        ),
        (
            lambda f: (f / "val" / "val_annotations.txt").write_text(f"../../secret.JPEG\t{WNIDS[0]}\t0\n"),
            "val_annotations.txt, line 1: val/images holds no '../../secret.JPEG'",
        ),
        (lambda f: (f / "val" / "val_annotations.txt").write_text(""), "the test split has no images"),
    ],
)
def test_damaged_tiny_imagenet(tmp_path, damage, message):
    damage(write_tiny_imagenet(tmp_path))
    assert message in refused(f"tiny_imagenet:{tmp_path}")


@pytest.mark.parametrize(
    ("val", "damage", "message"),
    [
        (
            "flat",
            lambda f: None,
            "val: 6 images without labels; put them into class folders, or one of LOC_val_solution",
        ),
        (
            "flat",
            lambda f: (f / "imagenet_2012_validation_synset_labels.txt").write_text("n01443537\n"),
            "validation_synset_labels.txt: 1 labels for 6 images in val; legal: as many; get both again",
        ),
        (
            "flat",
            lambda f: (f / "imagenet_2012_validation_synset_labels.txt").write_text("n99999999\n" * 6),
            "class 'n99999999' is not in",
        ),
        (
            "flat",
            lambda f: (f / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,\n"),
            "LOC_val_solution.csv, line 2: 'ILSVRC2012_val_00000001,'; legal: image, a comma, a WordNet id and a box",
        ),
        (
            "flat",
            lambda f: (f / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n"),
            "LOC_val_solution.csv: has no row for ILSVRC2012_val_00000001.JPEG; get it again",
        ),
        ("flat", lambda f: broken_kit(f, "1\n" * 6, b"no matlab"), "meta.mat: cannot be read as the development kit's"),
        ("classes", lambda f: write_image(f / "train" / "dog" / "1.png"), "'dog' is no WordNet id such as n01440764"),
        ("classes", lambda f: write_image(f / "val" / "n99999999" / "1.png"), "val: class 'n99999999' is not in"),
        ("classes", lambda f: (f / "val").rename(f / "validation"), "val: cannot be read as an image folder (No such"),
    ],
)
def test_damaged_imagenet(tmp_path, val, damage, message):
    damage(write_imagenet(tmp_path, val))
    assert message in refused(f"imagenet:{tmp_path}")


def broken_kit(folder, truth, meta):
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    (data / "meta.mat").write_bytes(meta)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1.png: cannot be decoded as an image (it is empty, 0 bytes); repair or remove it"),
        (b"<html>404</html>", "1.png: cannot be decoded as an image (no format that Pillow knows); repair"),
        ("truncated", "1.png: cannot be decoded as an image (image file is truncated"),
        ("bomb", "1.png: more than 89,478,485 pixels, too many to decode safely; shrink or remove it"),
        ("secret", "1.png: cannot be read (Permission denied)"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
def test_an_image_that_cannot_be_read(lazy, content, message):
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "cat" / "1.png"
        folder.chmod(0o755)
        write_classes(folder, size=(40, 40))
        if content == "truncated":
            path.write_bytes(path.read_bytes()[:2000])
        elif content == "bomb":
            Image.new("1", (10_000, 10_000)).save(path)
        elif content == "secret":
            path.chmod(0)
        else:
            path.write_bytes(content)
        with as_somebody_else(), pytest.raises(DataError) as caught:
            dataset = load_dataset(f"folder:{folder}", 8, lazy=lazy)
            dataset.train_images[:]
        assert message in str(caught.value)


class as_somebody_else:  # noqa: N801
    """Root may read everything; others may not."""

    def __enter__(self):
        self.root = os.geteuid() == 0
        if self.root:
            os.seteuid(65534)

    def __exit__(self, *_):
        if self.root:
            os.seteuid(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_read_permission(kind):
    with tempfile.TemporaryDirectory() as name:
        folder = WRITERS[kind](Path(name) / "data")
        Path(name).chmod(0o755)
        folder.chmod(0)
        try:
            with as_somebody_else():
                assert refused(f"{kind}:{folder}") == f"{kind}:{folder}: {folder} cannot be read (Permission denied)"
                assert re.search(r"cannot be read.*\(Permission denied\)", refused(f"{kind}:{name}/data/inner"))
            folder.chmod(0o744)  # it can be listed, and what is in it cannot be looked at
            with as_somebody_else():
                assert re.search(r"cannot be read.*\(Permission denied\)", refused(f"{kind}:{folder}"))
        finally:
            folder.chmod(0o755)


def test_links_that_lead_nowhere_or_round_in_circles(tmp_path):
    write_classes(tmp_path)
    link = tmp_path / "cat" / "2.png"
    link.unlink()
    link.symlink_to("2.png")
    assert refused(f"folder:{tmp_path}") == f"{link}: a symbolic link that leads nowhere; repair or remove it"
    link.unlink()
    link.symlink_to("missing.png")
    assert refused(f"folder:{tmp_path}") == f"{link}: a symbolic link that leads nowhere; repair or remove it"
    link.unlink()
    (tmp_path / "cat" / "again").symlink_to("..")
    assert "again: a symbolic link to" in refused(f"folder:{tmp_path}")
    (tmp_path / "cat" / "again").unlink()
    (tmp_path / "cat" / "5.png").symlink_to("../dog/1.png")  # a link to an image is an image
    dataset = load_dataset(f"folder:{tmp_path}", 8)
    assert len(dataset.train_images) + len(dataset.test_images) == 6


def test_what_is_no_image_is_left_out(tmp_path):
    write_classes(tmp_path)
    before = load_dataset(f"folder:{tmp_path}", 8).fingerprint()
    for name in ("Thumbs.db", ".DS_Store", "labels.csv", ".hidden.png"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "cat" / "pipe.png")  # reading it would wait for ever
    assert load_dataset(f"folder:{tmp_path}", 8).fingerprint() == before


def test_a_class_without_images(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "notes.txt").write_text("soon")
    assert f"{tmp_path / 'owl'}: holds no image, nor do its sub-folders; legal: files that end in" in refused(
        f"folder:{tmp_path}"
    )


def test_a_split_without_images(tmp_path):
    write_classes(tmp_path, count=1)
    assert refused(f"folder:{tmp_path}") == f"folder {tmp_path.name}: the test split has no images"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (RECORD[:-1] * 2, "6144 bytes; legal: a positive multiple of 3073, the size of a record; the file is damaged"),
        (b"\x0b" + RECORD[1:], "holds the label 11; legal: 0 to 9"),
        (b"", "0 bytes; legal: a positive multiple of 3073"),
    ],
)
def test_damaged_cifar(tmp_path, content, message):
    write_cifar10(tmp_path / "b")
    (tmp_path / "b" / "test_batch.bin").write_bytes(content)
    assert f"test_batch.bin: {message}" in refused(f"cifar10:{tmp_path / 'b'}")


def test_images_of_another_size_or_classes_than_the_network_was_trained_on(tmp_path):
    trained = load_dataset(f"folder:{write_classes(tmp_path / 'a')}", 8).preprocessing
    other = load_dataset(f"folder:{write_classes(tmp_path / 'b', ('cat', 'owl'))}", 8)
    more = load_dataset(f"folder:{write_classes(tmp_path / 'c', ('cat', 'dog', 'owl'))}", 8)
    large = load_dataset(f"folder:{tmp_path / 'a'}", 16)
    with pytest.raises(DataError, match="folder b: class 1 is 'owl'; the checkpoint was trained with 'dog' there"):
        other.check_fits(trained)
    with pytest.raises(DataError, match="folder c: 3 classes; the checkpoint was trained on 2"):
        more.check_fits(trained)
    with pytest.raises(DataError, match="folder a: images of 3×16×16; the checkpoint was trained on 3×8×8"):
        large.check_fits(trained)
    assert np.array_equal(large.test_labels, load_dataset(f"folder:{tmp_path / 'a'}", 8).test_labels)
