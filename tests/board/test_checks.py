"""Facts → checks: each problem is found, and says what to do about it."""

import dataclasses
import re

import pytest
from board_outputs import EMULATED_ARM64, PI_OS_32
from rich.console import Console

from edgeks.board.checks import Check, check, worst
from edgeks.board.facts import BoardFacts, BoardPython, Libc, Throttle, Unknown
from edgeks.board.probe import read_facts
from edgeks.board.report import Examination, render, to_json

PI = read_facts(PI_OS_32, now=1_000_000_000.0 + 3 * 365 * 86400)
READY = dataclasses.replace(
    read_facts(EMULATED_ARM64, now=1795313118.0),
    features=("asimd", "asimddp", "atomics"),
    governor="performance",
    temperature_c=45.0,
    throttle=Throttle(0),
    load=0.05,
    ram_available_bytes=3 << 30,
    ram_bytes=4 << 30,
    disk_free_bytes=20 << 30,
    index_reached="pypi.org",
    pythons=(
        BoardPython(
            "/usr/bin/python3",
            (3, 11, 2),
            "aarch64",
            {"numpy": "2.4.6", "onnxruntime": "1.31.1", "ai-edge-litert": "2.3.0"},
            True,
            False,
            False,
            False,
        ),
    ),
)


def found(facts: BoardFacts, name: str, *runtimes: str) -> Check:
    return {one.name: one for one in check(facts, runtimes)}[name]


def but(**changed: object) -> BoardFacts:
    return dataclasses.replace(READY, **changed)  # type: ignore[arg-type]


def test_a_board_without_problems_is_ready() -> None:
    assert worst(check(READY)) == "ok"
    assert worst(check(READY, ("onnxruntime", "litert"))) == "ok"


@pytest.mark.parametrize(
    ("facts", "name", "status", "advice"),
    [
        (but(governor="ondemand"), "clock", "warn", "scaling_governor; costs power and heat when idle"),
        (but(temperature_c=72.0), "temperature", "warn", "a heat sink or a fan"),
        (but(temperature_c=81.0), "temperature", "fail", "let it cool"),
        (but(throttle=Throttle(0x50000)), "throttling", "warn", "a power supply or cable that holds 5 V"),
        (but(throttle=Throttle(0x50005)), "throttling", "fail", "a power supply or cable that holds 5 V"),
        (but(throttle=Throttle(0x80008)), "throttling", "fail", "cooling"),
        (but(load=1.3), "load", "warn", "something else is running"),
        (but(ram_available_bytes=200 << 20), "RAM", "warn", "stop what else runs"),
        (but(ram_available_bytes=30 << 20), "RAM", "fail", "stop what else runs"),
        (but(swap_bytes=1 << 30, swap_used_bytes=50 << 20), "swap", "warn", "sudo swapoff -a"),
        (but(folder_writable=False), "folder", "fail", "folder = … in the hosts file"),
        (but(folder=Unknown("this user has no home folder")), "folder", "fail", "folder = … in the hosts file"),
        (but(disk_free_bytes=10 << 20), "disk", "fail", "make room"),
        (but(disk_free_bytes=200 << 20, pythons=()), "disk", "warn", "a runtime needs up to"),
        (but(pythons=()), "Python", "fail", "sudo apt install python3"),
        (but(userland="armv7l", machine="aarch64"), "ABI", "warn", "32-bit: tflite-runtime only"),
        (but(userland="armv6l"), "ABI", "warn", "no runtime has wheels for it"),
        (but(libc=Libc("musl", (1, 2))), "ABI", "warn", "no runtime has wheels for musl"),
        (but(clock_off_s=-3e7), "time", "warn", "TLS"),
    ],
)
def test_a_problem_and_what_to_do_about_it(facts: BoardFacts, name: str, status: str, advice: str) -> None:
    one = found(facts, name)
    assert one.status == status
    assert advice in one.advice
    assert [other for other in check(facts) if other.status == "fail"] or status == "warn"


def test_old_pythons_and_one_without_venv() -> None:
    python = dataclasses.replace(READY.pythons[0], version=(3, 7, 3))
    assert found(but(pythons=(python,)), "Python").status == "fail"
    bare = dataclasses.replace(READY.pythons[0], has_venv=False)
    assert found(but(pythons=(bare,)), "Python").advice == "none has the module venv: sudo apt install python3-venv"


def test_runtimes_that_are_there_can_be_set_up_or_cannot() -> None:
    words = found(READY, "runtimes").found
    assert "onnxruntime 1.31.1 in /usr/bin/python3" in words
    assert "tflite-runtime 2.14.0 can be set up" in words
    assert found(READY, "tflite-runtime", "tflite-runtime").status == "fail"
    none = but(pythons=(dataclasses.replace(READY.pythons[0], packages={}),))
    assert found(none, "runtimes").status == "fail"
    assert found(none, "runtimes").advice == "edgeks doctor --host … --setup"
    offline = dataclasses.replace(none, index_reached=Unknown("no network"))
    assert found(offline, "runtimes").advice == "edgeks doctor --host … --setup --wheelhouse"
    assert "onnxruntime cannot be set up (no wheels for armv7l)" in found(PI, "runtimes").found


def test_an_armv8_0_core_has_no_weight_cache_and_no_dotprod() -> None:
    words = found(read_facts(EMULATED_ARM64, 0.0), "CPU").found
    assert "Cortex-A72, 1 core" in words
    assert "no weight cache" in words
    assert "no dotprod" in words
    assert "dotprod" in found(READY, "CPU").found
    assert "no weight cache" not in found(READY, "CPU").found


def test_unknown_facts_say_why_and_are_no_fault() -> None:
    everything = {field.name: Unknown("not told") for field in dataclasses.fields(READY) if field.name != "pythons"}
    checks = check(but(**everything))
    assert all("not told" in one.found for one in checks if one.name not in {"Python", "runtimes", "system"})
    assert {one.name for one in checks if one.status == "fail"} == {"folder"}


def test_the_report_begins_with_the_answer_and_fits_a_terminal() -> None:
    for examination, answer in (
        (Examination("pi", READY, check(READY)), "pi: ready"),
        (Examination("pi", PI, check(PI)), "pi: not ready: throttling, runtimes failed; look at ABI, clock,"),
        (Examination("pi", None, error="pi: port 22 is closed"), "pi: not reached: port 22 is closed"),
        (Examination("pi", None, removed=("venv-x, 3.0 MB",)), "pi: cleaned\nremoved venv-x, 3.0 MB"),
    ):
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        render(examination, console)
        text = console.export_text()
        assert text.startswith(answer)
        assert all(len(line.rstrip()) <= 80 for line in text.partition("what to do")[0].splitlines())


def test_exit_codes() -> None:
    assert Examination("pi", READY, check(READY)).exit_code == 0
    assert Examination("pi", PI, check(PI)).exit_code == 1
    assert Examination("pi", None, error="no").exit_code == 2


def test_json_has_all_of_it() -> None:
    board = to_json((Examination("pi", PI, check(PI)),))["boards"][0]
    assert board["status"] == "not ready"
    assert board["facts"]["throttle"] == {
        "bits": 0x50005,
        "now": ["under-voltage", "throttled"],
        "since_boot": ["under-voltage", "throttled"],
    }
    assert set(board["facts"]["index_reached"]) == {"unknown"}
    assert re.fullmatch("3.11.2", board["facts"]["pythons"][0]["version"])
