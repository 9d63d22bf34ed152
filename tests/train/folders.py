"""Small data sets in their official layouts, for tests."""

import numpy as np
from PIL import Image

WNIDS = ("n01443537", "n01629819", "n02056570")


def write_image(path, value=0, size=(64, 64), seed=None):
    """A JPEG (or what the suffix says) of one colour, or of noise by `seed`; `size` is width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    if seed is not None:
        pixels = np.random.default_rng(seed).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def write_tiny_imagenet(folder, per_class=4):
    """tiny-imagenet-200 with three classes; class i is of the colour 40·i, and listed in another order than sorted."""
    for label, wnid in enumerate(WNIDS):
        for index in range(per_class):
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", 40 * label)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t32\t44\t62\n")
    for index in range(6):
        write_image(folder / "val" / "images" / f"val_{index}.JPEG", 40 * (index % 3))
        write_image(folder / "test" / "images" / f"test_{index}.JPEG")
    rows = [f"val_{index}.JPEG\t{WNIDS[index % 3]}\t0\t32\t44\t62\n" for index in range(6)]
    (folder / "val" / "val_annotations.txt").write_text("".join(rows))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (folder / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    return folder


def write_imagenet(folder, val="classes", per_class=4):
    """Three classes of images of several sizes, class i of the colour 40·i; `val` in class folders or flat."""
    for label, wnid in enumerate(WNIDS):
        for index in range(per_class):
            write_image(folder / "train" / wnid / f"{wnid}_{index}.JPEG", 40 * label, (40 + 7 * index, 50))
    for index in range(6):
        name = f"ILSVRC2012_val_{index + 1:08d}.JPEG"
        where = folder / "val" / (WNIDS[index % 3] if val == "classes" else "")
        write_image(where / name, 40 * (index % 3), (60, 40))
    return folder


def write_classes(folder, names=("cat", "dog"), count=3, size=(10, 6)):
    """CLASS/0.png … of noise."""
    for label, name in enumerate(names):
        for index in range(count):
            write_image(folder / name / f"{index}.png", size=size, seed=100 * label + index)
    return folder
