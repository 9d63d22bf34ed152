"""Tiny ImageNet as it is distributed (tiny-imagenet-200): 200 classes, 64×64 pixels, 500 training images of each.

The official test images have no labels, so the official validation images (50 of each class) are the test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeks.errors import DataError
from edgeks.images import image_names
from edgeks.train.image_files import file_names
from edgeks.train.image_tree import ImageTree, LabelledFiles, Told, class_files, read_text

FOLDER = "tiny-imagenet-200"
WNIDS, ANNOTATIONS, VAL_IMAGES = "wnids.txt", "val/val_annotations.txt", "val/images"
SIDE = 64
LAYOUT = f"{WNIDS}, train/WNID/images/*.JPEG, {VAL_IMAGES}/*.JPEG, {ANNOTATIONS}"


def tiny_imagenet_folder(folder: Path) -> Path | None:
    """`folder`, or its official sub-folder, where it has the files by which the data set is known."""
    for where in (folder, folder / FOLDER):
        if (where / WNIDS).is_file() and (where / "train").is_dir():
            return where
    return None


def read_tiny_imagenet(folder: Path, told: Told) -> ImageTree:
    """Folder with the official files → tree; its classes are the WordNet ids of wnids.txt, sorted.

    Raises:
        DataError: a file or folder is missing, damaged, or does not fit the others.
    """
    classes = tuple(sorted({line.strip() for line in read_text(folder / WNIDS).splitlines() if line.strip()}))
    if not classes:
        raise DataError(f"{folder / WNIDS}: names no class; legal: a WordNet id on each line, such as n01443537")
    for wnid in classes:
        if not (folder / "train" / wnid).is_dir():
            raise DataError(f"{folder / 'train' / wnid}: no such folder, though {WNIDS} names the class; get it again")
    return ImageTree(folder, class_files(folder, "train", classes, told), _validation(folder, classes), classes)


def _validation(folder: Path, classes: tuple[str, ...]) -> LabelledFiles:
    """Lines of file name, WordNet id and a box that is not used, with tabs between them."""
    path, label_of = folder / ANNOTATIONS, {wnid: label for label, wnid in enumerate(classes)}
    present = set(image_names(folder / VAL_IMAGES))
    names, labels = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not line.strip():
            continue
        if wnid not in label_of:
            raise DataError(f"{path}, line {number}: class {wnid!r} is not in {WNIDS}; get the data set again")
        if name not in present:
            raise DataError(f"{path}, line {number}: {VAL_IMAGES} holds no {name!r}; get the data set again")
        names.append(f"{VAL_IMAGES}/{name}")
        labels.append(label_of[wnid])
    return LabelledFiles(file_names(names), np.array(labels, np.int64))
