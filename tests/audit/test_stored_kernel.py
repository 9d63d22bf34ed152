"""A kernel read by some channels at a time is the kernel that was stored, whatever axis its channels are on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeks.audit.stored_kernel import MAX_TAPS, StoredKernel
from edgeks.model_files.mapped_file import map_file, pieces, release
from edgeks.sharing.equality import copy_sets


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_reads_what_numpy_reads(shape, data):
    array = np.arange(np.prod(shape), dtype=np.int8).reshape(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    channels = data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1))
    zero_point = np.arange(shape[axis]) - 2 if data.draw(st.booleans()) else None
    kernel = StoredKernel(lambda: array, array.shape, array.dtype, axis, zero_point)
    expected = np.moveaxis(array, axis, 0)
    if zero_point is not None:
        expected = expected.astype(np.int32) - zero_point.reshape(-1, *[1] * (array.ndim - 1))
    assert kernel.shape == expected.shape
    np.testing.assert_array_equal(kernel[np.array(channels)], expected[channels])
    np.testing.assert_array_equal(kernel[1:3], expected[1:3])
    np.testing.assert_array_equal(kernel[...], expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_copies_of_mapped_kernels_in_pieces(axis, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeks.audit.stored_kernel.PIECE_BYTES", 999)
    monkeypatch.setattr("edgeks.sharing.equality.CHUNK_ELEMENTS", 100)
    first = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    factors = np.linspace(0.5, 3, first.shape[axis], dtype=np.float32)
    stored = [first, first * (factors[:, None] if axis == 0 else factors), first[::-1]]
    (tmp_path / "kernels").write_bytes(b"odd" + b"".join(array.tobytes() for array in stored))

    def load(index):
        content = np.frombuffer(map_file(tmp_path / "kernels"), np.uint8, first.nbytes, 3 + index * first.nbytes)
        return content.view(np.float32).reshape(first.shape)

    kernels = [StoredKernel(lambda index=index: load(index), first.shape, first.dtype, axis) for index in range(3)]
    assert copy_sets(kernels) == [(0, 1)]


def test_what_is_not_compared():
    def kernel(shape, dtype=np.float32, axis=0):
        return StoredKernel(lambda: np.zeros(1), shape, np.dtype(dtype), axis).comparable

    assert kernel((2, MAX_TAPS)) and kernel((64, 64), axis=1)
    assert not kernel((2, MAX_TAPS + 1))
    assert not kernel((1 << 17, 1 << 10), axis=1)
    assert not kernel((4, 4), bool) and not kernel((4,)) and not kernel((4, 1))


def test_released_pages_are_read_again_and_other_arrays_stay(tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 64)
    mapped = np.frombuffer(map_file(tmp_path / "file"), np.uint8)
    total = int(mapped.sum())
    release(mapped.reshape(128, 128).T)
    assert int(mapped.sum()) == total
    assert b"".join(pieces(mapped)) == (tmp_path / "file").read_bytes()
    own = np.ones(5)
    release(own[1:])
    assert own.sum() == 5
