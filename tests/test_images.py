"""Image folders: decoding, layouts, damaged files."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edgeks.errors import DataError
from edgeks.images import list_images, read_folder, read_images, resize


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)


def test_rgb_png_comes_back_exactly_as_planes(tmp_path, rgb):
    save(tmp_path / "a.png", rgb)
    images = read_folder(tmp_path, 3, 6, 4)
    assert images.dtype == np.uint8
    assert np.array_equal(images, rgb.transpose(2, 0, 1)[None])


def test_grey_channel_conversion(tmp_path, rgb):
    save(tmp_path / "colour.png", rgb)
    save(tmp_path / "grey.png", rgb[:, :, 0])
    save(tmp_path / "sixteen.png", rgb[:, :, 0].astype(np.uint16) * 256 + 255)
    colour, grey, sixteen = read_folder(tmp_path, 1, 6, 4)
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(colour[0] - luma).max() <= 1
    assert np.array_equal(grey[0], rgb[:, :, 0])
    assert np.array_equal(sixteen[0], rgb[:, :, 0])
    assert np.array_equal(read_images([tmp_path / "grey.png"], 3, 6, 4)[0], np.stack([rgb[:, :, 0]] * 3))


def test_resize_is_height_by_width_and_bilinear(tmp_path):
    ramp = np.repeat(np.arange(0, 256, 16, np.uint8)[None], 8, axis=0)  # 8 high, 16 wide
    save(tmp_path / "a.png", ramp)
    image = read_folder(tmp_path, 1, 4, 8)[0, 0]
    assert image.shape == (4, 8)
    assert np.abs(image[0].astype(int) - (ramp[0, ::2].astype(int) + 8)).max() <= 4
    assert np.array_equal(resize(ramp[None, None], 4, 8)[0, 0], image)
    assert resize(ramp[None, None], 8, 16) is not None


def test_exif_orientation_is_undone(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer has to turn it by 90° clockwise
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_folder(tmp_path, 3, 4, 6)[0], np.rot90(rgb, -1).transpose(2, 0, 1))


def test_flat_folder_and_class_folders_sorted_without_hidden_and_foreign_files(tmp_path, rgb):
    for name in ("z.png", "b/2.PNG", "b/1.jpg", "a/9.bmp", ".hidden.png", ".git/x.png", "b/deep/x.png"):
        save(tmp_path / name, rgb)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["z.png", "a/9.bmp", "b/1.jpg", "b/2.PNG"]


def test_limit_spreads_evenly_over_classes(tmp_path, rgb):
    for label in "abcd":
        for index in range(5):
            save(tmp_path / label / f"{index}.png", rgb)
    picked = list_images(tmp_path, limit=8)
    assert [path.parent.name for path in picked] == list("aabbccdd")
    assert picked == list_images(tmp_path, limit=8)
    assert len(list_images(tmp_path, limit=100)) == 20
    with pytest.raises(DataError, match="a limit of 0 images"):
        list_images(tmp_path, limit=0)


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_a_damaged_image_is_named(tmp_path, damage):
    good = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = {"text": b"no image at all", "truncated": good.read_bytes()[:2000], "empty": b""}[damage]
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png: cannot be decoded as an image") as caught:
        read_folder(tmp_path, 3, 8, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1.5, 3])
def test_decompression_bomb(tmp_path, rgb, monkeypatch, factor):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(24 / factor))  # Pillow warns above it, raises above twice it
    save(tmp_path / "bomb.png", rgb)
    with pytest.raises(DataError, match=r"bomb\.png: more than .* pixels"):
        read_folder(tmp_path, 3, 8, 8)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: cannot be read as an image folder \(No such file"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no image, nor do its sub-folders; legal: files that end in \.bmp"):
        list_images(tmp_path)


def test_limits_of_channels_and_memory(tmp_path, rgb):
    path = save(tmp_path / "a.png", rgb)
    with pytest.raises(DataError, match=r"1 \(grey\) or 3 \(RGB\) channels, not 4"):
        read_images([path], 4, 8, 8)
    with pytest.raises(DataError, match="take more than 8 GiB"):
        read_images([path] * 10, 3, 1 << 16, 1 << 16)
    with pytest.raises(DataError, match="take more than 8 GiB"):
        resize(np.zeros((10, 3, 8, 8), np.uint8), 1 << 16, 1 << 16)


def test_importing_it_does_not_import_torch():
    code = "import sys, edgeks.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
