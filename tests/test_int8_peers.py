"""benchmarks/int8_peers.py on a network of a few channels: every column is filled, and a chain that crashes says so."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from networks import small_checkpoint


@pytest.fixture(scope="module")
def peers():
    path = Path(__file__).parents[1] / "benchmarks" / "int8_peers.py"
    spec = importlib.util.spec_from_file_location("int8_peers", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["int8_peers"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["int8_peers"]


@pytest.mark.slow
def test_a_row_per_chain(peers):
    torch.manual_seed(0)
    checkpoint = small_checkpoint(peers.SharedVGG(8, 3, classes=3), 32)
    checkpoint.calibration = checkpoint.calibration[:8]
    subject = peers.Subject("tiny", checkpoint, checkpoint.calibration[:4])

    def crashes(folder):
        raise ValueError("no\nsuch thing")

    chains = [
        ("edgeks", lambda folder: peers.edgeks_files(subject, folder, "onnx", "static")),
        ("public", lambda folder: peers.public_files(subject, folder, peers.QuantType.QInt8)),
        ("broken", crashes),
    ]
    broken, edgeks, public = peers.rows(subject, chains, rounds=1)
    assert broken == ("tiny", "broken", "failed: ValueError: no such thing")
    assert (edgeks[1], public[1]) == ("edgeks static", "public")
    assert len(edgeks) == len(public) == len(peers.HEADINGS)
    assert (edgeks[4], public[4]) == ("1 of 3", "3 of 3")
