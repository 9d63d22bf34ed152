"""CIFAR-10 and CIFAR-100 in both official layouts (python pickles, binary), from a folder that the user names.

Layouts: https://www.cs.toronto.edu/~kriz/cifar.html. A pickle is read without executing anything: see `_Unpickler`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeks.errors import DataError
from edgeks.train.dataset import Labels
from edgeks.train.image_files import Images

PIXEL_BYTES = 3 * 32 * 32
MAX_FILE_BYTES = 1 << 30
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, slots=True)
class _Layout:
    """One official layout: what its files are called and what is in them."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_key: bytes = b""
    names_key: bytes = b""
    label_bytes: int = 1

    @property
    def is_binary(self) -> bool:
        return self.test.endswith(".bin")


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS: dict[int, tuple[_Layout, _Layout]] = {
    10: (
        _Layout("cifar-10-batches-py", _BATCHES, "test_batch", "batches.meta", b"labels", b"label_names"),
        _Layout("cifar-10-batches-bin", tuple(f"{b}.bin" for b in _BATCHES), "test_batch.bin", "batches.meta.txt"),
    ),
    100: (
        _Layout("cifar-100-python", ("train",), "test", "meta", b"fine_labels", b"fine_label_names"),
        _Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2),
    ),
}


@dataclass(frozen=True, slots=True)
class Cifar:
    """Images uint8 N×3×32×32 (RGB), labels int64 N; CIFAR-100's are the fine labels."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: tuple[str, ...]


def read_cifar(folder: Path, classes: int) -> Cifar:
    """Folder with the official files, or its parent → all images. `classes` is 10 or 100.

    The layout is recognised by its test file. A split may have fewer images than the official one.

    Raises:
        DataError: no layout found, or a file that is missing, damaged, of a wrong size, or holds illegal labels.
    """
    where, layout = _find(folder, classes)
    names = _read_names(where / layout.names, layout, classes)
    parts = [_read_batch(where / name, layout, classes) for name in layout.train]
    test_images, test_labels = _read_batch(where / layout.test, layout, classes)
    train_images, train_labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Cifar(
        train_images, train_labels, test_images.copy(), test_labels, names
    )  # a copy: files are read-only views


def is_cifar(folder: Path, classes: int) -> bool:
    """Whether a folder, or its official sub-folder, has the test file of CIFAR-10 or CIFAR-100."""
    return _where(folder, classes) is not None


def layout_text(classes: int) -> str:
    """The legal layouts, for messages."""
    python, binary = _LAYOUTS[classes]
    return (
        f"the folder {python.folder} (with {python.test}) or {binary.folder} (with {binary.test}), "
        "or the folder that one of them is in"
    )


def _find(folder: Path, classes: int) -> tuple[Path, _Layout]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the one that holds the official CIFAR-{classes} files")
    found = _where(folder, classes)
    if found is None:
        raise DataError(f"{folder}: holds no CIFAR-{classes}; legal: {layout_text(classes)}")
    return found


def _where(folder: Path, classes: int) -> tuple[Path, _Layout] | None:
    for layout in _LAYOUTS[classes]:
        for where in (folder, folder / layout.folder):
            if (where / layout.test).is_file():
                return where, layout
    return None


def _read_batch(path: Path, layout: _Layout, classes: int) -> tuple[Images, Labels]:
    images, labels = _read_binary(path, layout) if layout.is_binary else _read_python(path, layout)
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise DataError(f"{path}: holds the label {wrong}; legal: 0 to {classes - 1}")
    return images, labels


def _read_binary(path: Path, layout: _Layout) -> tuple[Images, Labels]:
    """Records of label byte(s), the last of which counts, and 3×32×32 pixel bytes."""
    content, record = _read_file(path), layout.label_bytes + PIXEL_BYTES
    if not content or len(content) % record:
        raise DataError(
            f"{path}: {len(content)} bytes; legal: a positive multiple of {record}, the size of a record; "
            "the file is damaged, get it again"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = rows[:, layout.label_bytes - 1].astype(np.int64)
    return rows[:, layout.label_bytes :].reshape(-1, 3, 32, 32), labels


def _read_python(path: Path, layout: _Layout) -> tuple[Images, Labels]:
    """Pickled dict with `data`, uint8 N×3072, and a list of labels."""
    batch = _unpickle(path)
    data, labels = _get(batch, b"data"), _get(batch, layout.label_key)
    pixels = data.array if isinstance(data, _PickledArray) else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXEL_BYTES:
        raise DataError(f"{path}: 'data' is not an array of bytes, N×{PIXEL_BYTES}; the file is damaged, get it again")
    if isinstance(labels, _PickledArray) and labels.array is not None:
        labels = labels.array.reshape(-1).tolist()
    key = layout.label_key.decode()
    if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise DataError(f"{path}: '{key}' is not a list of whole numbers; the file is damaged, get it again")
    if len(labels) != len(pixels) or not labels:
        raise DataError(f"{path}: {len(pixels)} images and {len(labels)} labels; legal: as many, and at least one")
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def _read_names(path: Path, layout: _Layout, classes: int) -> tuple[str, ...]:
    if not path.is_file():
        return CIFAR10_CLASSES if classes == len(CIFAR10_CLASSES) else tuple(f"class {i}" for i in range(classes))
    if layout.is_binary:
        lines = _read_file(path).decode("utf-8", errors="replace").splitlines()
        names: Sequence[object] = [line.strip() for line in lines if line.strip()]
    else:
        found = _get(_unpickle(path), layout.names_key)
        names = found if isinstance(found, list) else []
    texts = [name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name) for name in names]
    if len(texts) != classes:
        raise DataError(f"{path}: {len(texts)} class names; legal: {classes}")
    return tuple(texts)


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; no file of CIFAR is larger than {MAX_FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _get(batch: dict[Any, Any], key: bytes) -> object:
    """A batch written by Python 2 has byte keys, one written by Python 3 may have text keys."""
    return batch.get(key, batch.get(key.decode()))


def _unpickle(path: Path) -> dict[Any, Any]:
    content = _read_file(path)
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path}: not an official CIFAR pickle ({error}); get the file again") from error
    if not isinstance(batch, dict):
        raise DataError(f"{path}: not an official CIFAR pickle (holds a {type(batch).__name__}); get the file again")
    return batch


class _PickledArray:
    """Takes the place of numpy.ndarray while unpickling: only plain C-ordered arrays of bytes and integers."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _PickledDtype) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array of something else than numbers")
        self.array = np.frombuffer(content, dtype.code).reshape(shape, order="F" if is_fortran else "C")


class _PickledDtype:
    """Takes the place of numpy.dtype while unpickling: bytes and integers."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else str(code)
        if self.code not in ("u1", "i4", "i8"):
            raise pickle.UnpicklingError(f"an array of type {self.code}")

    def __setstate__(self, _: object) -> None:
        """Byte order and the like: little-endian is the only one that occurs."""


def _bytes_of_text(text: str, encoding: str = "latin1") -> bytes:
    """What Python 3 writes as `_codecs.encode` for bytes in pickle protocols up to 2."""
    return text.encode("ascii" if encoding == "ascii" else "latin1")


def _array_of_buffer(content: bytes, dtype: _PickledDtype, shape: tuple[int, ...], order: str) -> _PickledArray:
    """What numpy writes in pickle protocol 5."""
    array = _PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", bytes(content)))
    return array


class _Unpickler(pickle.Unpickler):
    """Knows the names that an official batch contains, each bound to a harmless stand-in; any other name is refused."""

    _STAND_INS = {  # noqa: RUF012  (a constant table)
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
        ("numpy._core.numeric", "_frombuffer"): _array_of_buffer,
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledDtype,
        ("_codecs", "encode"): _bytes_of_text,
    }

    def find_class(self, module: str, name: str) -> object:
        """The stand-in for `module.name`."""
        if (module, name) not in self._STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not executed")
        return self._STAND_INS[module, name]
