"""benchmarks/tflite_peers.py on a small file of the public chain: every column is filled, a crash is a row."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SharedConvs, checkpoint_of, randomise_batch_norm, smooth_samples

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def peers():
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import tflite_peers

        yield tflite_peers
    finally:
        sys.path.remove(folder)
        for name in ("tflite_peers", "int8_peers"):
            sys.modules.pop(name, None)


@pytest.fixture
def subject(peers):
    """The network that the files in tests/data were made of."""
    model = SharedConvs(16, (1, 1, 1))
    randomise_batch_norm(model, smooth_samples((16, 3, 12, 12)), negative=0.3)
    checkpoint = checkpoint_of(model, (3, 12, 12))
    return peers.Subject("tiny", checkpoint, checkpoint.calibration[:4])


def test_a_row_per_chain(peers, subject, tmp_path):
    public = peers.Files("public", DATA / "litert_torch_fp32.tflite", DATA / "litert_torch_static.tflite")

    def crashes():
        raise ValueError("no\nsuch thing")

    chains = [
        ("broken", crashes),
        ("public", lambda: public),
        ("public, restored", lambda: peers.restored_files(public, tmp_path)),
    ]
    broken, whole, restored = peers.rows(subject, chains, rounds=1)
    assert broken == ("tiny", "broken", "failed: ValueError: no such thing")
    assert len(whole) == len(restored) == len(peers.HEADINGS)
    column = peers.HEADINGS.index
    assert (whole[column("copies")], whole[column("needless")]) == ("3 of 3", "2")
    assert (restored[column("copies")], restored[column("needless")]) == ("1 of 3", "0")
    assert int(restored[column("int8 bytes")].replace(",", "")) < public.int8.stat().st_size
    assert float(whole[column("SQNR dB (built-in)")].split()[0]) > 5
    assert "(" in restored[column("int8 ms")] and "(" not in whole[column("int8 ms")]


def test_the_floor(peers, subject):
    unique, channels = 16 * 27 + 16 * 16 * 9 + 5 * 16, 16 + 3 * 16 + 5
    assert peers.floor_bytes(subject.checkpoint.model) == unique + 8 * channels


@pytest.mark.parametrize("name", ["net_b", "sl3_resnet_128"])
def test_its_own_networks(peers, name):
    model = peers.NETWORKS[name]().eval()
    with torch.no_grad():
        assert np.isfinite(model(torch.randn(1, 3, 32, 32)).numpy()).all()
    (group,) = peers.discover(model).groups
    assert len(group.layers) == {"net_b": 8, "sl3_resnet_128": 18}[name]
