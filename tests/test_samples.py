"""The samples an export calibrates on: from an .npz, an image folder, the checkpoint, or noise; and what is refused."""

import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from edgeks.errors import DataError
from edgeks.preprocessing import Preprocessing
from edgeks.samples import MAX_SAMPLES, RANDOM_SAMPLES, load_samples, parse_input_shape

GREY = Preprocessing(1, 8, 8, (0.5,), (0.25,), ("a", "b"))


def npz(path, *arrays, **named):
    np.savez(path, *arrays, **named)
    return path


def test_an_npz_is_fed_as_it_is(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 1, 8, 8))
    samples = load_samples(npz(tmp_path / "c.npz", values), None, GREY, None)
    assert samples.inputs.dtype == np.float32
    np.testing.assert_array_equal(samples.inputs, values.astype(np.float32))
    assert samples.real
    assert samples.origin == "3 samples of c.npz"
    many = load_samples(npz(tmp_path / "m.npz", np.zeros((MAX_SAMPLES + 1, 1, 8, 8), np.uint8)), None, None, None)
    assert many.inputs.shape == (MAX_SAMPLES, 1, 8, 8)


def test_a_folder_goes_through_the_preprocessing(tmp_path):
    for index, grey in enumerate((0, 255)):
        Image.new("RGB", (16, 12), (grey,) * 3).save(tmp_path / f"{index}.png")
    samples = load_samples(tmp_path, None, GREY, None)
    assert samples.inputs.shape == (2, 1, 8, 8)
    assert [float(image.mean()) for image in samples.inputs] == [-2.0, 2.0]
    assert samples.origin.startswith("2 images of")


def test_the_checkpoints_own_sample_then_noise():
    bytes_ = np.full((2, 1, 8, 8), 255, np.uint8)
    own = load_samples(None, bytes_, GREY, None)
    assert own.real
    assert float(own.inputs.max()) == float(own.inputs.min()) == 2.0
    for preprocessing, shape in ((GREY, None), (None, (1, 8, 8))):
        noise = load_samples(None, None, preprocessing, shape)
        assert noise.inputs.shape == (RANDOM_SAMPLES, 1, 8, 8)
        assert not noise.real
    assert not load_samples(None, bytes_[:0], GREY, None).real  # an empty sample is none


def test_nothing_known_and_contradictions(tmp_path):
    with pytest.raises(DataError, match=r"input size is unknown: pass --input CxHxW .*or --calib"):
        load_samples(None, None, None, None)
    with pytest.raises(DataError, match="--input 3×8×8 contradicts the checkpoint, which takes 1×8×8"):
        load_samples(None, None, GREY, (3, 8, 8))
    with pytest.raises(DataError, match="are too large to make up"):
        load_samples(None, None, None, (65536, 65536, 65536))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((2, 3, 8, 8))], "shape 2×3×8×8; the network takes N×1×8×8"),
        ([np.zeros((2, 1, 8, 9))], "shape 2×1×8×9; the network takes"),
        ([np.zeros((1, 8, 8))], "shape 1×8×8; legal: numbers, N×C×H×W"),
        ([np.zeros(())], r"shape \(\); legal: numbers"),
        ([np.zeros((0, 1, 8, 8))], "shape 0×1×8×8; legal"),
        ([np.zeros((2, 1, 8, 8), bool)], "bool array"),
        ([np.zeros((2, 1, 8, 8), complex)], "complex128 array"),
        ([np.full((2, 1, 8, 8), "a")], "<U1 array"),
        ([np.full((2, 1, 8, 8), None)], "not a readable .npz of plain numbers"),
        ([np.full((2, 1, 8, 8), np.nan)], "holds NaN, infinity"),
        ([np.full((2, 1, 8, 8), np.inf)], "holds NaN, infinity"),
        ([np.full((2, 1, 8, 8), 1e300)], "numbers beyond float32"),
        ([np.zeros((2, 1, 8, 8))] * 2, "holds 2 arrays; legal: exactly one"),
        ([], "holds 0 arrays"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    path = npz(tmp_path / "calib.npz", *arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_samples(path, None, GREY, None)
    assert str(path) in str(caught.value)


def test_files_that_are_no_npz(tmp_path):
    good = io.BytesIO()
    np.savez_compressed(good, np.random.default_rng(0).normal(size=(2, 1, 8, 8)))
    flipped = bytearray(good.getvalue())
    flipped[len(flipped) // 2] ^= 255
    cases = [
        ("none.npz", None, "no such file or folder"),
        ("array.npy", b"\x93NUMPY", "legal: an .npz with one array"),
        ("empty.npz", b"", "not a readable .npz"),
        ("text.npz", b"hello", "not a readable .npz"),
        ("cut.npz", good.getvalue()[:-30], "not a readable .npz"),
        ("flipped.npz", bytes(flipped), "not a readable .npz"),
    ]
    for name, content, message in cases:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_samples(tmp_path / name, None, GREY, None)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"--calib .*other.npz"):
        load_samples(tmp_path / "other.npz", None, GREY, None)


def test_an_npz_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path):
    path = npz(tmp_path / "huge.npz", np.zeros((2, 1, 8, 8)))
    whole = path.read_bytes()
    entry = whole.rfind(b"PK\x01\x02")  # the central directory; the unpacked size stands 24 bytes on
    path.write_bytes(whole[: entry + 24] + (0xFFFFFFF0).to_bytes(4, "little") + whole[entry + 28 :])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b", b"x")
    whole = path.read_bytes()
    entry = whole.rfind(b"PK\x01\x02")
    path.write_bytes(whole[: entry + 24] + (0xFFFFFFF0).to_bytes(4, "little") + whole[entry + 28 :])
    with pytest.raises(DataError, match=r"unpacks to [0-9,]+ bytes; legal: up to"):
        load_samples(path, None, GREY, None)


def test_folders_without_use(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        load_samples(tmp_path, None, GREY, None)
    with pytest.raises(DataError, match="an image folder needs the checkpoint's preprocessing"):
        load_samples(tmp_path, None, None, (1, 8, 8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(DataError, match=r"broken.png: cannot be decoded as an image"):
        load_samples(tmp_path, None, GREY, None)


def test_input_shapes():
    assert parse_input_shape("3x32x64") == parse_input_shape("3×32X64") == (3, 32, 64)
    for text in ("", "3", "3x32", "3x32x32x32", "0x8x8", "-1x8x8", "3xax8", "3x8x8.5", "3x99999999x8", "²x8x8"):
        with pytest.raises(DataError, match=re.escape(f"--input {text}: legal: channels x height x width")):
            parse_input_shape(text)
