"""Records: read back as they were written, with the keys of the page and no secret; what is hostile is refused."""

import dataclasses
import functools
import json
import os
import re
import tempfile
from pathlib import Path

import bench_records as records
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tflite_bench import network as tflite_network

from edgeks.bench import record as record_module
from edgeks.bench.compare import compare
from edgeks.bench.local import LocalMachine
from edgeks.bench.measure import measure
from edgeks.bench.measurement import Effort, Job
from edgeks.bench.plain_data import PlainDataError
from edgeks.bench.record import (
    RUNNING,
    SCHEMA,
    Failure,
    dump,
    from_json,
    load_record,
    make_record,
    stored_files,
    to_json,
    without_password,
)
from edgeks.board.host import Host
from edgeks.errors import DataError
from edgeks.target import load_target

PAGE = Path(__file__).parents[2] / "docs" / "bench_schema.md"
SHORT = Effort(processes=3, runs=3, seconds=0.0, warmup=1, profile=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def onnx_path(folder):
    return records.network(folder / "net.onnx", 4)


@pytest.fixture(scope="module")
def tflite_path(folder):
    return tflite_network(folder / "net.tflite")


@pytest.fixture(scope="module")
def real(onnx_path, folder):
    """What the harness itself measures here: a comparison of two numbers of threads, with inputs from a file."""
    np.save(folder / "in.npy", np.ones((1, 3, 16, 16), np.float32))
    job = Job(onnx_path, records.TARGET, "onnxruntime", 1, inputs=folder / "in.npy")
    found = compare(job, dataclasses.replace(job, threads=2), LocalMachine(), LocalMachine(), SHORT)
    return make_record([], [found], command=["edgeks", "bench", str(onnx_path), "--threads", "1,2"])


def written(record, path):
    path.write_text(dump(record))
    return path


def test_a_record_of_real_processes_comes_back_the_same(real, tmp_path):
    back = load_record(written(real, tmp_path / "record.json"))
    assert back == real
    assert dump(back) == dump(real)
    (comparison,) = back.comparisons
    assert comparison.a is back.entries[0].measurement and comparison.b is back.entries[1].measurement
    assert [len(entry.measurement.repetitions) for entry in back.entries] == [3, 3]
    assert back.entries[0].latency == back.entries[0].measurement.latency
    assert back.entries[0].inputs_file.bytes == (Path(back.entries[0].inputs_file.path)).stat().st_size


def test_a_record_of_tflite_comes_back_the_same(tflite_path, tmp_path):
    job = Job(tflite_path, load_target("tflite"), "litert-compiled", 1)
    record = make_record([measure(job, LocalMachine(), dataclasses.replace(SHORT, processes=1))])
    back = load_record(written(record, tmp_path / "record.json"))
    assert back == record
    assert back.entries[0].measurement.repetitions[0].session["weight_cache"] == "warm"


def documented():
    """Keys of the page: those of a table are below the key that its heading names."""
    prefix = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            prefix = line.split("`")[1] + "." if "`" in line else ""
        elif row := re.match(r"^\| `([^`]+)` \|", line):
            yield f"{prefix}{row.group(1)}"


NAMED = {"repetitions[].inputs.": "<input>", ".unknown.": "<reading>", "machine_facts.": "<fact>"}


def keys_of(value, prefix=""):
    """Keys of a record as the page names them; what a fact or a target holds is not listed."""
    if isinstance(value, dict):
        name = next((name for end, name in NAMED.items() if prefix.endswith(end)), None)
        for key, inner in value.items():
            yield f"{prefix}{name or key}"
            if name != "<fact>" and key != "target":
                yield from keys_of(inner, f"{prefix}{name or key}.")
    elif isinstance(value, list):
        for one in value:
            yield from keys_of(one, f"{prefix[:-1]}[].")


def test_records_have_exactly_the_documented_keys(real, onnx_path, tflite_path):
    job = Job(tflite_path, load_target("tflite"), "litert-compiled", 1)
    other = make_record([measure(job, LocalMachine(), dataclasses.replace(SHORT, processes=1))])
    found = {key for one in (real, other, records.fleet(onnx_path)) for key in keys_of(json.loads(dump(one)))}
    assert SCHEMA in PAGE.read_text()
    assert found == {key for key in documented() if not key.startswith("history.")}
    assert len(list(documented())) == len(set(documented()))


def test_the_files_are_told_by_their_digests_external_data_too(tmp_path):
    weight = onnx.helper.make_tensor("w", 1, [4, 3, 1, 1], np.ones(12, np.float32).tobytes(), raw=True)
    path = tmp_path / "net.onnx"
    text = '<ir_version: 10, opset_import: ["": 20]> net (float[N,3,4,4] x) => (float[N,4,4,4] y) { y = Conv(x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(weight)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    files = stored_files(path)
    assert [Path(file.path).name for file in files] == ["net.onnx", "net.data"]
    assert [file.bytes for file in files] == [path.stat().st_size, 48]
    (tmp_path / "net.data").write_bytes(np.full(12, 2, np.float32).tobytes())
    assert stored_files(path)[1].sha256 != files[1].sha256
    assert stored_files(path)[0] == files[0]
    path.write_bytes(b"what ONNX Runtime reads, edgeks may not")
    assert [file.bytes for file in stored_files(path)] == [39]


def test_no_secret_is_kept(onnx_path):
    text = dump(records.fleet(onnx_path))
    assert "secret" not in text
    assert "ssh://pi:\\u2026@pi4.lan:2222" in text
    host = Host("b", "pi@b", ("-oProxyCommand=secret", "-o", "ProxyCommand secret", "-F", "secret", "-p", "22", "-v"))
    made = make_record([records.board(onnx_path, "b")], hosts=[host])
    assert made.entries[0].host.options == ("…", "-o", "ProxyCommand=…", "-F", "…", "-p", "22", "-v")
    assert without_password("--token=abc") == "--token=…"
    assert without_password("net.onnx") == "net.onnx"
    assert without_password("ssh://pi@board:22") == "ssh://pi@board:22"


def test_an_emulated_machine_has_no_latency(onnx_path):
    entry = records.fleet(onnx_path).entries[2]
    assert entry.measurement.is_emulated and entry.latency is None and entry.p50_interval is None
    assert entry.ram is not None


def test_partial_results_are_a_record(onnx_path, tmp_path):
    full = records.measurement(onnx_path)
    begun = dataclasses.replace(full, repetitions=full.repetitions[:1], ops=None)
    nothing = dataclasses.replace(full, repetitions=())
    for part in (begun, nothing):
        record = make_record([part], failures=[Failure("local", part.job.name, RUNNING)])
        assert not record.is_complete
        back = load_record(written(record, tmp_path / "part.json"))
        assert back == record and not json.loads(dump(back))["complete"]
    assert make_record([nothing]).entries[0].latency is None
    assert load_record(written(make_record([]), tmp_path / "none.json")).entries == ()


def refused(text, path):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        load_record(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and len(message) < len(str(path)) + 400
    return message


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "3", '"x"', "\ufeff{}", "[" * 100_000, b"\xff\xfe", b"\x00" * 1000),
        *('{"schema": "edgeks.bench/1"}', f'{{"schema": "{SCHEMA}"}}', '{"schema": ["' + "x" * 10_000 + '"]}'),
        f'{{"schema": "{SCHEMA}", "measurements": 3, "comparisons": []}}',
        f'{{"schema": "{SCHEMA}", "measurements": [{{}}], "comparisons": []}}',
        f'{{"schema": "{SCHEMA}", "measurements": [], "comparisons": [{{"a": 0, "b": 1}}]}}',
        '{"a": ' + "9" * 10_000 + "}",
    ],
    ids=range(17),
)
def test_what_is_no_record_is_refused_in_one_line(text, tmp_path):
    refused(text, tmp_path / "record.json")


def test_damage_is_named(onnx_path, tmp_path):
    path = tmp_path / "record.json"
    whole = dump(records.against(onnx_path, onnx_path))
    assert "not all of it" in refused(whole[: len(whole) // 2], path)

    def spoilt(change):
        data = json.loads(whole)
        change(data)
        return refused(json.dumps(data), path)

    first = "measurements[0]"
    assert f"{first}.repetitions[1].samples_ms[3] is 'fast'; legal: a number" in spoilt(
        lambda d: d["measurements"][0]["repetitions"][1]["samples_ms"].__setitem__(3, "fast")
    )
    assert f"{first}.job.threads is True; legal: a whole number" in spoilt(
        lambda d: d["measurements"][0]["job"].update(threads=True)
    )
    assert f"{first}.job.runtime is missing" in spoilt(lambda d: d["measurements"][0]["job"].pop("runtime"))
    assert "comparisons[0].verdict is 'fast'; legal: faster, slower, no difference shown" in spoilt(
        lambda d: d["comparisons"][0].update(verdict="fast")
    )
    assert "comparisons[0].b is 7; legal: the index of a measurement" in spoilt(
        lambda d: d["comparisons"][0].update(b=7)
    )
    assert f"{first}.latency.p50_ms" in spoilt(lambda d: d["measurements"][0]["latency"].update(p50_ms=[1]))
    assert "no finite number" in refused(whole.replace('"ratio":0.83', '"ratio":1e999'), path)
    assert "no finite number" in refused(whole.replace('"ratio":0.83', '"ratio":NaN'), path)
    assert "is missing" in spoilt(lambda d: d["measurements"][0].pop("is_emulated"))


def test_a_key_that_is_not_known_yet_is_left_alone(onnx_path):
    record = records.single(onnx_path)
    data = to_json(record)
    data["weather"] = data["measurements"][0]["weather"] = "rain"
    assert from_json(data) == record


def test_files_that_are_missing_large_or_no_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="No such file"):
        load_record(tmp_path / "none.json")
    with pytest.raises(DataError, match="directory"):
        load_record(tmp_path)
    path = tmp_path / "large.json"
    path.touch()
    os.truncate(path, record_module.MAX_BYTES + 1)
    with pytest.raises(DataError, match="268,435,457 bytes; a record takes up to 268,435,456"):
        load_record(path)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(where=st.integers(0, 10_000), value=plain)
def test_any_value_anywhere_is_a_record_or_one_line(where, value):
    data = json.loads(template())
    places = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(data)
    node, key = places[where % len(places)]
    node[key] = value
    try:
        record = from_json(data)
    except PlainDataError:
        return
    assert from_json(to_json(record)) == record or "nan" in repr(value)


@functools.cache
def template():
    """A comparison of few samples."""
    with tempfile.TemporaryDirectory() as name:
        path = records.network(Path(name) / "net.onnx")
        data = to_json(records.against(path, path))
    for measurement in data["measurements"]:
        measurement["ops"] = measurement["ops"][:1]
        measurement["repetitions"] = measurement["repetitions"][:1]
        measurement["repetitions"][0] |= {"samples_ms": [0.1], "states": measurement["repetitions"][0]["states"][:1]}
    return json.dumps(data)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"cannot be read \(a device or a pipe\)"):
        load_record(tmp_path / "pipe.json")
