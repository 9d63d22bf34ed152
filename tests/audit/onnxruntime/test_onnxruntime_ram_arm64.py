"""RAM in ONNX Runtime on arm64 as predicted, held against figures that were measured on another machine.

MEASURED was read with edgeks/bench/runner.py on an emulated Cortex-A72 (qemu-system-aarch64 -M virt -cpu cortex-a72,
1 GiB, Debian 12 with Python 3.11 and Linux 6.1, transparent huge pages on request only): ONNX Runtime 1.31.1, one
thread, five inferences. Emulation changes times, not what is resident. docs/results/arm64.md has more.
"""

import pytest
from small_graphs import save
from test_onnxruntime_ram import FILES, predicted

MB = 1_000_000
# File, profile: run peak, and anonymous memory after it; MB above the process ahead of loading.
MEASURED = {
    ("fp32", "ort-default"): (24.96, 17.44),
    ("fp32", "ort-unfolded"): (13.19, 5.53),
    ("fp32", "ort-no-prepacking"): (13.66, 5.70),
    ("QDQ", "ort-default"): (26.34, 18.05),
    ("QDQ", "ort-no-prepacking"): (16.24, 8.04),
    ("QDQ, zero point 1", "ort-default"): (13.82, 5.53),
    ("QDQ, u8 kernels", "ort-default"): (13.86, 5.57),
    ("QDQ, large activations", "ort-default"): (19.60, 11.96),
    ("QDQ, large activations", "ort-no-prepacking"): (31.56, 23.60),
    ("loop", "ort-default"): (10.02, 2.29),
    ("tiny", "ort-default"): (10.65, 2.34),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arm64")
    names = sorted({name for name, _ in MEASURED})
    return {name: save(FILES[name](), folder / f"{index}.onnx") for index, name in enumerate(names)}


@pytest.mark.parametrize(("name", "profile"), MEASURED)
def test_parts_are_as_measured_on_arm64(files, name, profile):
    peak, anonymous = MEASURED[name, profile]
    parts = predicted(files[name], profile, "arm64").run_peak
    # Of two runs of one file, one may have 0.6 MB more of the runtime's code resident.
    assert parts.total_bytes == pytest.approx(peak * MB, abs=0.8 * MB)
    own = anonymous * MB - parts.heap_bytes - parts.packed_bytes - parts.arena_bytes  # the runtime's
    assert 2.1 * MB <= own <= 2.8 * MB
