"""ImageNet (ILSVRC 2012) as it lies on most disks: train/WNID/*.JPEG, and val in class folders or flat.

The labels of a flat val come from one of three files: the challenge's development kit, the list of WordNet ids in the
order of the images that TensorFlow's tools use, or Kaggle's table. The validation images are the test split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeks.errors import DataError
from edgeks.images import folder_names, image_names
from edgeks.train.image_files import file_names
from edgeks.train.image_tree import ImageTree, LabelledFiles, Told, check_known, class_files, read_text

SIDE = 224
KAGGLE_FOLDER = "ILSVRC/Data/CLS-LOC"
KAGGLE_TABLE = "LOC_val_solution.csv"
SYNSET_LIST = "imagenet_2012_validation_synset_labels.txt"
DEVKIT = "ILSVRC2012_devkit_t12/data"
GROUND_TRUTH, META = f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt", f"{DEVKIT}/meta.mat"
WNID = re.compile("n[0-9]{8}")
LAYOUT = (
    f"train/WNID/*.JPEG and val/WNID/*.JPEG, or val/*.JPEG with {GROUND_TRUTH} and meta.mat, {SYNSET_LIST} or "
    f"{KAGGLE_TABLE}"
)


def is_imagenet(folder: Path) -> bool:
    """Whether a folder's training classes are WordNet ids."""
    train = image_root(folder) / "train"
    return train.is_dir() and any(WNID.fullmatch(path.name) for path in train.iterdir())


def image_root(folder: Path) -> Path:
    """Where train and val lie: the folder, or Kaggle's place in it."""
    return folder / KAGGLE_FOLDER if (folder / KAGGLE_FOLDER).is_dir() else folder


def read_imagenet(folder: Path, told: Told) -> ImageTree:
    """Folder → tree; its classes are the WordNet ids of train, sorted.

    Raises:
        DataError: a file or folder is missing, damaged, or does not fit the others.
    """
    root = image_root(folder)
    train = root / "train"
    classes = tuple(folder_names(train))
    strange = [name for name in classes if not WNID.fullmatch(name)]
    if strange:
        raise DataError(
            f"{train}: {strange[0]!r} is no WordNet id such as n01440764; for classes of any name, folder:{root}"
        )
    if folder_names(root / "val"):
        check_known(root / "val", folder_names(root / "val"), train, classes)
        test = class_files(root, "val", classes, told)
    else:
        test = _flat_validation(folder, root, train, classes)
    return ImageTree(root, class_files(root, "train", classes, told), test, classes)


def _flat_validation(folder: Path, root: Path, train: Path, classes: Sequence[str]) -> LabelledFiles:
    images = image_names(root / "val")
    places = [folder, root, root / "val"]
    for name, read in ((KAGGLE_TABLE, _kaggle_table), (SYNSET_LIST, _synset_list), (GROUND_TRUTH, _ground_truth)):
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is not None:
            wnids = read(path, images)
            break
    else:
        raise DataError(
            f"{root / 'val'}: {len(images)} images without labels; put them into class folders, or one of "
            f"{KAGGLE_TABLE}, {SYNSET_LIST} and {GROUND_TRUTH} (with meta.mat) into {folder}"
        )
    check_known(path, wnids, train, classes)
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    names = file_names([f"val/{name}" for name in images])
    return LabelledFiles(names, np.array([label_of[wnid] for wnid in wnids], np.int64))


def _kaggle_table(path: Path, images: Sequence[str]) -> list[str]:
    """Rows of an image's name without suffix, a comma, and WordNet id and box, once or several times."""
    wnid_of: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines()[1:], 2):
        name, _, prediction = line.partition(",")
        words = prediction.split()
        if line.strip() and not words:
            raise DataError(f"{path}, line {number}: {line!r}; legal: image, a comma, a WordNet id and a box")
        if words:
            wnid_of[name] = words[0]
    for image in images:
        if image.rpartition(".")[0] not in wnid_of:
            raise DataError(f"{path}: has no row for {image}; get it again")
    return [wnid_of[image.rpartition(".")[0]] for image in images]


def _synset_list(path: Path, images: Sequence[str]) -> list[str]:
    """A WordNet id on each line, in the order of the images' numbers."""
    wnids = read_text(path).split()
    _check_count(path, len(wnids), images)
    return wnids


def _ground_truth(path: Path, images: Sequence[str]) -> list[str]:
    """A number on each line, in the order of the images' numbers; meta.mat beside it says which WordNet id it is."""
    meta = path.parent / Path(META).name
    numbers = read_text(path).split()
    _check_count(path, len(numbers), images)
    wnid_of = _numbered_synsets(meta)
    for number in numbers:
        if number not in wnid_of:
            raise DataError(f"{path}: holds the label {number!r}; legal: a number that {meta.name} knows")
    return [wnid_of[number] for number in numbers]


def _numbered_synsets(path: Path) -> dict[str, str]:
    """MATLAB file with the struct array `synsets`: fields ILSVRC2012_ID and WNID among others."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(path, squeeze_me=True, variable_names=["synsets"])["synsets"]
        return {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in np.atleast_1d(synsets)}
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path}: cannot be read as the development kit's list of synsets ({error})") from error


def _check_count(path: Path, labels: int, images: Sequence[str]) -> None:
    if labels != len(images):
        raise DataError(f"{path}: {labels} labels for {len(images)} images in val; legal: as many; get both again")
