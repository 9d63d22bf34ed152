"""The report answers first, fits 100 columns, and says whether the target's budgets hold; the JSON matches its page."""

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small_graphs as graphs
from rich.console import Console

from edgeks.audit.footprint import footprint
from edgeks.audit.report import SCHEMA, render, to_json
from edgeks.errors import BudgetExceeded
from edgeks.target import load_target

PAGE = Path(__file__).parents[2] / "docs" / "footprint_schema.md"


@pytest.fixture
def path(tmp_path):
    return graphs.save(graphs.fp32_shared(), tmp_path / "net.onnx")


def text_of(result, width=100):
    console = Console(file=io.StringIO(), width=width)
    render(result, console)
    return console.file.getvalue()


def budgets(**bytes_of):
    return dataclasses.replace(load_target("rpi-zero-2w"), **bytes_of)


def test_answer_comes_first(path):
    first = " ".join(text_of(footprint(path)).split())
    assert first.startswith("net.onnx: 4.1 kB in flash, 2 kernels for 5 layers; sharing saves 6.9 kB; peak activations")


def long_names():
    proto = graphs.fp32_shared(12)
    for node in proto.graph.node:
        node.name = f"backbone.stage.with.a.very.long.name.that.goes.on.and.on.{node.name}"
        for index, name in enumerate(node.input):
            if name == "kernel":
                node.input[index] = "kernel" * 30
    proto.graph.initializer[0].name = "kernel" * 30
    return proto


@pytest.mark.parametrize(
    "build", [graphs.fp32_shared, graphs.qdq, graphs.qoperator, graphs.loop, graphs.public_chain, long_names]
)
@pytest.mark.parametrize("width", [60, 100, 200])
def test_never_wider_than_the_console_or_100_columns(build, width, tmp_path):
    result = footprint(graphs.save(build(), tmp_path / "net.onnx"), load_target("rpi-zero-2w"))
    assert max(map(len, text_of(result, width).splitlines())) <= min(width, 100)


@pytest.mark.parametrize("name", ["[/x][bold]", "\x1b[2J\x1b]0;title\x07", "[link=http://a]b"])
def test_names_in_a_file_do_not_steer_the_terminal(name, tmp_path):
    proto = graphs.fp32_shared()
    for node in proto.graph.node:
        node.name = f"{name}{node.name}"
        node.input[:] = [name if value == "kernel" else value for value in node.input]
    proto.graph.initializer[0].name = name
    text = text_of(footprint(graphs.save(proto, tmp_path / "net.onnx")))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert name.replace("\x1b", "�").replace("\x07", "�")[:20] in text


def test_budgets_that_hold(path):
    result = footprint(path, load_target("rpi-zero-2w"))
    assert result.fits
    result.require_fit()
    assert [check.resource for check in result.budgets] == ["flash", "ram"]
    assert "fits rpi-zero-2w" in text_of(result)
    assert result.ram_bytes == result.flash.constant_bytes + result.arena.peak.peak_bytes


@pytest.mark.parametrize(("resource", "key"), [("flash", "flash_budget_bytes"), ("ram", "ram_budget_bytes")])
def test_budgets_that_do_not_hold(resource, key, path):
    needed = next(check for check in footprint(path, budgets()).budgets if check.resource == resource).needed_bytes
    assert footprint(path, budgets(**{key: needed})).fits
    result = footprint(path, budgets(**{key: needed - 1}))
    assert not result.fits
    assert "does not fit rpi-zero-2w" in text_of(result)
    with pytest.raises(BudgetExceeded, match=f"{resource} {needed:,} bytes of {needed - 1:,}"):
        result.require_fit()


def test_no_budget_and_unknown_need_are_no_failure(path, tmp_path):
    assert footprint(path, load_target("onnx")).fits
    nodes = [graphs.helper.make_node("Relu", ["x"], ["y"], "relu")]
    proto = graphs.model(nodes, [], 1, None, input_shape=(8, "height", 6))
    result = footprint(graphs.save(proto, tmp_path / "open.onnx"), budgets(ram_budget_bytes=1))
    assert result.fits
    assert "unknown" in text_of(result)


def test_scaled_copies_are_called_lost_sharing(tmp_path):
    result = footprint(graphs.save(graphs.public_chain(), tmp_path / "net.onnx"))
    assert "sharing lost: 4 stored kernels are 1 up to a factor per channel" in " ".join(text_of(result).split())


def keys_of(value, prefix=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from keys_of(inner, f"{prefix}{key}.")
    elif isinstance(value, list) and value:
        yield from keys_of(value[0], f"{prefix[:-1]}[].")


@pytest.mark.parametrize("build", [graphs.fp32_shared, graphs.public_chain])
def test_json_has_exactly_the_documented_keys(build, tmp_path):
    path = graphs.save(build(), tmp_path / "net.onnx")
    data = json.loads(json.dumps(to_json(footprint(path, load_target("rpi-zero-2w")))))
    assert data["schema"] == SCHEMA
    documented = set(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))
    found = set(keys_of(data))
    assert found <= documented
    missing = documented - found
    empty = {"copies[].", "sharing_groups[].", "notes[]."}
    assert all(any(part in key for part in empty) for key in missing)


def test_it_starts_without_torch_and_onnxruntime(path):
    code = (
        "import sys; from pathlib import Path; from edgeks.audit.report import to_json; "
        "from edgeks.audit.footprint import footprint; import edgeks.audit.proof; "
        f"to_json(footprint(Path({str(path)!r}))); "
        "print([name for name in ('torch', 'onnxruntime', 'onnx_ir') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
