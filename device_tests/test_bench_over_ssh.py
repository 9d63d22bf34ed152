"""`edgeks bench` and `edgeks advise` on boards: a real sshd, real runtimes, the command in a process of its own."""

import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from bench_command import SHORT, WEIGHT, command, edgeks_says, hosts_file, make_model, records
from loopback import Loopback

from edgeks.board.host import Host


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "net.onnx")


@pytest.fixture
def here(board: Loopback, tmp_path: Path) -> Host:
    """The board with a folder of this test, and an interpreter that has everything."""
    return replace(board.host, folder=str(tmp_path / "on the board"), python=sys.executable)


def left_on_board(host: Host) -> list[Path]:
    jobs = Path(str(host.folder)) / "jobs"
    return list(jobs.iterdir()) if jobs.exists() else []


def test_a_board_is_measured_and_its_outputs_are_compared(model: Path, here: Host, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    hosts = hosts_file(tmp_path, here)
    code, out, err = edgeks_says(tmp_path, "bench", model, "--hosts", hosts, *SHORT, "--html", page, "--json")
    assert (code, err) == (0, "")
    (record,) = records(tmp_path)
    assert json.loads(out) == record
    (found,) = record["measurements"]
    assert found["machine"] == "board"
    assert [len(one["samples_ms"]) for one in found["repetitions"]] == [4, 4, 4]
    assert found["parity"]["parity"]["sqnr_db"] == 200.0
    assert found["machine_facts"]["userland"]
    assert left_on_board(here) == []
    assert page.read_text().startswith("<!doctype html>") or "<html" in page.read_text()[:200]


def test_external_data_and_real_samples_travel_too(here: Host, tmp_path: Path, model: Path) -> None:
    loaded = onnx.load(model)
    (tmp_path / "big").mkdir()
    onnx.save(loaded, tmp_path / "big" / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    np.savez(tmp_path / "samples.npz", np.random.default_rng(0).normal(size=(5, 3, 4, 4)))
    hosts = hosts_file(tmp_path, here)
    asked = ("--hosts", hosts, *SHORT, "--samples", tmp_path / "samples.npz", "--json")
    code, out, err = edgeks_says(tmp_path, "bench", tmp_path / "big" / "net.onnx", *asked)
    assert (code, err) == (0, "")
    assert json.loads(out)["measurements"][0]["parity"]["parity"]["samples"] == 5


def test_a_board_that_computes_wrong_numbers_is_caught(model: Path, here: Host, tmp_path: Path) -> None:
    """Its interpreter flips the signs of the weights in the file that it is given: a flash that has gone bad."""
    right, wrong = np.float32(WEIGHT).tobytes(), np.float32(-WEIGHT).tobytes()
    bad = tmp_path / "bad_python"
    bad.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys\nif len(sys.argv) > 1 and sys.argv[1].endswith('runner.py'):\n"
        "    for path in pathlib.Path(sys.argv[1]).parents[1].rglob('*.onnx'):\n"
        f"        path.write_bytes(path.read_bytes().replace({right!r}, {wrong!r}))\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n"
    )
    bad.chmod(0o755)
    hosts = hosts_file(tmp_path, replace(here, python=str(bad)))
    code, _, err = edgeks_says(tmp_path, "bench", model, "--hosts", hosts, *SHORT)
    assert code == 1
    assert "board: net.onnx" in err
    assert "it computes wrong numbers" in err


def test_one_board_that_fails_does_not_lose_the_others(model: Path, here: Host, tmp_path: Path) -> None:
    other = replace(here, name="other", options=(*here.options, "-o", "Compression=yes"), folder=f"{here.folder} 2")
    gone = replace(here, name="gone", options=("-o", "Port=1", *here.options))
    code, out, err = edgeks_says(tmp_path, "bench", model, "--hosts", hosts_file(tmp_path, here, gone, other), *SHORT)
    assert code == 2
    assert err.startswith("error: gone")
    assert err.count("\n") == 1
    (record,) = records(tmp_path)
    assert {found["machine"] for found in record["measurements"]} == {"board", "other"}
    assert [failure["machine"] for failure in record["failures"]] == ["gone"]
    assert "✗ gone" in out


def test_two_ways_to_run_a_file_in_turns(model: Path, here: Host, tmp_path: Path) -> None:
    hosts = hosts_file(tmp_path, here)
    code, out, err = edgeks_says(tmp_path, "bench", model, "--hosts", hosts, *SHORT, "--against-threads", "2", "--json")
    assert (code, err) == (0, "")
    (comparison,) = json.loads(out)["comparisons"]
    assert comparison["ratio"] > 0
    assert len(comparison["order"]) == 3


def test_a_board_against_another_of_the_hosts_file(model: Path, here: Host, tmp_path: Path) -> None:
    other = replace(here, name="shelf", options=(*here.options, "-o", "Compression=yes"))
    asked = ("--hosts", hosts_file(tmp_path, here, other), "--against-host", "shelf", *SHORT, "--json")
    code, out, err = edgeks_says(tmp_path, "bench", model, *asked)
    assert (code, err) == (0, "")
    assert [one["machine"] for one in json.loads(out)["measurements"]] == ["shelf", "board"]


def test_an_interrupted_run_keeps_what_it_had_and_leaves_nothing(
    model: Path, here: Host, tmp_path: Path, temp: Path
) -> None:
    hosts = hosts_file(tmp_path, here)
    long = ("--processes", "50", "--runs", "4", "--seconds", "0.2", "--warmup", "1")
    process = command(tmp_path, "bench", model, "--hosts", hosts, *long)
    deadline = time.monotonic() + 60
    while not any(record["measurements"] for record in _readable(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted; what was finished stays"
    (record,) = records(tmp_path)
    assert record["measurements"][0]["repetitions"]
    assert not record["complete"]
    assert left_on_board(here) == []
    assert list(temp.iterdir()) == []
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(here.folder) in _text(path)]


def _readable(folder: Path) -> list[dict]:
    try:
        return records(folder)
    except ValueError:  # claimed, not written yet
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_advise_measures_on_a_board(model: Path, here: Host, tmp_path: Path) -> None:
    code, out, err = edgeks_says(
        tmp_path, "advise", model, "--hosts", hosts_file(tmp_path, here), "--seconds", "1", "--threads", "1", "--json"
    )
    assert (code, err) == (0, "")
    advice = json.loads(out)
    assert advice["machine"]["host"] == "board"


def test_a_footprint_is_measured_on_a_board(model: Path, here: Host, tmp_path: Path) -> None:
    code, out, err = edgeks_says(
        tmp_path, "footprint", model, "--measure", "--hosts", hosts_file(tmp_path, here), "--json"
    )
    assert (code, err) == (0, "")
    assert all(row["measured"] for row in json.loads(out)["ram"])
    assert left_on_board(here) == []
