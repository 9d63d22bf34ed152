"""The program of every profile runs as it is, and says every option of the session."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from networks import SharedConvs, checkpoint_of, randomise_batch_norm, smooth_samples

import edgeks
from edgeks.advice.rows import Artefact
from edgeks.advice.snippet import snippet
from edgeks.artefact import described_interface
from edgeks.runtime_profile import COMPILED, PROFILES, Profile
from edgeks.target import LiteRtSession, Session, load_target

SHAPE = (3, 8, 8)
TFLITE = [profile for profile in PROFILES["tflite"] if profile.runtime != "tflite-runtime"]  # not in this Python
EVERY = Profile(
    "all",
    "",
    "onnxruntime",
    Session(
        2, "extended", ("ConvBNFusion",), (("session.disable_prepacking", "1"),), arena=False, memory_pattern=False
    ),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A float file of each format, in a folder whose name takes quoting."""
    folder = tmp_path_factory.mktemp("a") / 'of "two" words'
    folder.mkdir()
    checkpoint = checkpoint_of(randomise_batch_norm(SharedConvs(), smooth_samples((16, *SHAPE))), SHAPE)
    return {
        name: edgeks.export(checkpoint, folder / f"net.{name}", load_target(name)).path for name in ("onnx", "tflite")
    }


def artefact(path, *, described=True):
    kind = path.suffix[1:]
    interface = described_interface(path) if described else None
    return Artefact(path, "", kind, load_target(kind), None, True, 0, {}, {}, {}, interface)


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("profile", [*PROFILES["onnx"], *TFLITE, EVERY], ids=lambda p: p.name)
def test_the_program_runs_as_it_is(files, profile, described, tmp_path):
    file = files["onnx" if isinstance(profile.session, Session) else "tflite"]
    program = tmp_path / "program.py"
    program.write_text(snippet(artefact(file, described=described), profile), encoding="utf-8")
    home = {**os.environ, "HOME": str(tmp_path)}
    for _ in range(2 if profile.runtime == COMPILED else 1):  # again with the weight cache that it has left
        done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=home, check=True)
        shown = [float(n) for n in done.stdout.replace("[", " ").replace("]", " ").split()]
        assert len(shown) == 5 and np.isfinite(shown).all()
    caches = [path for path in tmp_path.rglob("*") if path.parent.name == "edgeks"]
    assert [path.suffix for path in caches] == ([".xnnpack"] if profile.runtime == COMPILED else [])


def test_every_option_of_a_session_is_in_the_program(files):
    program = snippet(artefact(files["onnx"]), EVERY)
    for text in (
        "intra_op_num_threads = 2",
        "ORT_ENABLE_EXTENDED",
        '"ConvBNFusion"',
        '"session.disable_prepacking", "1"',
        "enable_cpu_mem_arena = False",
        "enable_mem_pattern = False",
    ):
        assert text in program
    # A new option has to be written into the program: add it there, and here.
    known = {"threads", "graph_optimization", "disabled_optimizers", "config", "arena", "memory_pattern"}
    assert {field.name for field in dataclasses.fields(Session)} == known
    assert {field.name for field in dataclasses.fields(LiteRtSession)} == {"threads", "kernels"}


def test_words_of_a_file_do_not_become_code(files):
    made = artefact(files["onnx"])
    hostile = dataclasses.replace(made.interface.inputs[0], meaning="x\nprint('code')", name='a"]); print("code')
    interface = dataclasses.replace(made.interface, inputs=(hostile,))
    program = snippet(dataclasses.replace(made, interface=interface), EVERY)
    assert not [line for line in program.splitlines() if line.startswith("print('code')")]
    compile(program, "program.py", "exec")
    assert '"a\\"]); print(\\"code"' in program
