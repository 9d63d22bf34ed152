"""Which wheels a board gets: the host's versions where there are some, and a reason that helps where there are none."""

import dataclasses
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from edgeks.board.facts import BoardFacts, BoardPython, Libc, Unknown
from edgeks.board.probe import read_facts
from edgeks.board.wheelhouse import platform_tags
from edgeks.board.wheels import DISTRIBUTIONS, WHEELS, Installable, NotInstallable, installable

PYTHON = BoardPython("/usr/bin/python3", (3, 11, 2), "aarch64", {}, True, False, False, False)
NOTHING = read_facts("@@end\n", 0.0)
BOOKWORM = Libc("glibc", (2, 36))


def board(machine: str = "aarch64", minor: int = 11, libc: Libc | Unknown = BOOKWORM) -> BoardFacts:
    python = dataclasses.replace(PYTHON, machine=machine, version=(3, minor, 2))
    return dataclasses.replace(NOTHING, pythons=(python,), libc=libc)


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert", "litert-compiled"])
@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_the_hosts_versions_where_there_are_wheels(runtime: str, minor: int) -> None:
    found = installable(board(minor=minor), runtime)
    assert isinstance(found, Installable)
    assert found.differs == ()
    assert found.pins == tuple(
        (name, version(name)) for name in (DISTRIBUTIONS[runtime][0], *DISTRIBUTIONS[runtime][2])
    )


def test_an_older_python_gets_the_last_versions_that_were_made_for_it_and_it_is_said() -> None:
    found = installable(board(minor=9), "onnxruntime")
    assert isinstance(found, Installable)
    assert found.pins == (("onnxruntime", "1.19.2"), ("numpy", "2.0.2"))
    assert found.differs[0] == f"onnxruntime 1.19.2 (here {version('onnxruntime')})"


def test_tflite_runtime_gets_the_numpy_that_it_was_built_for_and_an_older_release_for_an_older_glibc() -> None:
    for machine in ("aarch64", "armv7l", "x86_64"):
        found = installable(board(machine), "tflite-runtime")
        assert isinstance(found, Installable)
        assert found.pins == (("tflite-runtime", "2.14.0"), ("numpy", "1.26.4"))
    bullseye = installable(board("armv7l", 9, Libc("glibc", (2, 31))), "tflite-runtime")
    assert isinstance(bullseye, Installable)
    assert bullseye.version == "2.13.0"


@pytest.mark.parametrize(
    ("facts", "runtime", "words"),
    [
        (board("armv7l"), "onnxruntime", "this system is armv7l; a 64-bit system on the same board has all runtimes"),
        (board("armv6l"), "tflite-runtime", "no runtime has wheels for ARMv6"),
        (
            board(libc=Libc("musl", (1, 2))),
            "litert",
            "this system has musl 1.2, and the wheels of ai-edge-litert are for glibc",
        ),
        (board(libc=Libc("glibc", (2, 24))), "litert", "needs glibc 2.27, and this system has glibc 2.24"),
        (board(libc=Unknown("no ldd")), "litert", "its C library is not known: no ldd"),
        (board(minor=13), "tflite-runtime", "Python 3.9 to 3.11 on aarch64, and /usr/bin/python3 is Python 3.13.2"),
        (board(minor=13), "tflite-runtime", "runtime litert runs the same files"),
        (board(minor=7), "onnxruntime", "Python 3.7.2; the runner needs 3.9 or later"),
        (dataclasses.replace(NOTHING, pythons=()), "onnxruntime", "there is no python3"),
    ],
)
def test_no_wheel_says_why_and_what_would_work(facts: BoardFacts, runtime: str, words: str) -> None:
    found = installable(facts, runtime)
    assert isinstance(found, NotInstallable)
    assert words in found.reason


def test_of_several_pythons_the_one_nearest_to_the_hosts_versions_is_chosen() -> None:
    old = dataclasses.replace(PYTHON, path="/usr/bin/python3.9", version=(3, 9, 2))
    new = dataclasses.replace(PYTHON, path="/usr/local/bin/python3.12", version=(3, 12, 1))
    facts = dataclasses.replace(NOTHING, pythons=(old, new), libc=Libc("glibc", (2, 31)))
    found = installable(facts, "onnxruntime")
    assert isinstance(found, Installable)
    assert found.python is new


def test_platform_tags_end_at_the_boards_c_library() -> None:
    tags = platform_tags("aarch64", Libc("glibc", (2, 31)))
    assert tags[0] == "manylinux_2_31_aarch64"
    assert "manylinux_2_17_aarch64" in tags
    assert "manylinux2014_aarch64" in tags
    assert "manylinux_2_34_aarch64" not in tags


@pytest.mark.parametrize("distribution", sorted({row.distribution for row in WHEELS}))
def test_the_table_is_what_the_package_index_has(distribution: str, tmp_path: Path) -> None:
    """One look at the index: pip lists what it finds when it is asked for a version that does not exist."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-vv",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(tmp_path),
    ]
    command += ["--platform", "manylinux_2_28_aarch64", "--python-version", "3.11", f"{distribution}==0.0.0.1"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    pattern = re.compile(rf"{distribution.replace('-', '_')}-([0-9.]+)-cp3(\d+)-cp3\d+-([\w.]+)\.whl")
    wheels = set(pattern.findall(listed))
    if not wheels:
        pytest.skip("no package index within reach")
    for row in (row for row in WHEELS if row.distribution == distribution):
        for machine in row.machines:
            if (distribution, machine) == ("numpy", "armv7l"):
                continue  # at piwheels.org, which this index is not
            newest = row.last or max((v for v, _, _ in wheels), key=lambda v: tuple(map(int, v.split("."))))
            linux = [wheel for wheel in wheels if re.search(r"(?<!musl)linux", wheel[2])]
            for minor in range(row.pythons[0], row.pythons[1] + 1):
                for release in (row.first, newest):
                    tags = [tag for v, python, tag in linux if (v, python) == (release, str(minor)) and machine in tag]
                    assert tags, f"{distribution} {release} has no wheel for Python 3.{minor} on {machine}"
                    assert any(_glibc(tag) <= row.glibc for tag in tags), f"{distribution} {release}: {tags}"


def _glibc(tags: str) -> tuple[int, int]:
    """manylinux_2_27_aarch64.manylinux_2_28_aarch64 → (2, 27): several tags: it runs where any of them does."""
    old = {"manylinux2014": (2, 17), "manylinux2010": (2, 12), "manylinux1": (2, 5)}
    found = [old[word] for word in re.findall(r"manylinux\d+", tags)]
    return min(found + [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)", tags)])
