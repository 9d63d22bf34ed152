"""CIFAR's official layouts, written tiny; damaged and hostile files."""

import pickle

import numpy as np
import pytest

from edgeks.errors import DataError
from edgeks.train.cifar import CIFAR10_CLASSES, read_cifar

FINE = [f"fine {i}" for i in range(100)]


def rows(count, classes, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, classes, count)


def python2_pickle(data, **lists):
    """The bytes that Python 2's cPickle wrote for an official batch: protocol 2, byte strings, numpy.core."""

    def string(raw):
        return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + len(raw).to_bytes(4, "little")) + raw

    out = b"\x80\x02}(" + string(b"data")
    out += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + string(b"b") + b"tR"
    out += b"(K\x01" + b"(M" + len(data).to_bytes(2, "little") + b"M\x00\x0ct"
    out += (
        b"cnumpy\ndtype\n("
        + string(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + string(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    )
    out += b"K\x00tb\x89" + string(data.tobytes()) + b"tb"
    for key, values in lists.items():
        out += string(key.encode()) + b"](" + b"".join(b"K" + bytes([int(v)]) for v in values) + b"e"
    return out + b"u."


def write_cifar10_python(folder, dump):
    folder.mkdir(parents=True)
    batches = {f"data_batch_{n}": rows(3, 10, n) for n in range(1, 6)} | {"test_batch": rows(4, 10, 9)}
    for name, (data, labels) in batches.items():
        (folder / name).write_bytes(dump(data, labels))
    names = [name.encode() for name in CIFAR10_CLASSES]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names, b"num_vis": 3072}, 2))
    return batches


def write_cifar10_binary(folder):
    folder.mkdir(parents=True)
    batches = {f"data_batch_{n}": rows(3, 10, n) for n in range(1, 6)} | {"test_batch": rows(4, 10, 9)}
    for name, (data, labels) in batches.items():
        record = np.concatenate([labels[:, None].astype(np.uint8), data], axis=1)
        (folder / f"{name}.bin").write_bytes(record.tobytes())
    return batches


def assert_equals(cifar, batches):
    train = [batches[f"data_batch_{n}"] for n in range(1, 6)]
    assert np.array_equal(cifar.train_images.reshape(-1, 3072), np.concatenate([data for data, _ in train]))
    assert np.array_equal(cifar.train_labels, np.concatenate([labels for _, labels in train]))
    assert np.array_equal(cifar.test_images.reshape(-1, 3072), batches["test_batch"][0])
    assert np.array_equal(cifar.test_labels, batches["test_batch"][1])
    assert cifar.train_images.dtype == np.uint8
    assert cifar.train_images.shape == (15, 3, 32, 32)
    assert cifar.train_labels.dtype == np.int64
    assert cifar.train_images.flags.writeable  # torch warns about arrays that are not
    assert cifar.test_images.flags.writeable
    assert cifar.classes == CIFAR10_CLASSES


def by_protocol(protocol):
    return lambda data, labels: pickle.dumps({b"data": data, b"labels": labels.tolist()}, protocol)


DUMPS = {
    "python 2": lambda data, labels: python2_pickle(data, labels=labels),
    "python 3, protocol 2": by_protocol(2),
    "python 3, protocol 4": by_protocol(4),
    "python 3, protocol 5": by_protocol(5),
    "text keys": lambda data, labels: pickle.dumps({"data": np.asfortranarray(data), "labels": labels}, 4),
}


@pytest.mark.parametrize("dump", DUMPS.values(), ids=DUMPS)
def test_cifar10_python(tmp_path, dump):
    batches = write_cifar10_python(tmp_path / "cifar-10-batches-py", dump)
    assert_equals(read_cifar(tmp_path, 10), batches)
    assert_equals(read_cifar(tmp_path / "cifar-10-batches-py", 10), batches)


def test_the_handwritten_python_2_pickle_is_one():
    data, labels = rows(2, 10, 0)
    batch = pickle.loads(python2_pickle(data, labels=labels), encoding="bytes")
    assert np.array_equal(batch[b"data"], data)
    assert batch[b"labels"] == labels.tolist()


def test_cifar10_binary(tmp_path):
    batches = write_cifar10_binary(tmp_path / "cifar-10-batches-bin")
    assert_equals(read_cifar(tmp_path, 10), batches)
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES) + "\n\n")
    assert_equals(read_cifar(tmp_path / "cifar-10-batches-bin", 10), batches)


@pytest.mark.parametrize("layout", ["python", "binary"])
def test_cifar100_reads_the_fine_labels(tmp_path, layout):
    (train, fine), (test, test_fine) = rows(5, 100, 0), rows(2, 100, 1)
    folder = tmp_path / f"cifar-100-{layout}"
    folder.mkdir()
    if layout == "python":
        for name, data, labels in (("train", train, fine), ("test", test, test_fine)):
            batch = {b"data": data, b"fine_labels": labels.tolist(), b"coarse_labels": [0] * len(data)}
            (folder / name).write_bytes(pickle.dumps(batch, 2))
        (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in FINE]}, 2))
    else:
        for name, data, labels in (("train", train, fine), ("test", test, test_fine)):
            record = np.concatenate([np.zeros((len(data), 1), np.uint8), labels[:, None].astype(np.uint8), data], 1)
            (folder / f"{name}.bin").write_bytes(record.tobytes())
        (folder / "fine_label_names.txt").write_text("\n".join(FINE))
    for where in (tmp_path, folder):
        cifar = read_cifar(where, 100)
        assert np.array_equal(cifar.train_images.reshape(-1, 3072), train)
        assert np.array_equal(cifar.train_labels, fine)
        assert np.array_equal(cifar.test_labels, test_fine)
        assert cifar.classes == tuple(FINE)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path, name):
    write_cifar10_python(tmp_path / "b", by_protocol(2))
    (tmp_path / "b" / name).write_bytes(pickle.dumps({b"data": Hostile(tmp_path / "executed")}, 2))
    with pytest.raises(DataError, match=rf"{name}: not an official CIFAR pickle .*open.* which is not executed"):
        read_cifar(tmp_path / "b", 10)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an official CIFAR pickle"),
        (b"no pickle", "not an official CIFAR pickle"),
        (pickle.dumps([1, 2]), r"holds a list"),
        (pickle.dumps({b"labels": [1]}), "'data' is not an array of bytes"),
        (pickle.dumps({b"data": b"abc", b"labels": [1]}), "'data' is not an array of bytes"),
        (pickle.dumps({b"data": np.zeros((1, 3000), np.uint8), b"labels": [1]}), "'data' is not an array of bytes"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}), "an array of type f8"),
        (pickle.dumps({b"data": np.array([{}], object), b"labels": [1]}, 2), "an array of type O8"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}), "'labels' is not a list of whole numbers"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [2**70]}), "not a list of whole numbers"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["1"]}), "not a list of whole numbers"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "2 images and 1 labels"),
        (pickle.dumps({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}), "0 images and 0 labels"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}), "label 10; legal: 0 to 9"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}), "label -1; legal: 0 to 9"),
        (by_protocol(2)(*rows(3, 10, 0))[:-500], "not an official CIFAR pickle"),
    ],
)
def test_damaged_python_batches(tmp_path, content, message):
    write_cifar10_python(tmp_path / "b", by_protocol(2))
    (tmp_path / "b" / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar(tmp_path / "b", 10)
    assert "test_batch" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes; legal: a positive multiple of 3073"),
        (bytes(3074), "3074 bytes; legal: a positive multiple of 3073"),
        (b"\x0a" + bytes(3072), "label 10; legal: 0 to 9"),
    ],
)
def test_damaged_binary_batches(tmp_path, content, message):
    write_cifar10_binary(tmp_path / "b")
    (tmp_path / "b" / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_2\.bin.*{message}"):
        read_cifar(tmp_path / "b", 10)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_cifar(tmp_path / "nowhere", 10)
    with pytest.raises(DataError, match=r"holds no CIFAR-100; legal: the folder cifar-100-python \(with test\) or"):
        read_cifar(tmp_path, 100)
    write_cifar10_binary(tmp_path / "b")
    (tmp_path / "b" / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4\.bin: cannot be read \(No such file"):
        read_cifar(tmp_path / "b", 10)


def test_class_names_must_be_as_many_as_classes(tmp_path):
    write_cifar10_binary(tmp_path / "b")
    (tmp_path / "b" / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: 2 class names; legal: 10"):
        read_cifar(tmp_path / "b", 10)
