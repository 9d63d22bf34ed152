"""Shared by all tests: property tests have no deadline (no test asserts a time), torch computes with one thread."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from exporter_registry import keep_the_exporter_s_registry
from hypothesis import HealthCheck, settings
from warm_edgeks import warm_edgeks

from edgeks import exporter

common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("edgeks", max_examples=60, derandomize=True, **common)
settings.register_profile("fuzz", max_examples=1000, derandomize=False, **common)
settings.load_profile("edgeks")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """A folder for the PATH with an `edgeks` that starts at once."""
    with tempfile.TemporaryDirectory() as folder, warm_edgeks(Path(folder)) as binaries:
        yield binaries


def pytest_runtest_setup() -> None:
    """Networks whose weights a test does not seed are the same in every run, in whatever order the tests come."""
    torch.manual_seed(0)


keep_the_exporter_s_registry()
exporter.DELEGATION_SECONDS = 0.0  # as few runs as there may be: no test asserts a time
