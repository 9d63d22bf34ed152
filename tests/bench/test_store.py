"""Records of a folder: one file per run, none overwritten, what is damaged named, each run beside the one before."""

import dataclasses
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import bench_records as records
import pytest
from rich.console import Console
from test_record import documented, keys_of

from edgeks.bench.history_table import render_history, to_json
from edgeks.bench.record import RUNNING, Failure, load_record, make_record
from edgeks.bench.store import claim, find, history, record_id, save
from edgeks.errors import DataError, OutputError

NOW = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return records.network(tmp_path_factory.mktemp("networks") / "net.onnx", 4)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "bench"


def at(made, day, **changes):
    return dataclasses.replace(made, started=f"2026-11-{day:02}T10:00:00+00:00", **changes)


def keep(folder, *measurements, **options):
    file = claim(folder, "net", measurements[0].machine if measurements else "local")
    save(file, make_record(measurements, **options))
    return file


def printed(found, width=100):
    console = Console(file=io.StringIO(), width=width)
    render_history(found, console)
    return console.file.getvalue()


def test_files_are_named_by_time_file_and_machine_and_never_taken_twice(folder):
    first, second = claim(folder, "net", "local", NOW), claim(folder, "net", "local", NOW)
    assert [first.name, second.name] == ["20261120T100000Z_net_local.json", "20261120T100000Z_net_local_2.json"]
    odd = claim(folder, "../a b\n/ü", ".." + "x" * 300, NOW)
    assert odd.parent == folder and re.fullmatch(r"20261120T100000Z_a-b_x{60}\.json", odd.name)
    assert claim(folder, "", "/", NOW).name == "20261120T100000Z_unnamed_unnamed.json"
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: claim(folder, "many", "local", NOW), range(40)))
    assert len(set(names)) == 40


def test_what_was_found_so_far_is_replaced_whole(folder, path):
    made = records.measurement(path)
    file = claim(folder, "net", "local")
    begun = dataclasses.replace(made, repetitions=made.repetitions[:1])
    save(file, make_record([begun], failures=[Failure("local", "net", RUNNING)]))
    assert not load_record(file).is_complete
    assert load_record(file).entries[0].measurement == begun
    save(file, make_record([made]))
    assert load_record(file).is_complete
    assert [entry.name for entry in folder.iterdir()] == [file.name]


def test_a_folder_that_cannot_be_made(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="records cannot be kept there"):
        claim(tmp_path / "file" / "bench", "net", "local")
    with pytest.raises(OutputError, match="does not exist; create it"):
        save(tmp_path / "file" / "x.json", make_record([]))


def test_an_empty_folder_and_none_at_all(folder):
    assert history(folder) == history(folder / "none")
    assert printed(history(folder)).strip() == "no benchmark is recorded there"


def test_each_run_beside_the_one_before_that_is_like_it(folder, path):
    made = records.measurement(path)
    fixed = tuple(dataclasses.replace(one, samples_ms=(1.0, 1.01) * 20) for one in made.repetitions)
    made = dataclasses.replace(made, repetitions=fixed)
    keep(folder, at(made, 1))
    keep(folder, at(records.slower(made, 1.5), 2))
    keep(folder, at(made, 3, machine="pi4", machine_facts=records.BOARD))  # another machine
    keep(folder, at(made, 4, job=dataclasses.replace(made.job, threads=2)))  # other options
    keep(folder, at(records.disturbed(records.slower(made, 9.0), "it was hot"), 5))  # does not count
    keep(folder, at(made, 6, is_emulated=True))
    keep(folder, at(records.slower(made, 1.501), 7))
    rows = history(folder).rows
    assert [row.change and round(row.change, 3) for row in rows] == [None, 0.5, None, None, 5.0, None, 0.001]
    assert [row.is_shown for row in rows] == [False, True, False, False, True, False, False]
    text = printed(history(folder))
    for line, (day, cells) in zip(
        [line for line in text.splitlines() if line.startswith("2026")],
        [(1, "yes"), (2, "+50.0 %"), (3, "pi4"), (4, "×2"), (5, "no"), (6, "emulated"), (7, "~+0.1 %")],
        strict=True,
    ):
        assert line.startswith(f"2026-11-{day:02} 10:00") and cells in line, line
    assert not re.search(r"emulated +\d", text)
    assert "~: the intervals meet" in text


def test_a_file_that_has_changed_since(folder, tmp_path):
    path = records.network(tmp_path / "net.onnx")
    made = records.measurement(path)
    keep(folder, at(made, 1))
    records.network(path, 6)
    keep(folder, at(made, 2))
    assert [row.file_changed for row in history(folder).rows] == [False, True]
    assert "*: the file has changed since" in printed(history(folder))


def test_one_file_alone_comparisons_and_runs_that_failed(folder, path, tmp_path):
    other = records.network(tmp_path / "lean.onnx")
    save(claim(folder, "net-vs-lean", "local"), records.against(path, other))
    save(claim(folder, "net", "fleet"), records.fleet(path))
    keep(folder, failures=[Failure("pi5", name, "pi5: the disk is full") for name in ("net.onnx", "")])
    assert len(history(folder).rows) == 5
    assert {row.entry.measurement.job.path.name for row in history(folder, "lean.onnx").rows} == {"lean.onnx"}
    assert history(folder, "models/net.onnx").rows == history(folder, "net.onnx").rows
    text = " ".join(printed(history(folder)).split())
    assert "lean.onnx, onnxruntime, 1 thread against net.onnx, onnxruntime, 1 thread: faster" in text
    assert text.count("the disk is full") == text.count("nothing was measured: pi5: the disk is full") == 1
    (comparison,) = records.against(path, other).comparisons
    invalid = dataclasses.replace(comparison, taints=("others used the CPU",))
    save(claim(folder, "invalid", "local"), make_record([], [invalid]))
    assert [row.verdict for row in history(folder, "lean.onnx").rows] == ["faster", "not decided"]
    assert text.count("not finished: pi5: port 22") == 1


def test_damaged_records_are_named_and_skipped(folder, path):
    good = keep(folder, records.measurement(path))
    (folder / "a.json").write_text("{")
    (folder / "b.json").touch()
    (folder / "c.json").write_text(json.dumps({"schema": "edgeks.bench/1"}))
    (folder / "d.json").mkdir()
    (folder / "notes.txt").write_text("not a record")
    found = history(folder)
    assert [row.path for row in found.rows] == [good]
    assert [line.split(": ")[0] for line in found.damaged] == [str(folder / f"{name}.json") for name in "abcd"]
    assert printed(found).count("left out: ") == 4


def test_a_record_is_found_by_its_id(folder, path):
    files = [keep(folder, records.measurement(path)) for _ in range(3)]
    assert len({record_id(file) for file in files}) == 3
    assert find(folder, record_id(files[1])) == files[1]
    for identifier in ("nothing", "", "../x"):
        with pytest.raises(DataError, match="no record has this id"):
            find(folder, identifier)


def test_the_json_has_the_documented_keys(folder, path):
    keep(folder, records.measurement(path))
    keep(folder, failures=[Failure("pi5", "net.onnx", "no")])
    found = json.loads(json.dumps(to_json(history(folder))))
    assert {f"history.{key}" for key in keys_of(found)} == {key for key in documented() if key.startswith("history.")}
    assert found["rows"][0]["p50_ms"] == records.measurement(path).latency.p50_ms


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_fits(folder, path, width):
    long = path.with_name(f"{'a_long_name_' * 8}.onnx")
    long.write_bytes(path.read_bytes())
    made = records.measurement(path)
    keep(folder, made)
    keep(folder, dataclasses.replace(made, job=dataclasses.replace(made.job, path=long), machine="a-machine-of-a-name"))
    lines = printed(history(folder), width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    assert sum(line.startswith("2026-11-20 10:00") for line in lines) == 2


def test_hostile_text_does_not_steer_the_terminal(folder, path):
    made = dataclasses.replace(records.measurement(path), machine="\x1b[31m[bold]pi\u202e", started="\x1b]0;x\x07")
    keep(folder, made, failures=[Failure("a", "b", "\x1b[2J[red]")])
    text = printed(history(folder))
    assert not re.search("[\x1b\x07\u202e]", text)
    assert "[bold]" in text and "[red]" in text
