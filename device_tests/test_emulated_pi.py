"""The emulated Raspberry Pi 4, with 256 MB of RAM: set up over SSH, computed on, and overfilled.

`make device-test` runs it. What it finds is written down as it goes, and becomes docs/results/emulated_pi.md where the
environment variable EDGEKS_TRANSCRIPT names that file. Nothing here is a time on a board.
"""

from __future__ import annotations

import io
import os
import platform
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from emulated_files import PROBES, convmixer, repeated_256, write_files, write_too_large
from rich.console import Console

from edgeks.artefact import REFERENCES
from edgeks.atomic_write import write_text
from edgeks.audit.footprint import footprint
from edgeks.bench.board_machine import BoardMachine
from edgeks.bench.local import LocalMachine, session_config
from edgeks.bench.memory import ram_of
from edgeks.bench.place import BoardPlace
from edgeks.board.examine import clean_boards, examine, set_up
from edgeks.board.report import render
from edgeks.board.ssh import Connection, quote
from edgeks.emulator import boot, build, qemu
from edgeks.errors import EdgeksError, LinkLost
from edgeks.parity import compare_all
from edgeks.target import LiteRtSession

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(1800)]

CPU, MEMORY, RAM_BYTES = "cortex-a72", "256M", 256 << 20
RUNTIMES = ("onnxruntime", "litert")
KERNELS = ("reference", "builtin", "xnnpack")
# What must hold between the board and this machine under the same options, and why it is no more.
EQUAL = ("ONNX Runtime", "LiteRT, xnnpack")  # of int8 files
MIN_INT8_DB, MIN_FP32_DB = 30.0, 100.0
EXPLAINED = """
- **int8 in ONNX Runtime and in LiteRT's XNNPACK: the same bits.** Sums of products are integers, and both machines
  scale and round them alike. The file's own arithmetic (ONNX Runtime unoptimised: through float; LiteRT:
  built-in kernels) rounds elsewhere, here as there: that column says how far the kernels of one runtime are apart.
- **int8 in LiteRT's built-in kernels: one or two steps of the output.** They are other code on Arm than on x86, with
  another rounding in between. The reference kernels are one code: equal for the network of convolutions, additions and
  ReLU. The ConvMixer has GELU besides, whose table LiteRT computes in float on each machine: the likely cause of the
  one step there, which was not traced further.
- **fp32: about a millionth of the output.** Sums are taken in another order, and Arm rounds a multiply-add once.
"""


class Transcript:
    """Markdown, in the order of the sections' numbers."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.sections: dict[int, str] = {}

    def say(self, number: int, title: str, text: str) -> None:
        self.sections[number] = f"## {title}\n\n{text.rstrip()}\n"

    def block(self, number: int, title: str, text: str) -> None:
        self.say(number, title, f"```\n{text.rstrip()}\n```")

    def text(self) -> str:
        seconds = time.monotonic() - self.start
        runtimes = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "ai-edge-litert"))
        head = (
            "# The emulated Raspberry Pi, a transcript\n\n`make device-test` writes this page. An emulated Cortex-A72 "
            f"with {MEMORY}B (QEMU {qemu.version()}), Debian 12 for arm64, reached over SSH; {runtimes} on both sides. "
            f"This machine: {platform.machine()}, {os.cpu_count()} cores; the tests took {seconds:.0f} s of its time, "
            "without building the board. Nothing here says how long anything takes on a board.\n"
        )
        return "\n".join([head, *(self.sections[number] for number in sorted(self.sections))])


@pytest.fixture(scope="module")
def transcript():
    kept = Transcript()
    yield kept
    path = os.environ.get("EDGEKS_TRANSCRIPT")
    if path and len(kept.sections) == 6:
        write_text(Path(path), kept.text())


@pytest.fixture(scope="module")
def board(transcript):
    lines = []
    image = build(lines.append)
    with boot(CPU, MEMORY, cores=2, on_line=lines.append) as running:
        sizes = ", ".join(
            f"{path.name} {path.stat().st_blocks * 512 / 1e6:.0f} MB"
            for path in (image.kernel, image.initrd, image.root, image.runtimes)
        )
        transcript.block(1, "The board", "\n".join([*lines, sizes]))
        yield running


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory):
    return tmp_path_factory.mktemp("wheelhouse")


@pytest.fixture(scope="module")
def ready(board, wheelhouse):
    """The board with both runtimes, set up from wheels: it has no way to any index."""
    (found,) = set_up([board.host], RUNTIMES, wheelhouse)
    assert found.error is None, found.error
    return found


@pytest.fixture(scope="module")
def place(board, ready, wheelhouse):
    with BoardPlace(board.host, wheelhouse) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return [*write_files(folder, convmixer()), *write_files(folder, repeated_256())]


def rendered(examination) -> str:
    console = Console(file=io.StringIO(), width=100)
    render(examination, console)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_doctor_knows_the_bare_board(board, transcript):
    (found,) = examine([board.host])
    assert found.error is None and found.facts is not None
    facts, known = found.facts, found.facts.to_json()
    assert facts.machine == facts.userland == "aarch64" and facts.cores == 2
    assert "Cortex-A72" in str(facts.cpu) and facts.lacks_atomics
    assert 0.7 * RAM_BYTES < known["ram_bytes"] < RAM_BYTES
    assert "Debian GNU/Linux 12" in str(facts.os)
    assert [python.version[:2] for python in facts.pythons] == [(3, 11)]
    assert not facts.pythons[0].packages
    for unknown in ("governor", "temperature_c", "throttle"):
        assert str(getattr(facts, unknown)).startswith("unknown: "), unknown
    assert found.state == "not ready"  # no runtime
    transcript.block(2, "`edgeks doctor`, the bare board", rendered(found))


def test_both_runtimes_are_set_up_from_a_wheelhouse(board, ready, transcript):
    assert set(ready.set_up) == set(RUNTIMES)
    program = (
        "import importlib.metadata as m, platform; "
        "names = [d.name for d in m.distributions() if d.name in ('onnxruntime', 'ai-edge-litert')]; "
        "print(platform.machine(), *(f'{name} {m.version(name)}' for name in names))"
    )
    with Connection(board.host) as connection:
        told = {connection.run(f"{path} -c {quote(program)}").stdout.strip() for path in ready.set_up.values()}
    own = {f"aarch64 {name} {metadata.version(name)}" for name in ("onnxruntime", "ai-edge-litert")}
    assert told == own
    transcript.block(3, "`edgeks doctor --setup --wheelhouse`, and the board after it", rendered(ready))


def variants(file):
    """Ways to run a file: a name, and the runner's words for it."""
    session = file.target.session
    if not isinstance(session, LiteRtSession):
        yield "ONNX Runtime", {**session_config(session, 1), "runtime": "onnxruntime"}
        return
    for kernels in KERNELS:
        yield f"LiteRT, {kernels}", {"threads": 1, "kernels": kernels, "runtime": "litert"}


def test_outputs_are_the_hosts(place, files, transcript):
    rows, faults = [], []
    for file in files:
        form = "onnx" if file.path.suffix == ".onnx" else "tflite"
        sampled = {"model": str(file.path), "samples": str(file.samples)}
        runtime = {"runtime": "onnxruntime" if form == "onnx" else "litert"}
        reference = LocalMachine().outputs(file.path, {**session_config(REFERENCES[form], 1), **runtime, **sampled})
        for name, config in variants(file):
            there = place.machine(config["runtime"]).outputs(file.path, {**config, **sampled})
            here = LocalMachine().outputs(file.path, {**config, **sampled})
            assert [output.shape for output in there] == [output.shape for output in here]
            assert len(there[0]) == PROBES
            equal = [all(map(np.array_equal, there, other)) for other in (here, reference)]
            apart = [
                max(float(np.abs(a - b).max()) for a, b in zip(there, other, strict=True))
                for other in (here, reference)
            ]
            parity = [compare_all(other, there) for other in (here, reference)]
            cells = [
                "equal" if same else f"{distance:.2g} apart, {found.sqnr_db:.0f} dB"
                for same, distance, found in zip(equal, apart, parity, strict=True)
            ]
            agreement = parity[1].top1_agreement
            is_int8 = "_int8." in file.path.name
            if is_int8 and name in EQUAL:
                right = equal[0]
            else:
                right = parity[0].sqnr_db > (MIN_INT8_DB if is_int8 else MIN_FP32_DB)
            if not right or agreement < 1:
                faults.append((file.path.name, name, cells))
            rows.append(f"| {file.path.name} | {name} | {cells[0]} | {cells[1]} | {agreement:.0%} |")
    head = (
        "| file | runtime | same options here | the file's own arithmetic here | same top-1 |\n|---|---|---|---|---|\n"
    )
    transcript.say(
        4, f"Outputs of {PROBES} inputs, the board's against this machine's", head + "\n".join(rows) + "\n" + EXPLAINED
    )
    assert not faults, faults


def test_ram_is_what_the_footprint_predicts(place, files, transcript):
    rows = []
    for file in [file for file in files if file.path.name.startswith("repeated")]:
        form = "onnx" if file.path.suffix == ".onnx" else "tflite"
        wanted = {"onnx": ("ort-default", "ort-lean"), "tflite": ("litert-xnnpack", "litert-builtin")}[form]
        predicted = {row.profile.name: row for row in footprint(file.path, machine="arm64").ram}
        for name in wanted:
            row = predicted[name]
            profile = row.profile
            config = {**session_config(profile.session, 1), "runtime": profile.runtime, "warmup": 1, "runs": 2}
            measured = ram_of(place.machine(profile.runtime).run(file.path, config), profile)
            rows.append((file.path.name, name, row.predicted.run_peak.total_bytes, measured))
    table = "\n".join(
        f"| {file} | {name} | {predicted / 1e6:.1f} | {found.run_peak_bytes / 1e6:.1f} | "
        f"{found.run_anonymous_bytes / 1e6:.1f} | {found.run_mapped_bytes / 1e6:.1f} |"
        for file, name, predicted, found in rows
    )
    head = "| file | profile | predicted | **measured** | of it anonymous | mapped |\n|---|---|---|---|---|---|\n"
    transcript.say(5, "RAM at the peak of inferences, MB above the process with the runtime imported", head + table)
    for file, name, predicted, found in rows:
        assert found.machine == "aarch64"
        assert abs(predicted - found.run_peak_bytes) < 2.5e6 + 0.1 * predicted, (file, name)


def test_a_model_too_large_is_out_of_memory_and_no_lost_link(board, place, tmp_path, transcript):
    path = write_too_large(tmp_path)
    machine = place.machine("litert")
    assert isinstance(machine, BoardMachine)
    config = {"threads": 1, "kernels": "xnnpack", "runtime": "litert", "warmup": 0, "runs": 1}
    with pytest.raises(EdgeksError, match="out of memory") as caught:
        machine.run(path, config)
    assert not isinstance(caught.value, LinkLost)
    with Connection(board.root) as connection:
        dmesg = connection.run("dmesg | grep -i 'out of memory' | tail -1").stdout.strip()
        left = connection.run("ps -e -o comm= | grep -c '^python' ; true").stdout.strip()
    assert "python" in dmesg and left == "0"
    # The link is as good as before, and the kernels that the file itself holds have room.
    stream = machine.run(path, {**config, "kernels": "builtin"})
    assert stream.ended and len(stream.samples) == 1
    size = f"{path.name}, {path.stat().st_size / 1e6:.0f} MB"
    text = f"{size}, XNNPACK:\nerror: {caught.value}\n{dmesg}\n\n{size}, built-in kernels: runs"
    transcript.block(6, f"A file too large for {MEMORY}B", text)


def test_cleaned_it_is_as_it_was(board, place, ready):
    (found,) = clean_boards([board.host])
    assert found.error is None and found.removed
    with Connection(board.host) as connection:
        left = connection.run("ls -A ~ ~/.cache 2>/dev/null; true").stdout.split()
    assert not [name for name in left if "edgeks" in name], left
