"""What a board prints → facts; and the script itself, in dash and in BusyBox, with as little around it as can be."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from board_outputs import EMULATED_ARM64, PI_OS_32, printed
from hypothesis import given
from hypothesis import strategies as st

from edgeks.board.facts import Libc, Throttle, Unknown
from edgeks.board.probe import probe_here, read_facts, script

SECTIONS = [line[2:] for line in PI_OS_32.splitlines() if line.startswith("@@") and line != "@@end"]


def test_this_machine_is_read_truthfully() -> None:
    facts = probe_here()
    assert facts.machine == os.uname().machine
    assert facts.cores == os.cpu_count()
    assert isinstance(facts.ram_bytes, int)
    assert facts.ram_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert isinstance(facts.clock_off_s, float)
    assert abs(facts.clock_off_s) < 60
    own = facts.pythons[0]
    assert own.version == sys.version_info[:3]
    assert own.packages["onnxruntime"]
    assert isinstance(facts.disk_free_bytes, int)
    assert json.loads(json.dumps(facts.to_json()))["cores"] == os.cpu_count()


def shells() -> list[list[str]]:
    busybox = shutil.which("busybox")
    found = [["dash"] if shutil.which("dash") else ["sh"], *([[busybox, "sh"]] if busybox else [])]
    return [shell for shell in found if shutil.which(shell[0])]


@pytest.mark.parametrize("shell", shells(), ids=" ".join)
def test_the_script_needs_nothing_but_a_shell(shell: list[str], tmp_path: Path) -> None:
    """No Python, no getconf, no dpkg, no home folder: every section is there, and says why it lacks what it lacks."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("cat", "tr", "grep", "sort", "head", "tail", "df", "date", "uname", "od"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    text = script()
    command = [shutil.which(shell[0]) or "", *shell[1:], "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tools)}, timeout=60, check=True)
    facts = read_facts(done.stdout, time.time())
    assert facts.pythons == ()
    assert facts.userland == os.uname().machine  # from the ELF header of /bin/sh
    assert facts.folder == Unknown("this user has no home folder")
    assert facts.index_reached == Unknown("there is no Python to ask with")
    assert facts.machine == os.uname().machine


def test_the_folder_is_where_the_user_names_it(tmp_path: Path) -> None:
    def folder(name: str | None, **environment: str) -> tuple[object, object]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment}
        text = script(name).replace("section pythons", "section pythons; section end; exit")
        done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, env=env, timeout=60, check=True)
        facts = read_facts(done.stdout, 0.0)
        return facts.folder, facts.folder_writable

    assert folder(None) == (f"{tmp_path}/.cache/edgeks/board", True)
    assert folder(None, XDG_CACHE_HOME=f"{tmp_path}/x y") == (f"{tmp_path}/x y/edgeks/board", True)
    assert folder("~/it's here") == (f"{tmp_path}/it's here", True)
    assert folder("models") == (f"{tmp_path}/models", True)
    (tmp_path / "file").touch()
    assert folder("~/file/x") == (f"{tmp_path}/file/x", Unknown(f"{tmp_path}/file is in the way: it is no folder"))
    assert folder("/proc/edgeks")[1] is False or os.getuid() == 0


def test_raspberry_pi_os_with_32_bit_programs() -> None:
    facts = read_facts(PI_OS_32, now=1_000_000_000.0 + 3 * 365 * 86400)
    assert facts.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert (facts.machine, facts.userland) == ("aarch64", "armv7l")
    assert facts.libc == Libc("glibc", (2, 36))
    assert (facts.cpu, facts.cores) == ("Cortex-A72", 4)
    assert (facts.governor, facts.clock_mhz, facts.clock_range_mhz) == ("ondemand", 600.0, (600.0, 1800.0))
    assert facts.temperature_c == 71.575
    assert isinstance(facts.throttle, Throttle)
    assert facts.throttle.now == ("under-voltage", "throttled")
    assert facts.throttle.since_boot == ("under-voltage", "throttled")
    assert facts.swap_used_bytes == 1024 * (102396 - 50000)
    assert facts.disk_free_bytes == 1024 * 300000
    assert facts.clock_off_s == -3 * 365 * 86400
    assert isinstance(facts.index_reached, Unknown)
    assert not facts.lacks_atomics  # it is said of 64-bit programs only: the others have no CompiledModel
    assert facts.pythons[0].machine == "armv7l"
    assert not facts.pythons[0].has_ensurepip


def test_an_emulated_arm64_machine() -> None:
    """Captured: BusyBox's shell, Debian's Python without pip and ensurepip, no getconf, no ldd, no network."""
    facts = read_facts(EMULATED_ARM64, now=0.0)
    assert (facts.machine, facts.userland, facts.cpu, facts.cores) == ("aarch64", "aarch64", "Cortex-A72", 1)
    assert facts.libc == Libc("glibc", (2, 36))
    assert facts.lacks_atomics
    assert [python.path for python in facts.pythons] == ["/usr/bin/python3"]
    assert isinstance(facts.temperature_c, Unknown)
    assert isinstance(facts.throttle, Unknown)
    assert "only Raspberry Pi tells" in facts.throttle.reason


@pytest.mark.parametrize(
    ("text", "libc"),
    [
        ("glibc 2.36", Libc("glibc", (2, 36))),
        ("ldd (Debian GLIBC 2.28-10+deb10u2) 2.28\nCopyright (C) 2018", Libc("glibc", (2, 28))),
        ("ldd (GNU libc) 2.39\nCopyright (C) 2024", Libc("glibc", (2, 39))),
        ("musl libc (aarch64)\nVersion 1.2.4", Libc("musl", (1, 2))),
        ("sh: ldd: not found", Unknown("neither getconf, ldd nor Python says it")),
    ],
)
def test_the_c_library(text: str, libc: Libc | Unknown) -> None:
    assert read_facts(printed(libc=text), 0.0).libc == libc


@pytest.mark.parametrize(
    ("text", "bits"),
    [("throttled=0x0", 0), ("50005", 0x50005), ("0", 0), ("throttled=0x80000", 0x80000)],
)
def test_throttling_as_the_tool_and_as_the_firmwares_file_say_it(text: str, bits: int) -> None:
    assert read_facts(printed(throttled=text), 0.0).throttle == Throttle(bits)


def test_a_tool_that_fails_is_quoted() -> None:
    throttle = read_facts(printed(throttled="VCHI initialization failed"), 0.0).throttle
    assert isinstance(throttle, Unknown)
    assert "'VCHI initialization failed'" in throttle.reason
    assert "group video" in throttle.reason


def test_cores_of_two_kinds_have_the_features_of_both() -> None:
    text = (
        "CPU implementer : 0x41\nCPU part : 0xd05\nCPU part : 0xd0b\nFeatures : fp asimddp\nFeatures : fp asimddp i8mm"
    )
    facts = read_facts(printed(cpuinfo=text), 0.0)
    assert facts.cpu == "Cortex-A55 + Cortex-A76"
    assert facts.features == ("asimddp", "fp")


def test_output_that_was_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="stopped after 'cores'"):
        read_facts(PI_OS_32.partition("@@governor")[0], 0.0)
    with pytest.raises(ValueError, match="printed nothing of it"):
        read_facts("Welcome to fish\n", 0.0)


@given(st.dictionaries(st.sampled_from(SECTIONS), st.text(max_size=60)))
def test_whatever_a_section_holds_becomes_a_fact_or_unknown(sections: dict[str, str]) -> None:
    lines = {name: " ".join(text.split()) for name, text in sections.items()}
    json.dumps(read_facts(printed(**lines), 0.0).to_json())
