"""RAM of .tflite files on arm64 as predicted, held against figures that were measured on another machine.

MEASURED was read with edgeks/bench/runner.py on an emulated Cortex-A72 (qemu-system-aarch64 -M virt -cpu cortex-a72,
1 GiB, Debian 12 with Python 3.11 and Linux 6.1, transparent huge pages on request only): LiteRT 2.3.0, tflite-runtime
2.14.0, one thread, five inferences. Emulation changes times, not what is resident. docs/results/arm64.md has more.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_litert_ram import PROFILE, chain, predicted
from test_tflite_arena import INT8, INT32, Graph

from edgeks.audit.tflite import gemmlowp
from edgeks.audit.tflite.ram import BASELINES, predict_litert
from edgeks.model_files.tflite_file import read_tflite

DATA = Path(__file__).parents[2] / "data"
MB = 1_000_000
# File, profile: run peak, anonymous memory after it, pages of the file; MB above the process ahead of loading.
MEASURED = {
    ("static", "litert-xnnpack"): (8.99, 3.38, 2.37),
    ("static", "litert-builtin"): (6.83, 1.82, 2.37),
    ("static", "litert-reference"): (5.81, 0.93, 2.37),
    ("static", "tflite-runtime"): (6.88, 0.97, 2.37),
    ("dynamic", "litert-xnnpack"): (9.45, 3.53, 2.37),
    ("dynamic", "litert-builtin"): (7.25, 2.05, 2.37),
    ("dynamic", "tflite-runtime"): (6.81, 1.57, 2.37),
    ("float", "litert-xnnpack"): (23.47, 10.66, 9.45),
    ("float", "litert-builtin"): (16.82, 4.60, 9.45),
    ("float", "litert-reference"): (13.14, 1.05, 9.45),
    ("float", "tflite-runtime"): (22.46, 10.21, 9.45),
    ("litert_torch_static.tflite", "litert-builtin"): (3.62, 0.93, 0.02),
    ("litert_torch_static.tflite", "tflite-runtime"): (3.18, 0.48, 0.02),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arm64")
    made = {kind: chain(folder / f"{kind}.tflite", kind) for kind in ("static", "dynamic", "float")}
    return {**made, "litert_torch_static.tflite": DATA / "litert_torch_static.tflite"}


@pytest.mark.parametrize(("name", "profile"), MEASURED)
def test_parts_are_as_measured_on_arm64(files, name, profile):
    peak, anonymous, mapped = MEASURED[name, profile]
    parts = predicted(files[name], profile, "arm64").run_peak
    assert parts.total_bytes == pytest.approx(peak * MB, abs=0.4 * MB)
    assert parts.mapped_bytes == pytest.approx(mapped * MB, abs=0.02 * MB)
    own = anonymous * MB - parts.heap_bytes - parts.packed_bytes - parts.arena_bytes  # the runtime's
    low, high = (0.3, 0.6) if profile == "tflite-runtime" else (0.8, 1.1)
    assert low * MB <= own <= high * MB


def test_the_process_without_a_model_is_smaller_than_on_x86_64():
    runtimes = {profile.runtime for profile in PROFILE.values()}
    assert all(BASELINES["arm64"][runtime] < BASELINES["x86-64"][runtime] for runtime in runtimes)


def test_gemmlowp_packs_parts_that_fit_its_cache():
    # 64 columns of depth 4608: 63 would fit three quarters of 384 KiB, so two parts of 32; 51 rows fit the rest, so
    # 512 rows are eleven parts of 47, in tiles 48; a sum of four bytes per row and column, and the part's products.
    expected = 4608 * (32 + 48) + 4 * (32 + 64 - 16) + 4 * 32 * 48
    assert gemmlowp.block_bytes(512, 4608, 64) == gemmlowp.block_bytes(64, 4608, 512) == expected
    assert gemmlowp.block_bytes(512, 4608, 64) < 384 * 1024


def test_with_several_threads_no_kernel_is_transposed_on_arm64(files):
    profile = PROFILE["litert-builtin"]
    four = replace(profile, session=replace(profile.session, threads=4))
    model, size = read_tflite(files["float"]), files["float"].stat().st_size
    x86, arm = (predict_litert(model, size, four, machine).run_peak for machine in ("x86-64", "arm64"))
    assert arm.total_bytes == pytest.approx(17.02 * MB, abs=0.4 * MB)
    assert x86.arena_bytes > 4 * 4 * 256 * 9 * 256 > arm.arena_bytes  # on x86-64 each of the four layers has its own


# Depth, units, with a bias: whether tflite-runtime 2.14 died of SIGSEGV in the emulated machine.
DIES = {
    (4, 64, False): True,
    (64, 2, False): True,
    (64, 64, False): False,
    (4, 64, True): False,
    (64, 2, True): False,
}


@pytest.mark.parametrize(("depth", "units", "has_bias"), DIES)
def test_a_linear_layer_without_a_bias_that_kills_tflite_runtime_is_said(tmp_path, depth, units, has_bias):
    graph = Graph()
    x = graph.tensor("x", (1, depth), INT8, None, [0.1])
    kernel = graph.constant(np.ones((units, depth), np.int8), INT8, np.full(units, 0.01))
    bias = [graph.constant(np.zeros(units, np.int32), INT32, np.full(units, 0.001))] if has_bias else []
    y = graph.tensor("y", (1, units), INT8, None, [0.1])
    graph.node("FULLY_CONNECTED", [x, kernel, *bias], [y])
    path = graph.write(tmp_path / "net.tflite", [x], [y])
    dies = DIES[depth, units, has_bias]
    said = "it dies at operator 0: an int8 FULLY_CONNECTED needs a bias there"
    assert (said in predicted(path, "tflite-runtime", "arm64").notes) == dies
    assert said not in predicted(path, "tflite-runtime").notes
    assert said not in predicted(path, "litert-builtin", "arm64").notes
